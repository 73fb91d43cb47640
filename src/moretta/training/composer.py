"""The composer's recipe: surroundings, points, a bounded code and an identity in, a face out.

    moretta-train composer --config composer-128 --data ../shared/data/train --minutes 120

Each step draws a batch four ways: with the crop's own identity (to be reconstructed), with another
person's, with a uniformly random one and with a noised one (to be that person, and to look real). A
share of the batch are tight crops without surroundings, supervised where they hold something.

Sources  design sections 6 and 8; facts of the trial (what the weights of the losses were chosen by);
         facts of iFADIT 5.3 and 5.4 (probe, the channel that a file is); Mescheder et al. 2018 (R1);
         Ganin et al. 2016 (reversed gradient).
Checked  tests/training/test_composer.py: a smoke run on drawn faces; resumed equals straight.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from moretta.errors import UsageError, nearest
from moretta.faces.steady import VIEWS, points_seen
from moretta.networks.attributes import KEPT, AttributeEncoder, PointReader, bounded
from moretta.networks.composer import Composer, Dense, Shape, bent, placed, radius
from moretta.networks.critic import Critic
from moretta.networks.identity import Identity, cut
from moretta.networks.pool import BANDS, random_identities
from moretta.networks.prior import fit
from moretta.networks.traits import TraitsHead
from moretta.photos.files import write_whole
from moretta.photos.manifest import make_folder
from moretta.training import crops as sets
from moretta.training.run import Average, Clock, fast_dtype, load, note, refuse_output, reseed, save
from moretta.weights import load as weights

if TYPE_CHECKING:
    from moretta.faces.detect.search import Look

SHIPPED = ("composer", "attributes")  # what the package needs; the rest only trains


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Weights of the terms."""

    pixels: float = 5.0  # L1 in the mask, own identity
    coarse: float = 3.0  # L1 of 4x4 means
    perceptual: float = 1.5  # L1 of dlib's stages, each relative to its size
    own: float = 0.7  # 1 - cosine to the asked identity, own
    other: float = 0.6  # the same, other identities
    push: float = 0.3  # what the old identity keeps beyond chance
    rim: float = 2.0  # L1 beside the face, where the mask ends, other identities
    critic: float = 0.4  # whole crop, non-saturating
    patches: float = 0.4  # patches, weighted by the mask
    matching: float = 1.0  # the critic's features, own identity
    points: float = 8.0
    attributes: float = 0.3  # code read back from other identities' drawings
    reach: float = 1.0  # what the drawing exceeds -1..1 by: the rim of the mask would hide it
    probe: float = 0.2  # reversed gradient: identity read from the code
    penalty: float = 0.5  # R1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One configuration."""

    shape: Shape
    batch: int = 12  # wide crops a step; half of them with their own identity
    tight: int = 2  # tight crops a step
    rate: float = 4e-3  # of the composer; the critic's and the readers' are half and equal to it
    decay: float = 0.998  # of the moving average
    ramp: int = 300  # steps until consistency terms have their full weight, in a fresh run
    fits: float = 0.8  # share of other identities that fit in apparent age and gender
    whole_code: float = 0.5  # share of codes that are not cut
    jitter: float = 0.005  # of the points, in sides: about what is left of a detector's noise
    sheet_minutes: float = 5.0
    losses: Losses = field(default_factory=Losses)
    critic_widths: tuple[int, int, int, int] = (64, 112, 176, 224)


CONFIGS = {
    "smoke": Recipe(
        shape=Shape(side=64, widths=(16, 24, 32, 48), finish=8),
        batch=4,
        tight=1,
        critic_widths=(8, 12, 16, 24),
        decay=0.9,
        ramp=3,
    ),
    "composer-64": Recipe(shape=Shape.of(64)),
    "composer-96": Recipe(shape=Shape.of(96)),
    "composer-128": Recipe(shape=Shape.of(128)),
    "composer-256": Recipe(shape=Shape.of(256), batch=8, tight=1),
}


@dataclass(slots=True, kw_only=True, eq=False)
class Faces:
    """Wide crops with what is computed of them once."""

    crops: sets.Crops
    identities: torch.Tensor  # (n, 48)
    kinds: np.ndarray  # (n,) apparent band and gender as one number


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Batch:
    """One step's crops, wide ones first, with what is asked of each."""

    pictures: torch.Tensor  # (n, 3, side, side) -1..1
    points: torch.Tensor  # (n, 5, 2) in sides
    own: torch.Tensor  # (n, 48)
    stages: list[torch.Tensor]  # the recogniser's, of the photographed crops
    asked: torch.Tensor  # (n, 48)
    hidden: torch.Tensor  # (n, 1, side, side): what the composer may not read
    judged: torch.Tensor  # (n, 1, side, side): where a drawing is compared with the photograph
    faithful: torch.Tensor  # (n,) bool: asked is own
    wide: int  # how many are wide


class Probe(nn.Module):
    """Guesses the identity from the attribute code; its gradient is reversed on the way back."""

    def __init__(self, length: int, identity: int) -> None:
        super().__init__()
        self.first, self.second = Dense(length, 256), Dense(256, identity)

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """(n, length) -> unit vectors (n, identity)."""
        code = _Reversed.apply(code)  # type: ignore[no-untyped-call]
        return functional.normalize(self.second(bent(self.first(code))), dim=1)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return -gradients[0]


class Trainer:
    """Networks, optimisers and data of one run."""

    def __init__(
        self, recipe: Recipe, wide: sets.Crops, tight: sets.Crops | None, *, device: str, seed: int
    ) -> None:
        self.recipe, self.device, self.seed = recipe, device, seed
        self.dtype = fast_dtype(device)
        self.step = self.seen = 0
        self.seconds = 0.0
        self.identity = placed(
            Identity.from_tensors(weights.tensors("dlib"), weights.tensors("identity")), device
        )
        self.head = TraitsHead.from_tensors(weights.tensors("identity"))
        self.look = _detector()
        reseed(seed, 0)
        shape = recipe.shape
        self.networks = networks_of(recipe)
        for network in self.networks.values():
            placed(network, device)
        self.composer = self.networks["composer"]
        self.rim = _beside(shape.side).to(device)
        averaged = {"composer": Composer(shape), "attributes": AttributeEncoder(shape.attributes)}
        self.averaged: dict[str, nn.Module] = {
            name: placed(network, device) for name, network in averaged.items()
        }
        self.average = Average(self.networks, self.averaged)
        parts = {"drawing": ("composer", "attributes"), "critic": ("critic",)}
        parts |= {"reading": ("points", "probe")}
        self.optimisers = {
            name: torch.optim.Adam(
                [p for network in names for p in self.networks[network].parameters()],
                lr=recipe.rate,
                betas=(0.0 if name == "critic" else 0.5, 0.99),
            )
            for name, names in parts.items()
        }
        self.wide = self._faces(wide)
        self.tight = tight
        self._by_kind: dict[int, np.ndarray] = {
            int(kind): np.flatnonzero(self.wide.kinds[: wide.trained] == kind)
            for kind in np.unique(self.wide.kinds[: wide.trained])
        }
        pool = random_identities(20_000, 11)
        self._pool, self._pool_kinds = torch.from_numpy(pool), self._kinds(pool)

    def restart(self, path: Path) -> list[str]:
        """Take over what fits of a safetensors file of weights; return the names left fresh.

        The file may be of another side: convolutions do not care, and the critic's last view is
        interpolated.
        """
        states, fresh = fitting(path, self.networks, self.recipe)
        for name, network in self.networks.items():
            network.load_state_dict(states[name])
        self.average = Average(self.networks, self.averaged)
        self.step = max(self.step, self.recipe.ramp)  # its consistency terms are in force
        return fresh

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            **{name: part.state_dict() for name, part in self._parts().items()},
            "recipe": json.dumps(asdict(self.recipe)),
            "run": {"step": self.step, "seen": self.seen, "seconds": self.seconds},
            "seed": self.seed,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from `state`. Raises UsageError when it is another recipe's."""
        refuse_another(state, self.recipe)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        run = state["run"]
        self.step, self.seen, self.seconds = run["step"], run["seen"], run["seconds"]
        self.seed = state["seed"]

    def _parts(self) -> dict[str, Any]:
        """Everything with a state of its own, under names that do not clash."""
        return {
            **self.networks,
            **{f"optimiser {name}": part for name, part in self.optimisers.items()},
            **{f"averaged {name}": part for name, part in self.averaged.items()},
        }

    def export(self, folder: Path, name: str) -> None:
        """Write the averaged networks with their prior, and the float16 state a run can start from."""
        from safetensors.torch import save as packed

        half = {
            f"{part}.{key}": value.half().cpu().contiguous()
            for part, network in self.averaged.items()
            for key, value in network.state_dict().items()
        }
        rest = {
            f"{part}.{key}": value.half().cpu().contiguous()
            for part in ("points", "critic", "probe")
            for key, value in self.networks[part].state_dict().items()
        }
        shipped = {**half, **self._prior()}
        about = {"shape": json.dumps(asdict(self.recipe.shape)), "seen": str(self.seen)}
        write_whole(folder / f"{name}.safetensors", packed(shipped, about))
        write_whole(folder / f"{name}-start.safetensors", packed({**half, **rest}, about))

    @torch.no_grad()
    def _prior(self) -> dict[str, torch.Tensor]:
        """Fit what a face needs beside an identity when there is no photo: see networks.prior."""
        chosen = np.linspace(0, self.wide.crops.trained - 1, min(4000, self.wide.crops.trained))
        pictures, points = self._pick(self.wide.crops, chosen.astype(int), chosen < 0)
        codes = torch.cat([self.averaged["attributes"](part) for part in torch.split(pictures, 64)])
        composer: Any = self.averaged["composer"]
        return fit(codes.cpu(), points.cpu(), composer.context(pictures).cpu())

    # ---- data --------------------------------------------------------------------------------

    @torch.no_grad()
    def _faces(self, crops: sets.Crops) -> Faces:
        vectors = []
        for start in range(0, len(crops), 32):
            index = np.arange(start, min(start + 32, len(crops)))
            vectors.append(self._seen(*self._pick(crops, index, index < 0))[0].cpu())
        together = torch.cat(vectors)
        return Faces(crops=crops, identities=together, kinds=self._kinds(together.numpy()))

    @torch.no_grad()
    def _seen(
        self, pictures: torch.Tensor, points: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return identities (n, 48) and the recogniser's stages of photographed crops."""
        chips = cut((pictures + 1) * 127.5, points * self.recipe.shape.side)
        with self._fast():
            return self.identity.embed(chips, features=True)

    def _kinds(self, identities: np.ndarray) -> np.ndarray:
        bands, female = self.head.probabilities(identities)
        kinds: np.ndarray = bands.argmax(1) + len(BANDS) * (female >= 0.5)
        return kinds

    def _pick(
        self, crops: sets.Crops, index: np.ndarray, flipped: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pictures -1..1 and points in sides of chosen crops."""
        chosen = zip(index, flipped, strict=True)
        pixels = np.stack([crops.pixels[i][:, ::-1] if f else crops.pixels[i] for i, f in chosen])
        pictures = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        points = crops.points[index]
        points = np.where(flipped[:, None, None], sets.mirrored(points), points)
        return (
            pictures.contiguous(memory_format=torch.channels_last),
            torch.from_numpy(points).to(self.device),
        )

    def _asked(
        self, own: torch.Tensor, index: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, int]:
        """Replace the second half's identities: other people's, random, noised; most of them fit."""
        asked, keep = own.clone(), len(own) - len(own) // 2
        for i in range(keep, len(own)):
            kind = int(self.wide.kinds[index[i]]) if rng.uniform() < self.recipe.fits else None
            way = rng.choice(3, p=(0.375, 0.375, 0.25))  # another's, random, noised
            if way == 1:
                fitting = np.arange(len(self._pool)) if kind is None else self._of_kind(kind)
                asked[i] = self._pool[int(rng.choice(fitting))].to(asked)
                continue
            people = None if kind is None else self._by_kind.get(kind)
            other = rng.integers(self.wide.crops.trained) if people is None else rng.choice(people)
            asked[i] = self.wide.identities[int(other)].to(asked)
            if way == 2:
                noise = torch.from_numpy(random_identities(1, int(rng.integers(2**31)))[0])
                asked[i] += rng.uniform(0, 2) * noise.to(asked)
        return functional.normalize(asked, dim=1), keep

    def _of_kind(self, kind: int) -> np.ndarray:
        members = np.flatnonzero(self._pool_kinds == kind)
        return members if len(members) else np.arange(len(self._pool))

    # ---- one step ----------------------------------------------------------------------------

    def train_step(self, *, rate: float = 1.0) -> dict[str, float]:
        """Take one step; `rate` scales the learning rates. Returns the terms."""
        rng = reseed(self.seed, self.step)
        recipe, side = self.recipe, self.recipe.shape.side
        wide = self.wide.crops
        index = rng.integers(0, wide.trained, recipe.batch)
        pictures, points = self._pick(wide, index, rng.uniform(size=recipe.batch) < 0.5)
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * rate * (0.5 if name == "critic" else 1)
        composer: Any = self.composer
        hidden = judged = composer.mask.expand(recipe.batch, -1, -1, -1)
        together, where = pictures, points
        if self.tight is not None and recipe.tight:
            some = rng.integers(0, self.tight.trained, recipe.tight)
            more = self._pick(self.tight, some, rng.uniform(size=recipe.tight) < 0.5)
            together, where = torch.cat([pictures, more[0]]), torch.cat([points, more[1]])
            known = _square(side, self.tight.known).to(self.device).expand(recipe.tight, -1, -1, -1)
            hidden = torch.cat([hidden, torch.ones_like(known)])  # they have no surroundings
            judged = torch.cat([judged, known])
        own, stages = self._seen(together, where)
        asked, keep = self._asked(own[: recipe.batch], index, rng)
        faithful = torch.ones(len(together), dtype=torch.bool, device=self.device)
        faithful[keep : recipe.batch] = False
        batch = _Batch(
            pictures=together,
            points=where,
            own=own,
            stages=stages,
            asked=torch.cat([asked, own[recipe.batch :]]),
            hidden=hidden,
            judged=judged,
            faithful=faithful,
            wide=recipe.batch,
        )
        terms = self._draw(batch, rng)
        loss = sum(terms.pop("total"))
        fake = terms.pop("fake")
        self._apply("drawing", loss)
        self._train_readers(pictures, points, fake, terms)
        self._train_critic(pictures, fake, terms)
        self.average.follow(min(recipe.decay, (self.step + 1) / (self.step + 10)))
        self.step += 1
        self.seen += len(together)
        return {name: float(value.detach()) for name, value in terms.items()}

    def _draw(self, batch: _Batch, rng: np.random.Generator) -> dict[str, Any]:
        pictures, points, asked, wide = batch.pictures, batch.points, batch.asked, batch.wide
        faithful, own, hidden = batch.faithful, batch.own[:wide], batch.hidden
        recipe, weight, side = self.recipe, self.recipe.losses, self.recipe.shape.side
        composer: Any = self.composer
        networks: dict[str, Any] = self.networks
        ramp = min(1.0, self.step / recipe.ramp)
        with self._fast():
            code = networks["attributes"](pictures)
            kept = torch.from_numpy(self._kept(len(pictures), rng)).to(self.device)
            known = bounded(code, torch.randn_like(code), kept=kept)
            guess = networks["probe"](code)
            rows = composer.rows(asked, known)
            shaken = points + recipe.jitter * torch.randn_like(points)
            drawn = composer.draw(composer.context(pictures, hidden), shaken, rows, noisy=True)
            full = pictures * (1 - hidden) + drawn * hidden
            # a file is what others see: 8 bits, a codec, another size
            seen = through_file(full, rng)
            chips = cut((seen + 1) * 127.5, self._shaken(points, rng) * side)
            vectors, maps = self.identity.embed(chips, features=True)
        share = batch.judged.mean((1, 2, 3), keepdim=True)
        gap = (full - pictures) * batch.judged / share
        coarse = functional.avg_pool2d(gap, 4)
        gap_at_rim = (full - pictures) * self.rim / self.rim.mean()
        cosine = (vectors * asked).sum(1)
        others = ~faithful[:wide]
        terms: dict[str, Any] = {
            "pixels": gap[faithful].abs().mean(),
            "coarse": coarse[faithful].abs().mean(),
            "perceptual": _apart(
                [each[faithful] for each in maps], [each[faithful] for each in batch.stages]
            ),
            "cosine own": cosine[faithful].mean(),
            "cosine other": cosine[:wide][others].mean(),
            "push": functional.relu((vectors[:wide] * own).sum(1) - (asked[:wide] * own).sum(1))[
                others
            ].mean(),
            "rim": gap_at_rim[:wide][others].abs().mean(),
            "reach": functional.relu(drawn.abs() - 1).mean(),
            "probe": (guess[:wide] * own).sum(1).mean(),
        }
        for name in ("points", "critic"):
            self.networks[name].requires_grad_(False)
        with self._fast():
            terms["points"] = (networks["points"](full[:wide]) - points[:wide]).abs().mean()
            with torch.no_grad():
                code_before: torch.Tensor = self.averaged["attributes"](pictures[:wide])
            code_after = self.averaged["attributes"](full[:wide])
            whole, patches, features = networks["critic"](full[:wide])
            with torch.no_grad():
                _, _, truth = networks["critic"](pictures[:wide])
        terms["attributes"] = (code_after - code_before)[others].abs().mean()
        small = functional.adaptive_avg_pool2d(composer.mask, patches.shape[1:])[0]
        terms["critic"] = functional.softplus(-whole).mean()
        terms["patches"] = (functional.softplus(-patches) * small).sum((1, 2)).mean() / small.sum()
        like = faithful[:wide]
        terms["matching"] = _apart(
            [each[like] for each in features], [each[like] for each in truth], least=0.05
        )
        for name in ("points", "critic"):
            self.networks[name].requires_grad_(True)
        terms["total"] = [
            weight.pixels * terms["pixels"],
            weight.coarse * terms["coarse"],
            weight.perceptual * terms["perceptual"],
            weight.own * (1 - terms["cosine own"]),
            weight.other * (1 - terms["cosine other"]),
            weight.push * terms["push"],
            ramp * weight.points * terms["points"],
            ramp * weight.attributes * terms["attributes"],
            weight.rim * terms["rim"],
            weight.reach * terms["reach"],
            weight.probe * (1 - terms["probe"]),
            ramp * weight.critic * terms["critic"],
            ramp * weight.patches * terms["patches"],
            ramp * weight.matching * terms["matching"],
        ]
        terms["fake"] = full[:wide].detach()
        return terms

    def _train_readers(
        self,
        pictures: torch.Tensor,
        points: torch.Tensor,
        fake: torch.Tensor,
        terms: dict[str, Any],
    ) -> None:
        """The probe's gradient is there already; add that of the points.

        Of drawn faces the truth is what the detector sees, in one of the views: a reader that knows
        photographs alone is soon told what it wants to see.
        """
        marks, seen = self._marked(fake, points)
        with self._fast():
            error = (self.networks["points"](pictures) - points).abs().mean()
            gap = (self.networks["points"](fake) - marks).abs().mean((1, 2))
        drawn = (gap * seen).sum() / seen.sum().clamp(min=1)
        (error + drawn).backward()
        self.optimisers["reading"].step()
        self.optimisers["reading"].zero_grad(set_to_none=True)
        terms["points on photos"], terms["points on drawings"] = error.detach(), drawn.detach()
        off = (marks - points).abs().mean((1, 2))
        terms["points seen"] = (off * seen).sum() / seen.sum().clamp(min=1)

    def _marked(
        self, pictures: torch.Tensor, points: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the detector's points of drawn faces (n, 5, 2) and where it saw one (n,), 0 or 1."""
        if self.look is None:
            return points, torch.zeros(len(points), device=points.device)
        view = VIEWS[self.step % len(VIEWS)]
        levels = ((pictures.float() + 1) * 127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()
        found = [
            points_seen(np.ascontiguousarray(picture), where, self.look, view)
            for picture, where in zip(levels.numpy(), points.double().cpu().numpy(), strict=True)
        ]
        seen = torch.tensor([float(one is not None) for one in found])
        marks = [np.zeros((5, 2)) if one is None else one for one in found]
        return torch.from_numpy(np.stack(marks)).to(points), seen.to(points)

    def _train_critic(
        self,
        pictures: torch.Tensor,
        fake: torch.Tensor,
        terms: dict[str, Any],
    ) -> None:
        critic = self.networks["critic"]
        with self._fast():
            real_whole, real_patches, _ = critic(pictures)
            fake_whole, fake_patches, _ = critic(fake)
        composer: Any = self.composer
        small = functional.adaptive_avg_pool2d(composer.mask, real_patches.shape[1:])[0]
        inside = small / small.sum()
        loss = functional.softplus(-real_whole).mean() + functional.softplus(fake_whole).mean()
        loss = loss + (functional.softplus(-real_patches) * inside).sum((1, 2)).mean()
        loss = loss + (functional.softplus(fake_patches) * inside).sum((1, 2)).mean()
        self._apply("critic", loss)
        if self.step % 16 == 0:  # lazily, in full precision
            some = pictures[:8].clone().requires_grad_(True)
            whole, patches, _ = critic(some)
            (slope,) = torch.autograd.grad(
                whole.sum() + (patches * inside).sum(), some, create_graph=True
            )
            penalty = slope.square().sum((1, 2, 3)).mean()
            self._apply("critic", penalty * self.recipe.losses.penalty * 0.5 * 16)
            terms["penalty"] = penalty.detach()
        terms["real"], terms["fooled"] = real_whole.mean().detach(), fake_whole.mean().detach()

    def _apply(self, name: str, loss: torch.Tensor) -> None:
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    def _kept(self, count: int, rng: np.random.Generator) -> np.ndarray:
        length = self.recipe.shape.attributes
        cuts = rng.choice([0, 8, *KEPT[1:2], 32], size=count)
        kept: np.ndarray = np.where(rng.uniform(size=count) < self.recipe.whole_code, length, cuts)
        return kept

    @staticmethod
    def _shaken(points: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Move the recogniser's view a little, half of the time: no pattern may hang on one grid."""
        if rng.uniform() < 0.5:
            return points
        middle = points.mean(1, keepdim=True)
        scale = 1 + 0.04 * torch.randn(len(points), 1, 1, device=points.device)
        return middle + (points - middle) * scale + 0.015 * torch.randn_like(middle)

    def _fast(self) -> torch.autocast:
        return torch.autocast(
            self.device.split(":")[0], dtype=torch.bfloat16, enabled=self.dtype is torch.bfloat16
        )

    # ---- looking -----------------------------------------------------------------------------

    @torch.no_grad()
    def sheet(self, count: int = 12) -> Image.Image:
        """Rows: photo, own identity, another's that fits, random that fits, random, no attributes."""
        crops = self.wide.crops
        first = crops.trained if crops.held >= count else 0
        index = np.arange(first, min(first + count, len(crops)))
        pictures, points = self._pick(crops, index, index < 0)
        own = self.wide.identities[index].to(self.device)
        rng = np.random.default_rng(7)
        fitting = [
            self.wide.identities[int(rng.choice(self._by_kind.get(int(kind), index)))]
            for kind in self.wide.kinds[index]
        ]
        chosen = [
            self._pool[int(rng.choice(self._of_kind(int(k))))] for k in self.wide.kinds[index]
        ]
        random = torch.from_numpy(random_identities(len(index), 3)).to(self.device)
        composer: Any = self.averaged["composer"]
        with self._fast():
            code = self.averaged["attributes"](pictures)
            rows = [pictures]
            for asked, known in (
                (own, code),
                (torch.stack(fitting).to(self.device), code),
                (torch.stack(chosen).to(self.device), code),
                (random, code),
                (own, code * 0),
            ):
                drawn = composer.draw(
                    composer.context(pictures), points, composer.rows(asked, known)
                )
                rows.append(composer.composed(pictures, drawn))
        lines = [torch.cat(list(row.float()), 2) for row in rows]
        page = torch.cat(lines, 1).clamp(-1, 1).add(1).mul(127.5).round().byte()
        return Image.fromarray(page.permute(1, 2, 0).cpu().numpy())


def networks_of(recipe: Recipe) -> dict[str, nn.Module]:
    """Return fresh networks of a configuration, drawn from torch's seed."""
    shape = recipe.shape
    return {
        "composer": Composer(shape),
        "attributes": AttributeEncoder(shape.attributes),
        "points": PointReader(),
        "critic": Critic(shape.side, recipe.critic_widths),
        "probe": Probe(shape.attributes, shape.identity),
    }


def fitting(
    path: Path, networks: Mapping[str, nn.Module], recipe: Recipe
) -> tuple[dict[str, dict[str, torch.Tensor]], list[str]]:
    """Return the networks' states with what fits of a file of weights, and the names left as they are.

    Raises WeightsRejected for a damaged file, UsageError where nothing fits.
    """
    found = {name: torch.as_tensor(value) for name, value in weights.tensors(path).items()}
    states = {name: dict(network.state_dict()) for name, network in networks.items()}
    fresh = []
    for name, state in states.items():
        for key, value in state.items():
            given = found.get(f"{name}.{key}")
            if given is not None and f"{name}.{key}" == "critic.hidden.weight":
                given = _refitted(given.float(), value.shape[1], recipe.critic_widths[-1])
            if given is not None and given.shape == value.shape:
                state[key] = given.to(value)
            else:
                fresh.append(f"{name}.{key}")
    if len(fresh) == sum(map(len, states.values())):
        raise UsageError(
            f"{path} holds nothing that this configuration can begin from",
            hint="give a NAME-start.safetensors that moretta-train composer wrote",
        )
    return states, fresh


def refuse_another(state: Mapping[str, Any], recipe: Recipe) -> None:
    """Raise UsageError when a state to resume is of another configuration."""
    if state.get("recipe") != json.dumps(asdict(recipe)):
        raise UsageError(
            "the state to resume was made with another configuration",
            hint="give its --config, or another --output",
        )


def _detector() -> Look | None:
    """YuNet, or None without onnxruntime, as on a borrowed accelerator: then photographs alone teach."""
    if find_spec("onnxruntime") is None:
        return None
    from moretta.faces.detect import yunet

    return yunet.build("cpu", 1)


def _apart(
    maps: list[torch.Tensor], truth: list[torch.Tensor], *, least: float = 0.0
) -> torch.Tensor:
    """Mean L1 of feature maps, each relative to the size of what it should be."""
    parts = [
        (a.float() - b.float()).abs().mean() / (b.float().abs().mean() + least)
        for a, b in zip(maps, truth, strict=True)
    ]
    return torch.stack(parts).mean()


def through_file(pictures: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """What a file keeps of pictures -1..1: 8 bits, and mostly a codec, a smaller size or noise.

    The forward pass is the real thing, the gradient that of the identity (straight through), so
    there is no gap between the codec that was trained through and the one that users have.
    Facts of iFADIT 5.4.
    """
    way = rng.choice(4, p=(0.35, 0.35, 0.15, 0.15))
    with torch.no_grad():
        levels = ((pictures + 1) * 127.5).clamp(0, 255)
        if way == 2:
            side = pictures.shape[-1]
            small = functional.interpolate(
                levels, scale_factor=0.75, mode="bilinear", antialias=True, align_corners=False
            )
            levels = functional.interpolate(small, side, mode="bilinear", align_corners=False)
        elif way == 3:
            levels = (levels + torch.empty_like(levels).uniform_(-2, 2)).clamp(0, 255)
        levels = levels.round()
        if way == 1:
            quality = int(rng.integers(50, 96))
            levels = torch.stack([_jpeg(each, quality) for each in levels]).to(levels)
        kept = levels / 127.5 - 1
    return pictures + (kept - pictures).detach()


def _jpeg(levels: torch.Tensor, quality: int) -> torch.Tensor:
    file = io.BytesIO()
    array = levels.byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(np.ascontiguousarray(array)).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def _square(side: int, share: float) -> torch.Tensor:
    """(1, 1, side, side): 1 in the middle square of `share` of the side."""
    inner = round(side * share)
    start = (side - inner) // 2
    known = torch.zeros(1, 1, side, side)
    known[..., start : start + inner, start : start + inner] = 1
    return known


def _beside(side: int) -> torch.Tensor:
    """(side, side): 1 in the mask but beside the face, which ends at about 0.7 of the radius; else 0."""
    away = radius(side)
    return ((away - 0.72) / 0.08).clamp(0, 1) * (away < 1)


def _refitted(weight: torch.Tensor, inputs: int, channels: int) -> torch.Tensor:
    """Stretch a dense layer over a picture to a picture of another side; its sum keeps its size.

    One over other channels comes back as it is.
    """
    if weight.ndim != 2:
        return weight
    outputs, before = weight.shape[0], round((weight.shape[1] / channels) ** 0.5)
    after = round((inputs / channels) ** 0.5)
    if before == after or channels * before**2 != weight.shape[1]:
        return weight
    view = weight.view(outputs, channels, before, before)
    wider: torch.Tensor = functional.interpolate(view, after, mode="bilinear", align_corners=False)
    wider = wider * (before / after)
    return wider.reshape(outputs, inputs)


def recipe(name: str) -> Recipe:
    """Return a configuration by name. Raises UsageError with the nearest name."""
    if name not in CONFIGS:
        raise UsageError(f"there is no configuration {name!r}", hint=nearest(name, list(CONFIGS)))
    return CONFIGS[name]


def run(
    config: str,
    *,
    data: Path | None,
    out: Path,
    minutes: float,
    steps: int | None = None,
    start: Path | None = None,
    resume: bool = False,
    cool: bool = False,
    device: str = "cpu",
    seed: int = 0,
) -> Trainer:
    """Train for some minutes (or steps), then leave state, weights, sheet and log in `out`.

    data: a folder with wide.zip and, if there, faces-144.zip; None: drawn faces. start: weights to begin
    from when there is no state to resume. cool: lower the learning rate to a tenth in this call.
    Without data only "smoke" trains. Raises UsageError and WeightsRejected before any work, and
    before `out` is made, when something does not fit.
    """
    chosen = recipe(config)
    state_file = out / "state.pt"
    if state_file.exists() and not resume:
        raise UsageError(
            f"{out} holds a run already", hint="add --resume, or choose another --output"
        )
    if resume and not state_file.exists() and start is None:
        raise UsageError(f"{out} holds no run to resume", hint="leave --resume out")
    if data is None and config != "smoke":
        raise UsageError(
            f"{config} needs --data: only smoke trains on painted faces",
            hint="a folder with wide.zip and wide.csv; docs/training.md says how they are made",
        )
    refuse_output(out, folder=True)
    state = load(state_file, device) if state_file.exists() else None
    begun = start is not None and state is None
    if state is not None:
        refuse_another(state, chosen)
    if start is not None and begun:
        fitting(start, networks_of(chosen), chosen)
    elif start is not None:
        weights.tensors(start)  # a damaged file is refused though it is not used
    side = chosen.shape.side
    wide = sets.drawn(side, 64) if data is None else sets.wide(data, side)
    tight = None
    if data is None or (data / "faces-144.zip").exists():
        tight = sets.drawn(side, 16, seed=1) if data is None else sets.tight(data, side)
    if data is not None:
        make_folder(out)
        wide = sets.steadied(wide, out / "points-wide.npz")
        tight = tight and sets.steadied(tight, out / "points-tight.npz")
    trainer = Trainer(chosen, wide, tight, device=device, seed=seed)
    if state is not None:
        trainer.resume(state)
    fresh = trainer.restart(start) if start is not None and begun else []
    make_folder(out)
    if start is not None and begun:
        note(out / "log.jsonl", {"started from": start.name, "fresh": fresh})
    _loop(trainer, out, Clock(minutes=minutes, steps=steps), cool=cool)
    save(state_file, trainer.state())
    trainer.sheet().save(out / f"sheet-{trainer.seen:08d}.png")
    trainer.export(out, config)
    return trainer


def _loop(trainer: Trainer, out: Path, clock: Clock, *, cool: bool) -> None:
    smooth: dict[str, float] = {}
    noted = looked = last = time.monotonic()
    with clock.listening():
        while clock.goes_on():
            terms = trainer.train_step(rate=max(0.1, 1 - clock.share) if cool else 1.0)
            for name, value in terms.items():
                if not np.isfinite(value):
                    raise RuntimeError(f"{name} is {value} at step {trainer.step}")
                smooth[name] = 0.95 * smooth.get(name, value) + 0.05 * value
            now = time.monotonic()
            trainer.seconds += now - last
            last = now
            if now - noted > 60:
                noted = now
                line = {
                    "step": trainer.step,
                    "seen": trainer.seen,
                    "seconds": round(trainer.seconds),
                }
                note(out / "log.jsonl", line | {k: round(v, 4) for k, v in smooth.items()})
            if now - looked > trainer.recipe.sheet_minutes * 60:
                looked = now
                trainer.sheet().save(out / f"sheet-{trainer.seen:08d}.png")
                save(out / "state.pt", trainer.state())
