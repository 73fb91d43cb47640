"""Train the latent swapper of `styleid`: `moretta-train swapper --data FOLDER --output FILE`.

Faces are read from training crops, each gets a target as the method would choose one, and the code that
the swapper blends of both is drawn into the crop. What is seen there should be

- the target, and nobody near the face itself, by the identity network;
- the photo in everything else: columns of the panel (attribute code, colours of nine fields, apparent age
  and gender), tokens of the attribute features, pixels of the rim where hair and outline are;
- drawn from a code as near to the face's own as that allows.

One target in `DRAWN` also has an attribute code of its own, as with `--code drawn`.

Promise   composer, encoder, dlib's network and features are frozen. The same data, seed and steps give the
          same file on the same machine, with one call or several (--resume): nothing hangs on the clock.
Assumes   `wide.zip` of docs/training.md. Its last 600 crops are of people who train nothing. The bundled
          ranking, or one given, belongs to the composer: it says which rows are locked.
Not here  a loss on points: the composer is told where they are. docs/styleid.md measures where they went.
Sources   facts of StyleID 1.3 (the objective), with the panel and the features of this backend in the
          places of an attribute network and of LPIPS. Its weights, but for the source's (0.5, margin 0.1
          there): with them identity changed less than the ranked swap changes it by default.
Checked   tests/training/test_swapper.py; figures in docs/styleid.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from moretta.errors import UsageError
from moretta.networks import pool as pools
from moretta.networks import ranking as ranks
from moretta.networks.backend import pictures_of
from moretta.networks.ranking import BundledPanel, Pairs, Readers
from moretta.networks.regions import REGIONS, regions
from moretta.networks.swapper import Swapper, locked_rows
from moretta.photos.files import write_whole
from moretta.photos.manifest import make_folder
from moretta.training import crops as sets
from moretta.training import run as runs
from moretta.weights import backends, load

if TYPE_CHECKING:
    import numpy.typing as npt

    from moretta.networks.backend import ComposerBackend
    from moretta.networks.features import Features

BATCH = 8
RATE = 1e-3
DRAWN = 4  # one target in so many has a code of its own
WEIGHTS = {"target": 1.0, "source": 1.0, "panel": 1.0, "tokens": 0.8, "rim": 1.0, "moved": 0.1}
MARGIN = 0.05  # cosine to the face's own identity that costs nothing: a stranger's, drawn here, on average
FITTED = 48  # crops that the panel's deviations are measured on
SHARES = (0.1, 0.2, 0.3, 0.6, 1.0)  # of the ranked channels, in the figures
HELD = 96  # held-out crops that the figures are of
_RIM = REGIONS.index("rim")


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Faces with targets, everything that no gate changes: n of each."""

    pictures: torch.Tensor  # (n, 3, side, side)
    points: torch.Tensor  # (n, 5, 2)
    own: torch.Tensor  # identities (n, 48)
    asked: torch.Tensor
    sources: torch.Tensor  # rows (n, rows, latent)
    targets: torch.Tensor
    columns: torch.Tensor  # of the panel, in their deviations (n, columns)
    tokens: torch.Tensor  # (n, 64, 64)
    rim: torch.Tensor  # share of each pixel, (n, 1, side, side)


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """What a swapper is trained with."""

    backend: ComposerBackend
    readers: Readers
    features: Features
    crops: sets.Crops

    @classmethod
    def of(cls, backend: ComposerBackend, crops: sets.Crops) -> Course:
        """Fit the panel's deviations to the first crops, drawn as they are and as other people."""
        panel = BundledPanel.of(
            backend, load.tensors("identity"), code=backend.composer.shape.attributes
        )
        first = min(FITTED, crops.trained)
        pictures = pictures_of(list(crops.pixels[:first]), backend.device)
        points = torch.from_numpy(crops.points[:first]).to(pictures)
        asked = torch.from_numpy(pools.random_identities(first, pools.SEED)).to(pictures)
        with torch.no_grad():
            own, codes = (
                torch.cat([read(*part) for part in _parts(pictures, points)])
                for read in (backend.identity, lambda some, _: backend.attributes(some))
            )
            pairs = Pairs(pictures, points, backend.rows(own, codes), backend.rows(asked, codes))
            readers = Readers.fitted(backend, panel, pairs)
        return cls(backend, readers, backends.features("features", backend), crops)

    @torch.no_grad()
    def examples(
        self, chosen: npt.NDArray[np.int64], rng: np.random.Generator, *, drawn: bool = True
    ) -> Examples:
        """Read these crops and choose targets as the method does. drawn: some codes are not their own."""
        backend = self.backend
        pictures = pictures_of([self.crops.pixels[i] for i in chosen], backend.device)
        points = torch.from_numpy(self.crops.points[chosen]).to(pictures)
        own, maps = backend.seen(pictures, points)
        noise = torch.from_numpy(rng.standard_normal((len(chosen), 64))).to(pictures)
        code = backend.known(pictures, noise, level=0)
        pool, head = backends.stand_ins()
        places = [
            pools.stranger(pool, one, head.read(one), "age,gender", rng)[0]
            for one in own.cpu().numpy()
        ]
        asked = torch.from_numpy(pool.identities[places]).to(pictures)
        other = code.clone()
        if drawn:
            fresh = backend.prior.sample(len(chosen), int(rng.integers(2**31)), truncation=0.7)[0]
            other[::DRAWN] = fresh.to(code)[::DRAWN]
        mask = backend.composer.mask
        return Examples(
            pictures,
            points,
            own,
            asked,
            backend.rows(own, code),
            backend.rows(asked, other),
            self.readers.panel(pictures, points, own) / self.readers.scale,
            self.features.of(pictures, points, maps=maps).tokens,
            regions(points, mask)[:, _RIM : _RIM + 1],
        )

    def losses(self, swapper: Swapper, some: Examples) -> dict[str, torch.Tensor]:
        """Return every term, weighted; their sum is what is minimised."""
        backend = self.backend
        rows = ranks.swapped(some.sources, some.targets, swapper(some.sources, some.targets))
        faces = backend.draw(backend.context(some.pictures), some.points, rows)
        shown = backend.composed(some.pictures, faces)
        seen, maps = backend.seen(shown, some.points)
        columns = self.readers.panel(shown, some.points, seen) / self.readers.scale
        tokens = self.features.of(shown, some.points, maps=maps).tokens
        gap = (shown - some.pictures).square().mean(1, keepdim=True)
        step = (some.targets - some.sources).square().mean().clamp_min(1e-6)
        terms = {
            "target": (1 - (seen * some.asked).sum(1)).mean(),
            "source": ((seen * some.own).sum(1) - MARGIN).clamp_min(0).mean(),
            "panel": (columns - some.columns).square().mean(),
            "tokens": (tokens - some.tokens).abs().mean(),
            "rim": (gap * some.rim).sum() / some.rim.sum().clamp_min(1e-6),
            "moved": (rows - some.sources).square().mean() / step,
        }
        return {name: WEIGHTS[name] * value for name, value in terms.items()}


def run(
    data: Path | None,
    out: Path,
    *,
    minutes: float = 12,
    steps: int | None = None,
    count: int = 6000,
    seed: int = 0,
    resume: bool = False,
    weights: Path | None = None,
    ranking: Path | None = None,
) -> dict[str, float]:
    """Train for so many minutes, or steps, and write `out`; return the figures on held-out crops.

    data: folder with wide.zip, or None for painted faces. count: training crops that are read. weights,
    ranking: another composer's file than the bundled one, and the ranking of it. The state to go on from
    is kept beside `out` (NAME.state), before the figures are made. "held" among the figures: how many
    held-out crops they are of. Raises UsageError where `out` cannot be written, for a state that is there
    without `resume`, not there with it, or of other weights, data or seed; WeightsRejected for a ranking
    of other weights.
    """
    from safetensors.numpy import save

    runs.refuse_output(out)
    kept = out.with_suffix(".state")
    if kept.exists() and not resume:
        raise UsageError(
            f"{kept} holds a run already", hint="add --resume, remove it, or give another --output"
        )
    if resume and not kept.exists():
        raise UsageError(f"{kept} is missing: there is no run to resume", hint="leave --resume out")
    backend = backends.composer(weights or backends.COMPOSER)
    sha = load.sha256(weights or backends.COMPOSER)
    ranked = backends.ranking(ranking or backends.RANKING, backend=sha)
    about: dict[str, Any] = {
        "backend": sha,
        "locked": list(locked_rows(ranked)),
        "data": "wide.zip, steady points" if data else "painted",
        "count": count,
        "seed": seed,
    }
    crops = (
        sets.drawn(backend.side, 64)
        if data is None
        else sets.steadied(sets.wide(data, backend.side, limit=count + sets.HELD))
    )
    course = Course.of(backend, crops)
    trainer = Trainer(course, locked_rows(ranked), seed)
    if resume:
        trainer.resume(runs.load(kept, backend.device), about)
    clock = runs.Clock(minutes=minutes, steps=steps)
    begun = time.monotonic()
    make_folder(out.parent)
    with clock.listening():
        while clock.goes_on():
            said = trainer.learn()
            if trainer.step % 25 == 0:
                told = ", ".join(f"{name} {value:.3f}" for name, value in said.items())
                spent = time.monotonic() - begun
                print(f"step {trainer.step}, {spent:.0f} s: {told}", flush=True)  # noqa: T201
        runs.save(kept, trainer.state(about))
    tensors = {
        name: value.half().cpu().numpy() for name, value in trainer.average.state_dict().items()
    }
    made = Swapper.from_tensors(
        tensors,
        backend.layers,
        backend.composer.shape.latent,
        trainer.average.locked,
        backend.device,
    )
    found = figures(course, made, ranked.spaces["channels"].order)
    about |= {"steps": trainer.step, "figures": {k: round(v, 4) for k, v in found.items()}}
    write_whole(out, save(tensors, {"about": json.dumps(about)}))
    of = {"steps": trainer.step, "held": min(HELD, crops.held)}
    return {name: float(value) for name, value in of.items()} | found


class Trainer:
    """A swapper, its moving average, which is what is written, and the optimiser."""

    def __init__(self, course: Course, locked: tuple[int, ...], seed: int) -> None:
        self.course, self.seed, self.step = course, seed, 0
        backend = course.backend
        runs.reseed(seed, 0)
        shape = (backend.layers, backend.composer.shape.latent, locked)
        self.swapper, self.average = (Swapper(*shape).to(backend.device) for _ in range(2))
        self._follow = runs.Average({"swapper": self.swapper}, {"swapper": self.average})
        self._optimiser = torch.optim.Adam(self.swapper.parameters(), lr=RATE)

    def learn(self) -> dict[str, float]:
        """Make one step and return its terms."""
        rng = runs.reseed(self.seed, self.step + 1)
        for group in self._optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (self.step + 1) / 20)
        chosen = rng.choice(self.course.crops.trained, BATCH, replace=False)
        terms = self.course.losses(self.swapper, self.course.examples(np.sort(chosen), rng))
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        self._optimiser.step()
        self.step += 1
        self._follow.follow(min(0.98, self.step / (self.step + 9)))
        return {name: value.item() for name, value in terms.items()}

    def state(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "key": _key(about),
            "step": self.step,
            "swapper": self.swapper.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }

    def resume(self, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Go on where `state` was. Raises UsageError when it is of another run."""
        if state.get("key") != _key(about):
            raise UsageError(
                "the state to resume was made with other weights, data or seed",
                hint="give the same ones, or begin anew with another --output",
            )
        self.step = int(state["step"])
        self.swapper.load_state_dict(state["swapper"])
        self.average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])


def _key(about: Mapping[str, Any]) -> str:
    return json.dumps({k: about[k] for k in ("backend", "locked", "data", "count", "seed")})


@torch.no_grad()
def figures(course: Course, swapper: Swapper, order: npt.NDArray[np.int64]) -> dict[str, float]:
    """Compare the swapper with its locked rows alone and with the whole target, on held-out crops.

    For each: cosine to the face's own identity and to the target's, d_at to the photo; before them the mean
    gate of rows that are not locked. Then d_at of the ranked channels, as many as leave the same mean cosine
    to the face's own identity. Where nothing is held out the figures are of crops that trained.
    """
    crops = course.crops
    first, last = (crops.trained, len(crops)) if crops.held else (0, len(crops))
    chosen = np.unique(np.linspace(first, last - 1, min(HELD, last - first)).astype(np.int64))
    rng = np.random.default_rng(0)
    backend = course.backend
    found: dict[str, list[float]] = {}
    for start in range(0, len(chosen), 16):
        some = course.examples(chosen[start : start + 16], rng, drawn=False)
        gates = swapper(some.sources, some.targets)
        locked, free = torch.zeros_like(gates), list(set(range(gates.shape[1])) - {*swapper.locked})
        locked[:, list(swapper.locked)] = 1
        found.setdefault("mean gate", []).extend(gates[:, free].mean((1, 2)).tolist())
        styles = {
            name: backend.styles(ranks.swapped(some.sources, some.targets, weights))
            for name, weights in (
                ("swapper", gates),
                ("locked rows", locked),
                ("whole", torch.ones_like(gates)),
            )
        }
        for share in SHARES:
            weights = torch.from_numpy(ranks.strengths(order, [share] * len(gates))).to(gates)
            styles[str(share)] = ranks.swapped_styles(
                backend, some.sources, some.targets, weights, "channels"
            )
        for name, one in styles.items():
            drawn = backend.draw_styles(backend.context(some.pictures), some.points, one)
            seen, columns = course.readers(backend.composed(some.pictures, drawn), some.points)
            for label, values in (
                ("own", (seen * some.own).sum(1)),
                ("target", (seen * some.asked).sum(1)),
                ("d_at", ranks.attribute_distance(columns, some.columns)),
            ):
                found.setdefault(f"{name}, {label}", []).extend(values.tolist())
    means = {name: float(np.mean(values)) for name, values in found.items()}
    own, cost = ([means.pop(f"{share}, {label}") for share in SHARES] for label in ("own", "d_at"))
    equal = float(np.interp(-means["swapper, own"], -np.minimum.accumulate(own), cost))
    kept = {
        name: value for name, value in means.items() if name.split(",")[0] not in map(str, SHARES)
    }
    return kept | {"ranked channels, d_at at the swapper's own": equal}


def _parts(pictures: torch.Tensor, points: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(torch.split(pictures, 16), torch.split(points, 16), strict=True))
