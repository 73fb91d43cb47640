"""What the four systems know of a generative network: a backend, and nothing beyond it.

The bundled composer is one backend; published StyleGAN2 networks with an encoder become another.
Methods use what `Backend` has and nothing else. Pools, recipes and the networks that go with the composer
(features, reader, swapper) are written for `ComposerBackend`.

Assumes   pictures are wide crops, RGB -1..1; points in units of the crop's side.
Sources   design section 7.
Checked   tests/networks/test_backend.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from moretta.networks.attributes import KEPT, AttributeEncoder, bounded
from moretta.networks.identity import cut
from moretta.networks.pool import random_identities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moretta.networks.composer import Composer, Layer
    from moretta.networks.identity import Identity
    from moretta.networks.pool import Identities
    from moretta.networks.prior import Prior
    from moretta.records import Crop, Edited, FaceEdit, Pixels


def pictures_of(crops: Sequence[Pixels], device: str = "cpu") -> torch.Tensor:
    """Crops of one size (height, width, 3), 0..255, as (n, 3, height, width), -1..1."""
    levels = torch.from_numpy(np.stack(crops)).to(device)
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1


def pixels_of(pictures: torch.Tensor) -> list[Pixels]:
    """Pictures (n, 3, height, width), clamped to -1..1 and rounded, as crops (height, width, 3)."""
    levels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte()
    return [np.ascontiguousarray(one) for one in levels.permute(0, 2, 3, 1).cpu().numpy()]


@dataclass(frozen=True, slots=True, eq=False)
class Begun:
    """What a drawing leaves behind for variants of it: a backend's own business."""

    maps: list[torch.Tensor]
    entering: list[torch.Tensor]  # what enters each row

    def of(self, which: torch.Tensor) -> Begun:
        """Return what is kept of some of the faces that were drawn together, by their places."""
        return Begun([one[which] for one in self.maps], [one[which] for one in self.entering])


def noise_of(seeds: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Noise of attribute codes, (n, 64) standard normal: each face's from its own seed."""
    drawn = [np.random.default_rng(seed).standard_normal(64) for seed in seeds]
    return torch.from_numpy(np.stack(drawn)).to(like)


def by_batches(edit: FaceEdit, size: int = 16) -> FaceEdit:
    """Return the edit that takes any number of faces, `size` at a time."""

    def edited(crops: Sequence[Crop]) -> list[Edited]:
        return [
            one for start in range(0, len(crops), size) for one in edit(crops[start : start + size])
        ]

    return edited


class Backend(Protocol):
    """A generative network with its encoders."""

    @property
    def side(self) -> int:
        """Pixels of a crop's side."""

    @property
    def device(self) -> str:
        """Where its tensors are."""

    @property
    def layers(self) -> list[Layer]:
        """Rows of W+ and their channels in S."""

    @property
    def identity_rows(self) -> tuple[int, ...]:
        """Rows of W+ that carry identity more than attributes."""

    def identity(self, pictures: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side), (n, 5, 2) -> unit vectors (n, length); differentiable."""

    def attributes(self, pictures: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side) -> codes without noise; differentiable."""

    @property
    def prior(self) -> Prior:
        """What scenes, points and attribute codes are drawn from without a photo."""

    def known(self, pictures: torch.Tensor, noise: torch.Tensor, *, level: int) -> torch.Tensor:
        """Codes as a drawing may know them at a hardening level 0, 1 or 2; noise: as `noise_of`."""

    def rows(self, identity: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
        """Z to W+: (n, rows, latent)."""

    def truncated(
        self,
        rows: torch.Tensor,
        crowd: torch.Tensor,
        codes: torch.Tensor,
        truncation: torch.Tensor,
    ) -> torch.Tensor:
        """Draw rows towards the mean of a crowd's, (n, m, length), with the same codes."""

    def context(self, pictures: torch.Tensor) -> torch.Tensor:
        """What a drawing may see of a crop: its surroundings."""

    def draw(self, context: torch.Tensor, points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Draw (n, 3, side, side) float32; differentiable in all three."""

    def styles(self, rows: torch.Tensor) -> torch.Tensor:
        """W+ to S: (n, rows, latent) -> (n, sum of channels); affine, in the order of `layers`."""

    def draw_styles(
        self, context: torch.Tensor, points: torch.Tensor, styles: torch.Tensor
    ) -> torch.Tensor:
        """Draw from S: `draw(context, points, rows)` where styles are `styles(rows)`."""

    def begun(
        self, context: torch.Tensor, points: torch.Tensor, styles: torch.Tensor
    ) -> tuple[torch.Tensor, Begun]:
        """Draw one face from S and keep what `continued` needs to draw it again."""

    def continued(self, begun: Begun, styles: torch.Tensor, row: int) -> torch.Tensor:
        """Draw n variants of that face whose styles differ from its own in `row` and later ones only."""

    def composed(self, pictures: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Blend drawings into their crops: what a photo will show, at this size."""

    def redrawn(
        self,
        pictures: torch.Tensor,
        points: torch.Tensor,
        identities: torch.Tensor,
        codes: torch.Tensor,
        *,
        crowd: torch.Tensor | None = None,
        truncation: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw identities and codes into crops: what a photo will show; truncated where a crowd is given."""

    def seen(
        self, pictures: torch.Tensor, points: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor] | None]:
        """Identities as `identity` gives them, and dlib's stages if they came of the same pass."""

    def invert(
        self, pictures: torch.Tensor, points: torch.Tensor, *, steps: int = 0
    ) -> torch.Tensor:
        """Return the rows that draw these pictures, the better the more steps."""


#: Rows of the composer's W+ that carry identity: see docs/falco.md, benchmarks/falco_rows.py.
IDENTITY_ROWS = (3, 4, 5, 6)


@dataclass(frozen=True, slots=True, eq=False)
class ComposerBackend:
    """The composer with its attribute encoder, the identity network and the prior."""

    composer: Composer
    encoder: AttributeEncoder
    identify: Identity
    prior: Prior
    device: str = "cpu"
    dtype: torch.dtype = torch.float32  # of convolutions in drawing and reading attributes

    @property
    def side(self) -> int:
        """Pixels of a crop's side."""
        return self.composer.shape.side

    @property
    def layers(self) -> list[Layer]:
        """Rows of W+ and their channels in S."""
        return self.composer.layers

    @property
    def identity_rows(self) -> tuple[int, ...]:
        """Rows of W+ that carry identity more than attributes."""
        return IDENTITY_ROWS

    def identity(self, pictures: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side), (n, 5, 2) -> unit vectors (n, 48); differentiable, float32."""
        return self.identify.of((pictures + 1) * 127.5, points * pictures.shape[-1])

    def attributes(self, pictures: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side) -> codes (n, 64) without noise: see `attributes.bounded`."""
        with self._fast():
            code: torch.Tensor = self.encoder(pictures)
        return code

    def known(self, pictures: torch.Tensor, noise: torch.Tensor, *, level: int) -> torch.Tensor:
        """Return what a drawing may know of the attributes at a hardening level 0, 1 or 2.

        noise: (n, 64) standard normal, from the face's own seed.
        """
        return bounded(self.attributes(pictures), noise, kept=KEPT[level])

    def rows(self, identity: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
        """Z to W+: (n, 48), (n, 64) -> (n, rows, latent)."""
        return self.composer.rows(identity, attributes)

    def truncated(
        self,
        rows: torch.Tensor,
        crowd: torch.Tensor,
        codes: torch.Tensor,
        truncation: torch.Tensor,
    ) -> torch.Tensor:
        """Draw rows (n, rows, latent) towards the mean of a crowd with the same codes, as StyleGAN does.

        crowd: (n, m, 48), the identities that are averaged in W; codes: (n, 64), those of `rows`.
        truncation: (n,) or one for all; 0 is the crowd's mean, 1 leaves the rows as they are (psi in
        Karras et al. 2019, appendix B).
        """
        n, m = crowd.shape[:2]
        everybody = self.rows(crowd.flatten(0, 1), codes.repeat_interleave(m, 0))
        mean = everybody.view(n, m, *rows.shape[1:]).mean(1)
        return torch.lerp(mean, rows, truncation.to(rows).view(-1, 1, 1))

    def context(self, pictures: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side) -> (n, 4, side, side): the face blanked, the mask last."""
        return self.composer.context(pictures)

    def draw(self, context: torch.Tensor, points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Draw (n, 3, side, side) float32, RGB about -1..1: to be blended by `composed`, then clamped."""
        with self._fast():
            return self.composer.draw(context, points, rows)

    def styles(self, rows: torch.Tensor) -> torch.Tensor:
        """W+ to S: (n, rows, latent) -> (n, sum of channels), in the order of `layers`."""
        return self.composer.scales(rows)

    def draw_styles(
        self, context: torch.Tensor, points: torch.Tensor, styles: torch.Tensor
    ) -> torch.Tensor:
        """Draw from S, as `draw` from W+: (n, 3, side, side) float32."""
        with self._fast():
            return self.composer.draw_scaled(context, points, styles)

    def begun(
        self, context: torch.Tensor, points: torch.Tensor, styles: torch.Tensor
    ) -> tuple[torch.Tensor, Begun]:
        """Draw from S, (n, 3, side, side), and keep what enters each row."""
        kept: list[torch.Tensor] = []
        with self._fast():
            maps = self.composer.seen(context, points)
            drawn = self.composer.drawn_from(maps, styles, kept=kept)
        return drawn, Begun(maps, kept)

    def continued(self, begun: Begun, styles: torch.Tensor, row: int) -> torch.Tensor:
        """Draw variants whose styles differ in `row` and later ones only, (n, 3, side, side).

        begun: of one face, for any number n of styles, or of n faces, one for each.
        """
        entering = begun.entering[row] if row else None
        with self._fast():
            return self.composer.drawn_from(begun.maps, styles, row=row, entering=entering)

    def composed(self, pictures: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Blend drawings into their crops through the mask."""
        return self.composer.composed(pictures, drawn)

    def redrawn(
        self,
        pictures: torch.Tensor,
        points: torch.Tensor,
        identities: torch.Tensor,
        codes: torch.Tensor,
        *,
        crowd: torch.Tensor | None = None,
        truncation: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw these identities (n, 48) and codes (n, 64) into crops: what a photo will show.

        crowd, truncation: as `truncated` takes them; without them nothing is truncated.
        """
        rows = self.rows(identities, codes)
        if crowd is not None and truncation is not None:
            rows = self.truncated(rows, crowd, codes, truncation)
        return self.composed(pictures, self.draw(self.context(pictures), points, rows))

    def invert(
        self, pictures: torch.Tensor, points: torch.Tensor, *, steps: int = 0, rate: float = 0.02
    ) -> torch.Tensor:
        """Return rows (n, rows, latent) whose drawing is the pictures' own face.

        They begin at the mapping of the crop's own identity and attributes. Each step of Adam lowers
        5 * L1 in the mask + 1 - cosine of the identity + L1 of dlib's stages (relative), all rows
        free. Faces do not influence each other: losses are summed.
        """
        with torch.no_grad():
            own = self.identity(pictures, points)
            start = self.rows(own, self.attributes(pictures))
            context = self.context(pictures)
            truth = self.seen(pictures, points)[1]
        if steps <= 0:
            return start
        rows = start.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([rows], lr=rate)
        mask = self.composer.mask
        for _ in range(steps):
            drawn = self.composed(pictures, self.draw(context, points, rows))
            vectors, stages = self.seen(drawn, points)
            loss = 5 * ((drawn - pictures).abs().mean((1, 2, 3)) / mask.mean()).sum()
            loss = loss + (1 - (vectors * own).sum(1)).sum()
            for stage, wanted in zip(stages, truth, strict=True):
                gap = (stage - wanted).abs().mean((1, 2, 3)) / wanted.abs().mean((1, 2, 3))
                loss = loss + gap.sum() / len(stages)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return rows.detach()

    def samples(
        self,
        count: int,
        seed: int,
        *,
        truncation: float = 0.7,
        start: int = 0,
        batch: int = 16,
        crowds: Callable[[Identities], Identities] | None = None,
    ) -> Iterator[tuple[int, int, tuple[torch.Tensor, ...]]]:
        """Draw synthetic faces from the prior, without any photo, a batch at a time.

        Yields the first face's number, the one after the last, and (pictures (n, 3, side, side), points
        (n, 5, 2), rows, identities (n, 48), codes (n, 64)). The first faces of a larger count are those
        of a smaller one, to the bit where `batch` is the same. start: the first face to draw, a multiple
        of `batch`. truncation: 0 is the mean scene and code, 1 as varied as photos. crowds: (n, 48) ->
        (n, m, 48), towards whose mean each row is truncated too; without it only scenes and codes are.
        """
        mask = self.composer.mask
        whole = -(-count // batch) * batch  # sums of fewer rows round otherwise
        everybody = random_identities(whole, seed)
        drawn = self.prior.sample(whole, seed, truncation=truncation)
        for first in range(start, whole, batch):
            end = first + batch
            identities = torch.from_numpy(everybody[first:end]).to(self.device)
            codes, points, scenes = (part[first:end].to(self.device) for part in drawn)
            contexts = self.prior.contexts(scenes, mask)
            rows = self.rows(identities, codes)
            if crowds is not None and truncation < 1:
                crowd = torch.from_numpy(crowds(everybody[first:end])).to(identities)
                rows = self.truncated(rows, crowd, codes, torch.tensor(truncation))
            faces = self.draw(contexts, points, rows)
            pictures = (contexts[:, :3] + faces * mask).clamp(-1, 1)
            last = min(end, count)
            made = (pictures, points, rows, identities, codes)
            yield first, last, tuple(part[: last - first] for part in made)

    def seen(
        self, pictures: torch.Tensor, points: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Identities (n, 48) and dlib's maps of three stages, in one pass; differentiable."""
        chips = cut((pictures + 1) * 127.5, points * pictures.shape[-1])
        return self.identify.embed(chips, features=True)

    def _fast(self) -> torch.autocast:
        low = self.dtype is torch.bfloat16
        return torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16, enabled=low)


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere it is emulated and slower.

    Dense convolutions on one thread, bfloat16 against float32: 27 to 103 GFLOP/s without, 225 to 104 with
    AVX-512 BF16 (AMD EPYC), more with AMX.
    """
    ways = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, way, bool)() for way in ways)
