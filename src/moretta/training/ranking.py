"""`moretta styleid rank`: measure a backend's ranking over pairs of faces and keep it.

Sources are crops of people who may train (or faces drawn from the prior), targets other people. Rows
and groups are measured one by one; single channels and numbers by the shortcut of networks.ranking, or
one by one with `how="exact"`; a sample of them is measured both ways, and by a second recogniser, and
how well they agree stands in the file. The second recogniser never has a say in the order.

What is done is kept beside the file (NAME.part.npz): an interrupted call goes on where it was.
"""

from __future__ import annotations

import io
import json
import sys
import time
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from moretta.errors import UsageError, count_of
from moretta.faces.recognise import JUDGE, Recogniser
from moretta.networks import ranking as ranks
from moretta.networks.backend import pixels_of
from moretta.networks.pool import random_identities
from moretta.networks.ranking import BundledPanel, Measured, Pairs, Ranking, Readers
from moretta.networks.regions import REGIONS, matched, regions
from moretta.records import Box, Face
from moretta.training import crops as sets
from moretta.weights import load
from moretta.weights.backends import COMPOSER, composer

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from moretta.networks.backend import ComposerBackend
    from moretta.networks.ranking import Floats

SINGLE: tuple[ranks.Space, ...] = ("channels", "numbers")
CHECKED = 96  # single features that are measured both ways
CHECKED_PAIRS = 4
FAR = 1e-3  # false accepts of the calibration threshold
_BATCH = 8  # pairs of one pass of the shortcut
_SAVE_EVERY = 20.0  # seconds


@dataclass(slots=True)
class Kept:
    """Arrays by name, one row a pair; written now and then, read again by the next call."""

    path: Path
    key: str
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _saved: float = field(default_factory=time.monotonic)

    @classmethod
    def opened(cls, path: Path, key: str) -> Kept:
        """Read what an earlier call left. Raises UsageError where it was another call's."""
        if not path.exists():
            return cls(path, key)
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            told, seconds = str(arrays.pop("key")), json.loads(str(arrays.pop("seconds")))
        except (
            EOFError,
            KeyError,
            OSError,
            TypeError,
            ValueError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise UsageError(
                f"{path} cannot be resumed",
                hint="remove it to begin anew, or give another --output",
            ) from error
        if told != key:
            raise UsageError(
                f"{path} was begun with other weights or settings",
                hint="give the same ones, remove it to begin anew, or give another --output",
            )
        return cls(path, key, arrays, seconds)

    def rows(self, name: str) -> int:
        """How many pairs are done."""
        return len(self.arrays.get(name, ()))

    def add(self, name: str, rows: npt.NDArray[Any]) -> None:
        """Append the rows of more pairs."""
        old = self.arrays.get(name)
        self.arrays[name] = rows if old is None else np.concatenate([old, rows])

    def save(self, *, now: bool = False) -> None:
        """Write, whole or not at all."""
        if not now and time.monotonic() - self._saved < _SAVE_EVERY:
            return
        part = self.path.with_suffix(".tmp.npz")
        held: dict[str, Any] = {
            "key": np.array(self.key),
            "seconds": np.array(json.dumps(self.seconds)),
            **self.arrays,
        }
        np.savez(part, **held)
        part.replace(self.path)
        self._saved = time.monotonic()


def run(
    out: Path,
    *,
    data: Path | None = None,
    weights: Path | None = None,
    pairs: int = 48,
    projections: int = 8,
    how: Literal["sketch", "exact"] = "sketch",
    seed: int = 0,
    device: str = "cpu",
    second: str | None = JUDGE,
    tell: Callable[[str], None] = lambda _: None,
) -> Ranking:
    """Measure, write `out`, and return the ranking.

    data: a folder with wide.zip (docs/training.md); faces of the prior without it. weights: another
    composer's file than the bundled one. second: a recogniser that the agreement is measured with.
    Raises UsageError for fewer than 8 pairs and for data that cannot be read.
    """
    if pairs < 8:
        raise UsageError(
            f"{count_of(pairs, 'pair')} cannot be halved and compared", hint="8 pairs or more"
        )
    torch.set_num_threads(1)
    backend = composer(weights or COMPOSER, device=device, precision="float32")
    told = {
        "backend": load.sha256(weights or COMPOSER),
        "pairs": pairs,
        "projections": projections,
        "how": how,
        "seed": seed,
        "second": second,
        "data": "wide.zip" if data else "prior",
    }
    kept = Kept.opened(out.with_suffix(".part.npz"), json.dumps(told, sort_keys=True))
    started = time.process_time()
    sample = from_crops(backend, data, pairs, seed) if data else from_prior(backend, pairs, seed)
    panel = BundledPanel.of(
        backend, load.tensors("identity"), code=backend.composer.shape.attributes
    )
    with torch.no_grad():
        readers = Readers.fitted(backend, panel, sample)
    try:
        _measure(kept, readers, sample, how, projections, second, seed, tell)
        with torch.inference_mode():
            limit = calibrated(readers, sample, seed)
    finally:
        kept.save(now=True)
    whole = made(kept, readers, sample, told, {"dlib": limit}, how, second)
    whole = Ranking(
        backend=whole.backend,
        names=whole.names,
        spaces=whole.spaces,
        thresholds=whole.thresholds,
        about={
            **whole.about,
            "cpu seconds": {k: round(v, 1) for k, v in kept.seconds.items()},
            "cpu seconds of this call": round(time.process_time() - started, 1),
            "memory, MiB": most_memory(),
        },
    )
    write(whole, out)
    kept.path.unlink(missing_ok=True)
    return whole


def write(ranking: Ranking, out: Path) -> None:
    """Write the file, whole or not at all."""
    from safetensors.numpy import save

    content = save(ranking.tensors(), {"about": json.dumps(ranking.about)})
    part = out.with_suffix(".tmp")
    try:
        part.write_bytes(content)
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written: {error.strerror}", hint="check --output"
        ) from error
    part.replace(out)


def report(ranking: Ranking) -> str:
    """Return what was found as Markdown: rows, regions, and how well the rankings agree."""
    lines = []
    for space, label in (("rows", "row"), ("regions", "region")):
        one = ranking.spaces[space]
        names = REGIONS if space == "regions" else [str(i) for i in range(len(one.did))]
        lines += [f"| {label} | Did | Dat | D | place |", "|---|---|---|---|---|"]
        place = np.argsort(one.order)
        lines += [
            f"| {name} | {a:.3f} | {b:.3f} | {d:.2f} | {p + 1} |"
            for name, a, b, d, p in zip(names, one.did, one.dat, one.score, place, strict=True)
        ]
        lines.append("")
    agreement = ranking.about["agreement"]
    keys = list(dict.fromkeys(key for found in agreement.values() for key in found))
    lines += [f"| agreement | {' | '.join(agreement)} |", "|---" * (1 + len(agreement)) + "|"]
    for key in keys:
        cells = (found.get(key) for found in agreement.values())
        lines.append(f"| {key} | {' | '.join('' if c is None else f'{c:.3g}' for c in cells)} |")
    about = ranking.about
    memory = f", {about['memory, MiB']} MiB" if about["memory, MiB"] is not None else ""
    lines.append(
        f"\nCPU seconds {about.get('cpu seconds', {})}{memory}; threshold {about['thresholds']}"
    )
    return "\n".join(lines)


def most_memory() -> int | None:
    """Return the most memory that this process ever held, in MiB; None where no one counts (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // (1 << 20 if sys.platform == "darwin" else 1 << 10)  # bytes there, else KiB


# ---- pairs -----------------------------------------------------------------------------------


@torch.no_grad()
def from_crops(backend: ComposerBackend, data: Path, count: int, seed: int) -> Pairs:
    """Pairs of crops of different people, none of whom is held out or in an evaluation."""
    crops = sets.wide(data, backend.side)
    rng = np.random.default_rng(seed)
    order = rng.permutation(crops.trained)
    taken, people = [], set()
    for index in order.tolist():
        person = int(crops.people[index])
        if person >= 0 and person not in people:
            people.add(person)
            taken.append(index)
        if len(taken) == 2 * count:
            break
    if len(taken) < 2 * count:
        raise UsageError(
            f"{data} has {count_of(len(taken), 'person', 'people')}, {count} pairs need {2 * count}",
            hint="give fewer --pairs",
        )
    few = sets.steadied(
        replace(crops, pixels=crops.pixels[taken], points=crops.points[taken], held=0)
    )
    pictures = torch.from_numpy(few.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    pictures, points = pictures.to(backend.device), torch.from_numpy(few.points)
    points = points.to(backend.device)
    rows = torch.cat(
        [
            backend.rows(backend.identity(a, b), backend.attributes(a))
            for a, b in zip(torch.split(pictures, 16), torch.split(points, 16), strict=True)
        ]
    )
    return Pairs(pictures[:count], points[:count], rows[:count], rows[count:])


@torch.no_grad()
def from_prior(backend: ComposerBackend, count: int, seed: int) -> Pairs:
    """Pairs of faces that nobody has: identities at random, codes, points and scenes of the prior."""
    identities = torch.from_numpy(random_identities(2 * count, seed)).to(backend.device)
    codes, points, scenes = (
        part.to(backend.device) for part in backend.prior.sample(2 * count, seed, truncation=1.0)
    )
    pictures = backend.prior.contexts(scenes, backend.composer.mask)[:, :3]
    rows = backend.rows(identities, codes)
    return Pairs(pictures[:count], points[:count], rows[:count], rows[count:])


# ---- phases ----------------------------------------------------------------------------------


def _measure(
    kept: Kept,
    readers: Readers,
    sample: Pairs,
    how: str,
    projections: int,
    second: str | None,
    seed: int,
    tell: Callable[[str], None],
) -> None:
    also = _reader(second) if second else None
    for space in ("rows", "groups"):
        _one_by_one(kept, space, readers, sample, space, tell, also=also)
    if how == "exact":
        for space in SINGLE:
            _one_by_one(kept, space, readers, sample, space, tell)
    else:
        with _timed(kept, "sketch"):
            for start in range(kept.rows("channels did"), len(sample), _BATCH):
                part = sample[start : start + _BATCH]
                for name, rows in ranks.sketch(
                    readers, part, projections=projections, seed=seed + start
                ).items():
                    kept.add(name, rows)
                kept.save()
                tell(f"single channels, shortcut: {start + len(part)} of {len(sample)} pairs")
        if not kept.rows("channels columns"):
            with _timed(kept, "columns"):
                for name, found in ranks.sketch_columns(readers, sample[:_BATCH]).items():
                    kept.add(f"{name} columns", found[None])
                tell("single channels, columns: done")
    layers, latent = readers.backend.layers, sample.sources.shape[2]
    few = sample[:CHECKED_PAIRS]
    for space in SINGLE:
        did, dat = (kept.arrays[f"{space} {name}"].mean(0) for name in ("did", "dat"))
        score = ranks.disentanglement(did, dat)
        chosen = ranks.stratified(layers, latent, space, score, CHECKED, seed)
        kept.arrays[f"{space} checked"] = np.array(chosen)
        _one_by_one(kept, f"{space} check", readers, few, space, tell, chosen, also)
    with _timed(kept, "regions"), torch.inference_mode():
        for start in range(kept.rows("regions did"), len(sample), _BATCH):
            part = sample[start : start + _BATCH]
            for name, rows in region_changes(readers, part).items():
                kept.add(f"regions {name}", rows)


def _one_by_one(
    kept: Kept,
    name: str,
    readers: Readers,
    sample: Pairs,
    space: ranks.Space,
    tell: Callable[[str], None],
    chosen: list[int] | None = None,
    also: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> None:
    done = kept.rows(f"{name} did")
    if done >= len(sample):
        return
    with _timed(kept, name):
        for did, dat, columns, other in ranks.exact(
            readers, sample[done:], space, chosen, also=also
        ):
            done += 1
            for part, row in (("did", did), ("dat", dat), ("columns", columns), ("other", other)):
                kept.add(f"{name} {part}", row[None].astype(np.float32))
            kept.save()
            tell(f"{name}, one by one: {done} of {len(sample)} pairs")


def region_changes(readers: Readers, pairs: Pairs) -> dict[str, Floats]:
    """Paste one region of the target's drawing into the source's picture: did, dat, columns a pair."""
    backend = readers.backend
    mask = backend.composed(torch.zeros_like(pairs.pictures), torch.ones_like(pairs.pictures))
    shares = regions(pairs.points, mask[:, :1])
    drawn = readers.drawn(pairs, backend.styles(pairs.sources))
    new = readers.drawn(pairs, backend.styles(pairs.targets))
    was, had = readers(drawn, pairs.points)
    found: dict[str, list[Any]] = {"did": [], "dat": [], "columns": []}
    for at in range(len(REGIONS)):
        share = shares[:, at : at + 1]
        mixed = torch.lerp(drawn, matched(new, drawn, share), share)
        identities, attributes = readers(mixed, pairs.points)
        found["did"].append(ranks.identity_distance(identities, was).cpu().numpy())
        found["dat"].append(ranks.attribute_distance(attributes, had).cpu().numpy())
        found["columns"].append((attributes - had).abs().cpu().numpy())
    return {name: np.stack(parts, 1).astype(np.float32) for name, parts in found.items()}


def calibrated(readers: Readers, sample: Pairs, seed: int) -> float:
    """Cosine that FAR of pairs of different drawn people exceed, by a normal fit to all pairs.

    All pairs of the sample's faces, drawn as they are: a quantile this far out needs more pairs of
    people than there are, so mean and deviation give it.
    """
    vectors = []
    for rows in (sample.sources, sample.targets):
        for start in range(0, len(sample), 16):
            part = sample[start : start + 16]
            styles = readers.backend.styles(rows[start : start + 16])
            vectors.append(readers(readers.drawn(part, styles), part.points)[0])
    every = torch.cat(vectors).double()
    cosines = (every @ every.t()).cpu().numpy()
    n = len(sample)
    first, second = np.triu_indices(2 * n, 1)
    others = cosines[first, second][
        (second - first) % n != 0
    ]  # one picture's two drawings left out
    return round(float(others.mean() + 3.0902 * others.std()), 4)


def _reader(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    recogniser = Recogniser(name)

    def read(pictures: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        side = pictures.shape[-1]
        views = []
        for picture, where in zip(pixels_of(pictures), points.cpu().numpy(), strict=True):
            face = Face(
                box=Box(0.2 * side, 0.2 * side, 0.8 * side, 0.8 * side),
                points=where.astype(np.float64) * side,
                score=1.0,
                detector="manual",
            )
            views.append(recogniser.crop(picture, face))
        return torch.from_numpy(recogniser.embed_crops(np.stack(views)))

    return read


# ---- what is kept ----------------------------------------------------------------------------


def made(
    kept: Kept,
    readers: Readers,
    sample: Pairs,
    told: dict[str, Any],
    thresholds: dict[str, float],
    how: str,
    second: str | None,
) -> Ranking:
    """Put the ranking together from the pairs' arrays, with how well its parts agree."""
    spaces, agreement = {}, {}
    for space in (*ranks.SPACES, "regions"):
        did, dat = (kept.arrays[f"{space} {name}"].astype(np.float64) for name in ("did", "dat"))
        columns = kept.arrays[f"{space} columns"].mean(0)
        spaces[space] = Measured(did=did.mean(0), dat=dat.mean(0), columns=columns)
        named = ranks.scores(did, dat)
        half = ranks.halves(did, dat)
        agreement[space] = {
            "halves": half,
            "halves, Spearman-Brown": 2 * half / (1 + half) if half > -1 else None,
            "tau": float(np.median(dat.mean(0))),
        } | {
            f"{name} with ratio": ranks.spearman(named["ratio"], each)
            for name, each in named.items()
            if name != "ratio"
        }
        other = kept.arrays.get(f"{space} other")
        if second and other is not None and np.isfinite(other).all():
            score = ranks.disentanglement(other.mean(0), dat.mean(0))
            agreement[space][f"with {second}"] = ranks.spearman(named["ratio"], score)
    for space in SINGLE:
        agreement[space] |= _checked(kept, space, second)
    about = {
        **told,
        "names": readers.panel.names,
        "thresholds": thresholds,
        "far": FAR,
        "regions": list(REGIONS),
        "rows": len(readers.backend.layers),
        "agreement": agreement,
    }
    return Ranking(
        backend=told["backend"],
        names=tuple(readers.panel.names),
        spaces=spaces,
        thresholds=thresholds,
        about=about,
    )


def _checked(kept: Kept, space: str, second: str | None) -> dict[str, float]:
    """How the shortcut agrees with the exact changes of the same features over the same pairs."""
    chosen = kept.arrays[f"{space} checked"]
    did, dat, other = (kept.arrays[f"{space} check {n}"].mean(0) for n in ("did", "dat", "other"))
    few = kept.rows(f"{space} check did")
    quick_did, quick_dat = (
        kept.arrays[f"{space} {n}"][:few, chosen].mean(0) for n in ("did", "dat")
    )
    true, quick = ranks.disentanglement(did, dat), ranks.disentanglement(quick_did, quick_dat)
    whole = ranks.disentanglement(
        kept.arrays[f"{space} did"][:, chosen].mean(0),
        kept.arrays[f"{space} dat"][:, chosen].mean(0),
    )
    found = {
        "checked features": len(chosen),
        "checked pairs": few,
        "shortcut, Did": ranks.spearman(quick_did, did),
        "shortcut, Dat": ranks.spearman(quick_dat, dat),
        "shortcut, D": ranks.spearman(quick, true),
        "shortcut, D, all pairs": ranks.spearman(whole, true),
        "shortcut, first tenth": ranks.overlap(quick, true),
        "checked, halves": ranks.halves(
            kept.arrays[f"{space} check did"], kept.arrays[f"{space} check dat"]
        ),
    }
    if second and np.isfinite(other).all():
        found[f"with {second}"] = ranks.spearman(true, ranks.disentanglement(other, dat))
    return found


class _timed:  # noqa: N801 - reads like a function
    def __init__(self, kept: Kept, name: str) -> None:
        self.kept, self.name = kept, name

    def __enter__(self) -> None:
        self.start = time.process_time()

    def __exit__(self, *_: object) -> None:
        spent = time.process_time() - self.start
        self.kept.seconds[self.name] = self.kept.seconds.get(self.name, 0.0) + spent
