"""The recipe of the attribute features: `moretta-train features --data FOLDER --output FOLDER`.

A linear projection of dlib's first three stages to tokens, and a perceptron over them, learn

- from labels of UTKFace (tight crops): apparent age, gender and group;
- from all crops: the five points, the composer's attribute code, and the picture itself, patch by
  patch, so that a token keeps what stands in its place;
- from faces that the composer drew twice, with two identities into the same surroundings, from the same
  points and code: features should not tell the two apart. That is what attribute means here.

Promise   the same data, seed, bundled networks and --steps give the same file on the same machine; where
          minutes end the training, how many steps there were hangs on the machine. What dlib's stages
          say is kept in --output: a second call goes on from there.
Assumes   faces-144.zip, index.csv with labels, wide.zip and wide.csv (docs/training.md). The last 600
          crops of each table (a quarter of few), and 100 drawn pairs, train nothing.
Checked   tests/training/test_features.py; figures of the shipped file in docs/falco.md.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from moretta.errors import UsageError, count_of
from moretta.networks.features import (
    CHANNELS,
    GRID,
    INPUTS,
    LENGTH,
    TOKENS,
    FeatureHead,
    places_of,
    stages,
)
from moretta.networks.pool import BANDS, random_identities
from moretta.networks.recogniser import CHIP_POINTS, chip
from moretta.photos.files import sha256_of
from moretta.photos.manifest import make_folder
from moretta.training import crops as sets
from moretta.training.run import refuse_output, reseed, write
from moretta.training.traits import GROUPS, HELD_OUT, labels_of, read_rows
from moretta.weights import load
from moretta.weights.backends import NETWORKS, SIDE, composer

if TYPE_CHECKING:
    import numpy.typing as npt

    from moretta.networks.backend import ComposerBackend

PATCH = 6  # pixels of the chip at GRID * PATCH that one token paints
HELD_PAIRS = 100
BATCH, RATE, DECAY = 64, 2e-3, 1e-3
UNKNOWN = -1
_LABELS = len(BANDS) + 1 + len(GROUPS)
_CODE = 64
_POINTS = 10
_BLOCK = 16


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What is learnt from. All arrays have one row a crop; drawn pairs are neighbours."""

    places: npt.NDArray[np.float16]  # (n, TOKENS, INPUTS), a memory map
    patches: npt.NDArray[np.float16]  # (n, TOKENS, 3 * PATCH**2), -1..1
    points: npt.NDArray[np.float32]  # (n, 10) offsets from the template's, in units of 0.1 side
    codes: npt.NDArray[np.float32]  # (n, 64)
    labels: npt.NDArray[np.int64]  # (n, 3): band, gender, group; UNKNOWN where nobody said
    tight: tuple[int, int]  # the first so many are labelled, the last so many of them held out
    wide: tuple[int, int]  # then so many wide ones, the last so many of them held out

    def rows(self, *, held: bool) -> npt.NDArray[np.int64]:
        """Places of the photographs that train, or of those that do not."""
        first, second = self.tight[0], self.tight[0] + self.wide[0]
        edges = (0, first - self.tight[1], first)
        other = (first, second - self.wide[1], second)
        at = 1 if held else 0
        return np.concatenate([np.arange(part[at], part[at + 1]) for part in (edges, other)])

    def pairs(self, *, held: bool) -> npt.NDArray[np.int64]:
        """Places of the first of each drawn pair."""
        first = np.arange(self.tight[0] + self.wide[0], len(self.places), 2)
        out = min(HELD_PAIRS, len(first) // 4)
        return first[-out:] if held else first[:-out]


# ---- gathering -------------------------------------------------------------------------------


def gather(data: Path, out: Path, *, tight: int, wide: int, pairs: int, seed: int) -> Examples:
    """Run dlib's stages over crops and drawn faces once, and keep the result in `out`.

    About 16 ms of one thread a crop and 45 a drawn face (docs/falco.md). 0.12 MB of disk each. What was
    gathered of other crops, or with other networks, is made anew.
    """
    backend = composer()
    labelled, rows, held = _labelled(data, tight)
    photographed = sets.steadied(sets.wide(data, SIDE, limit=wide + sets.HELD))
    total = len(rows) + len(photographed) + 2 * pairs
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "places": ((TOKENS, INPUTS), np.float16),
        "patches": ((TOKENS, 3 * PATCH**2), np.float16),
        "points": ((_POINTS,), np.float32),
        "codes": ((_CODE,), np.float32),
    }
    make_folder(out)
    done, key = (
        out / "gathered.txt",
        _key(data, [len(rows), len(photographed), photographed.held, pairs, seed]),
    )
    begun = _gathered(done, key, [out / f"{name}.npy" for name in shapes])
    fresh = begun == 0
    kept = {
        name: np.lib.format.open_memmap(
            out / f"{name}.npy",
            mode="w+" if fresh else "r+",
            dtype=kind,
            shape=(total, *shape) if fresh else None,
        )
        for name, (shape, kind) in shapes.items()
    }
    pixels = np.concatenate([labelled.pixels, photographed.pixels])
    points = np.concatenate([labelled.points, photographed.points])
    with torch.inference_mode():
        for start in range(begun, len(pixels), _BLOCK):
            part = slice(start, start + _BLOCK)
            pictures = (
                torch.from_numpy(pixels[part]).permute(0, 3, 1, 2).float() / 127.5 - 1
            ).contiguous()
            _keep(backend, kept, start, pictures, torch.from_numpy(points[part]))
            done.write_text(f"{key} {min(start + _BLOCK, len(pixels))}")
        for start in range(max(begun, len(pixels)), total, _BLOCK):
            pictures, where = drawn_pairs(backend, _BLOCK // 2, seed + start)
            fits = min(_BLOCK, total - start)
            _keep(backend, kept, start, pictures[:fits], where[:fits])
            done.write_text(f"{key} {start + fits}")
    labels = np.full((total, 3), UNKNOWN, np.int64)
    read = labels_of(rows)
    labels[: len(rows)] = np.stack([read.bands, read.genders, read.groups], 1)
    return Examples(
        kept["places"],
        kept["patches"],
        kept["points"],
        kept["codes"],
        labels,
        (len(rows), held),
        (len(photographed), photographed.held),
    )


def _key(data: Path, sizes: list[int]) -> str:
    """Sum up all that decides what is gathered: how much, from which tables, with which networks."""
    tables = [sha256_of(data / table) for table in ("index.csv", "wide.csv")]
    told = [sizes, tables, [load.entry(name).sha256 for name in NETWORKS]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _gathered(done: Path, key: str, arrays: list[Path]) -> int:
    """How many rows an earlier call left under this key; 0 where anything is missing."""
    try:
        told, count = done.read_text(encoding="ascii").split()
        return int(count) if told == key and all(path.is_file() for path in arrays) else 0
    except (OSError, ValueError):
        return 0


def drawn_pairs(
    backend: ComposerBackend, count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw `count` scenes with two identities each: pictures (2 * count, 3, s, s), points."""
    codes, points, scenes = backend.prior.sample(count, seed, truncation=1.0)
    both = [part.repeat_interleave(2, 0) for part in (codes, points, scenes)]
    contexts = backend.prior.contexts(both[2], backend.composer.mask)
    identities = torch.from_numpy(random_identities(2 * count, seed))
    drawn = backend.draw(contexts, both[1], backend.rows(identities, both[0]))
    return (contexts[:, :3] + drawn * backend.composer.mask).clamp(-1, 1), both[1]


def _labelled(data: Path, count: int) -> tuple[sets.Crops, list[Any], int]:
    rows = read_rows(data / "index.csv")
    out = min(HELD_OUT, len(rows) // 4)
    if not out:
        raise UsageError(
            f"{data / 'index.csv'} has {count_of(len(rows), 'row')}: too few to hold any out",
            hint="the more the better: some thousands",
        )
    train = np.unique(np.linspace(0, len(rows) - out - 1, count).astype(int))
    chosen = [*train.tolist(), *range(len(rows) - out, len(rows))]
    crops = sets.steadied(sets.tight(data, SIDE, chosen=chosen))
    return crops, [rows[i] for i in chosen], out


def _keep(
    backend: ComposerBackend,
    kept: Mapping[str, Any],
    start: int,
    pictures: torch.Tensor,
    points: torch.Tensor,
) -> None:
    part = slice(start, start + len(pictures))
    _, maps = stages(backend.identify, pictures, points)
    kept["places"][part] = places_of(maps).numpy()
    chips = functional.adaptive_avg_pool2d(chip(pictures, points * SIDE), GRID * PATCH)
    kept["patches"][part] = functional.pixel_unshuffle(chips, PATCH).flatten(2).transpose(1, 2)
    kept["codes"][part] = backend.attributes(pictures).numpy()
    kept["points"][part] = offsets(points).numpy()


def offsets(points: torch.Tensor) -> torch.Tensor:
    """What the five points say beyond place, size and turn: (n, 5, 2) -> (n, 10).

    The points as dlib's chip shows them, less its template, in tenths of the chip's side.
    """
    from moretta.networks.recogniser import CHIP_SIDE, chip_matrix

    matrix = chip_matrix(points * SIDE)  # chip to picture
    turn = torch.linalg.inv(matrix[:, :, :2])
    shown = torch.einsum("nij,nkj->nki", turn, points.double() * SIDE - matrix[:, None, :, 2])
    return ((shown - shown.new_tensor(CHIP_POINTS)) / CHIP_SIDE * 10).flatten(1).float()


# ---- learning --------------------------------------------------------------------------------


class Trainer(nn.Module):
    """The head with what only trains it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = FeatureHead()
        self.paint = nn.Conv2d(CHANNELS, 3 * PATCH**2, 3, padding=1)
        self.read = nn.Linear(LENGTH, _LABELS + _POINTS + _CODE)

    def losses(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return every term; their sum is what is minimised."""
        vectors, tokens = self.head(batch["places"])
        vectors = functional.dropout(vectors, 0.1, training=self.training)
        painted = self.paint(tokens.transpose(1, 2).unflatten(2, (GRID, GRID)))
        labels, points, codes = self.read(vectors).split([_LABELS, _POINTS, _CODE], 1)
        terms = {
            "picture": (painted.flatten(2).transpose(1, 2) - batch["patches"]).abs().mean(),
            "points": 2 * (points - batch["points"]).abs().mean(),
            "code": (codes - batch["codes"]).abs().mean(),
            "size": 0.01 * (tokens.square().mean() - 1).square(),
        }
        known = batch["labels"][:, 0] != UNKNOWN
        if known.any():
            bands, female, groups = labels[known].split([len(BANDS), 1, len(GROUPS)], 1)
            truth = batch["labels"][known]
            terms["band"] = 0.2 * functional.cross_entropy(bands, truth[:, 0])
            terms["gender"] = 0.2 * functional.binary_cross_entropy_with_logits(
                female[:, 0], truth[:, 1].float()
            )
            terms["group"] = 0.1 * functional.cross_entropy(groups, truth[:, 2])
        return terms

    def sameness(self, pairs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Drawn pairs (2 n, TOKENS, INPUTS): how far apart, beside two scenes. 0 is the aim."""
        vectors, tokens = self.head(pairs)
        return {
            "same tokens": 0.5 * ratio(tokens.flatten(1)),
            "same vectors": 0.5 * ratio(vectors),
        }


def ratio(pairs: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference within pairs of neighbours, (2 n, length), over that between pairs."""
    first, second = pairs[0::2], pairs[1::2]
    within = (first - second).abs().mean()
    return within / (first - second.roll(1, 0)).abs().mean().clamp_min(1e-6)


def train(examples: Examples, *, minutes: float, steps: int | None, seed: int) -> Trainer:
    """Train a head on what was gathered, for so many minutes, or steps."""
    reseed(seed, 0)
    trainer = Trainer()
    rows, pairs = examples.rows(held=False), examples.pairs(held=False)
    sample = examples.places[rows[:: max(1, len(rows) // 500)]].astype(np.float32)
    trainer.head.mean.copy_(torch.from_numpy(sample.mean((0, 1))))
    trainer.head.scale.copy_(torch.from_numpy(1 / (sample.std((0, 1)) + 1e-2)))
    optimiser = torch.optim.AdamW(trainer.parameters(), RATE, weight_decay=DECAY)
    begun, step = time.monotonic(), 0
    trainer.train()
    while True:
        share = (
            step / steps if steps is not None else (time.monotonic() - begun) / max(minutes * 60, 1)
        )
        if share >= 1:
            return trainer.eval()
        rng = reseed(seed, step + 1)
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (1 - share)) * min(1.0, (step + 1) / 20)
        batch = _batch(examples, np.sort(rng.choice(rows, BATCH)))
        terms = trainer.losses(batch)
        firsts = rng.choice(pairs, min(BATCH // 4, len(pairs)), replace=False)
        both = np.stack([firsts, firsts + 1], 1).ravel()
        terms |= trainer.sameness(torch.from_numpy(examples.places[both].astype(np.float32)))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        optimiser.step()
        step += 1
        if step % 50 == 0:
            said = ", ".join(f"{name} {value.item():.3f}" for name, value in terms.items())
            print(f"step {step}, {share:.0%}: {said}", flush=True)  # noqa: T201


def _batch(examples: Examples, rows: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
    return {
        "places": torch.from_numpy(examples.places[rows].astype(np.float32)),
        "patches": torch.from_numpy(examples.patches[rows].astype(np.float32)),
        "points": torch.from_numpy(examples.points[rows]),
        "codes": torch.from_numpy(examples.codes[rows]),
        "labels": torch.from_numpy(examples.labels[rows]),
    }


# ---- figures ---------------------------------------------------------------------------------


@torch.no_grad()
def figures(trainer: Trainer, examples: Examples) -> dict[str, float]:
    """Agreement with what was held out.

    gender, band, group: share read right, of labelled crops. nearest gender, band: share of held-out
    crops whose nearest training crop, by cosine of vectors, has the same label. points, code, picture:
    mean absolute error over that of the mean. same tokens, vectors: `ratio` on held-out drawn pairs.
    """
    rows = examples.rows(held=True)
    seen, guess, painted = _seen(trainer, examples, rows)
    labels = examples.labels[rows]
    known = labels[:, 0] != UNKNOWN
    bands, groups = guess[:, : len(BANDS)], guess[:, len(BANDS) + 1 : _LABELS]
    found = {
        "n labelled": float(known.sum()),
        "gender": float(((guess[:, len(BANDS)] > 0) == labels[:, 1])[known].mean()),
        "band": float((bands.argmax(1) == labels[:, 0])[known].mean()),
        "group": float((groups.argmax(1) == labels[:, 2])[known].mean()),
    }
    others = examples.rows(held=False)
    others = others[examples.labels[others, 0] != UNKNOWN]
    theirs = _seen(trainer, examples, others)[0]
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (seen[known], theirs)]
    nearest = others[(unit[0] @ unit[1].T).argmax(1)]
    for at, name in enumerate(("band", "gender")):
        same = examples.labels[nearest, at] == labels[known, at]
        found[f"nearest {name}"] = float(same.mean())
    for name, read, truth in (
        ("points", guess[:, _LABELS : _LABELS + _POINTS], examples.points),
        ("code", guess[:, _LABELS + _POINTS :], examples.codes),
        ("picture", painted, examples.patches),
    ):
        target = truth[rows].astype(np.float32)
        centre = truth[others].astype(np.float32).mean(0)
        found[f"{name}, error over the mean's"] = float(
            np.abs(read - target).mean() / np.abs(centre - target).mean()
        )
    firsts = examples.pairs(held=True)
    both = np.stack([firsts, firsts + 1], 1).ravel()
    vectors, tokens = trainer.head(torch.from_numpy(examples.places[both].astype(np.float32)))
    found["same tokens"] = float(ratio(tokens.flatten(1)))
    found["same vectors"] = float(ratio(vectors))
    return found


def _seen(
    trainer: Trainer, examples: Examples, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    parts: list[list[npt.NDArray[Any]]] = [[], [], []]
    for start in range(0, len(rows), 256):
        places = torch.from_numpy(examples.places[rows[start : start + 256]].astype(np.float32))
        vectors, tokens = trainer.head(places)
        painted = trainer.paint(tokens.transpose(1, 2).unflatten(2, (GRID, GRID)))
        made = (vectors, trainer.read(vectors), painted.flatten(2).transpose(1, 2))
        for kept, one in zip(parts, made, strict=True):
            kept.append(one.numpy())
    vectors_, read, pictures = (np.concatenate(part) for part in parts)
    return vectors_, read, pictures


def run(
    data: Path,
    out: Path,
    *,
    minutes: float,
    steps: int | None = None,
    tight: int = 4000,
    wide: int = 1800,
    pairs: int = 350,
    seed: int = 0,
) -> dict[str, float]:
    """Gather, train, write `out`/features.safetensors and return the figures.

    Raises UsageError when the data cannot be read or are too few, or `out` can be no folder; nothing is
    made then.
    """
    from safetensors.numpy import save

    refuse_output(out, folder=True)
    for name in ("index.csv", "faces-144.zip", "wide.csv", "wide.zip"):
        if not (data / name).is_file():
            raise UsageError(f"{data / name} is missing", hint="docs/training.md has the format")
    torch.set_num_threads(1)  # the sums, and so the file, depend on it
    examples = gather(data, out, tight=tight, wide=wide, pairs=pairs, seed=seed)
    trainer = train(examples, minutes=minutes, steps=steps, seed=seed)
    tensors = {name: value.half().numpy() for name, value in trainer.head.state_dict().items()}
    found = figures(trainer, examples)
    about = {name: f"{value:.4f}" for name, value in found.items()}
    write(out / "features.safetensors", save(tensors, about))
    return found
