"""Train the traits head and write `identity.safetensors`: python -m moretta.training.traits --data FOLDER --out FILE.

Promise   the same data, whitening and seed give the same file on the same machine.
Assumes   faces-144.zip and index.csv of UTKFace crops in FOLDER (columns in `read_rows`); the last
          600 rows train nothing. Age and gender are as UTKFace's labels have them: apparent.
Not here  the whitening: it is taken over as it is, from the bundled file or from --whitening.
Sources   UTKFace: Zhang, Song, Qi, CVPR 2017. Temperature scaling: Guo et al., ICML 2017.
Checked   tests/training/test_traits.py; figures of the shipped file in docs/networks.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.errors import UsageError, count_of
from moretta.networks.pool import BAND_STARTS, BANDS, LENGTH
from moretta.networks.traits import TENSORS, TraitsHead
from moretta.training.crops import pictures, points_of, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    import torch
    from torch import nn

    from moretta.networks.identity import Identity

    Floats = npt.NDArray[np.floating[Any]]
    Whole = npt.NDArray[np.int64]

HELD_OUT = 600  # last rows: nothing is learnt from them
CALIBRATION = 1_500  # rows before those: they set the temperatures, not the weights
GROUPS = ("White", "Black", "Asian", "Indian", "other")  # UTKFace's words

WIDTH = 128  # hidden units
EPOCHS = 30
BATCH = 256
RATE = 2e-3
DECAY = 1e-2
DROPOUT = 0.3
NOISE = 0.3  # standard deviation, beside components of about 1

_EMBED_BATCH = 32


@dataclass(frozen=True, slots=True)
class Row:
    """One crop of the table."""

    file: str
    band: int  # place in BANDS
    gender: int  # place in GENDERS
    group: int  # place in GROUPS
    points: tuple[float, ...]  # x and y in turn, five points in pixels of the crop


@dataclass(frozen=True, slots=True)
class Labels:
    """(n,) each, one place a crop: see Row."""

    bands: Whole
    genders: Whole
    groups: Whole

    def __getitem__(self, chosen: slice | npt.NDArray[np.bool_]) -> Labels:
        return Labels(self.bands[chosen], self.genders[chosen], self.groups[chosen])


def band_of(age: int) -> int:
    """Return the place in BANDS of an age in years.

    >>> [band_of(age) for age in (0, 12, 13, 19, 20, 39, 40, 59, 60, 116)]
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    """
    return sum(age >= start for start in BAND_STARTS)


def read_rows(path: Path) -> list[Row]:
    """Read index.csv: file, age, gender (0 male, 1 female) and group (0 to 4) among its columns, points last.

    Raises UsageError when it is missing, or a row has no such labels or points.
    """
    rows = []
    for row in table(path, ("file", "age", "gender", "group")):
        try:
            age, gender, group = (int(row[name]) for name in ("age", "gender", "group"))
        except (TypeError, ValueError):
            gender = group = age = -1
        if age < 0 or gender not in (0, 1) or group not in range(len(GROUPS)):
            raise UsageError(
                f"{path}: the row of {row['file']} has no age, gender (0, 1) and group (0 to 4)",
                hint="docs/training.md has the format",
            )
        points = tuple(points_of(row, path).ravel().tolist())
        rows.append(Row(row["file"], band_of(age), gender, group, points))
    return rows


def labels_of(rows: list[Row]) -> Labels:
    """Return the labels of `rows` as arrays."""
    return Labels(*np.array([(r.band, r.gender, r.group) for r in rows], dtype=np.int64).T)


# ---- identities ------------------------------------------------------------------------------


def embed(archive: Path, rows: list[Row], identity: Identity) -> Floats:
    """Identities of the crops in the zip -> (n, 48) float32; 8 ms a crop on one free thread.

    Mirrored copies are not embedded: with them the held-out figures were the same.
    """
    import torch

    with torch.inference_mode():
        return torch.cat([identity(chips) for chips in _chips(archive, rows)]).numpy()


def _chips(archive: Path, rows: list[Row]) -> Iterator[torch.Tensor]:
    import torch

    from moretta.networks.identity import cut

    crops = pictures(archive, (row.file for row in rows))
    for start in range(0, len(rows), _EMBED_BATCH):
        chips = []
        for row, crop in zip(rows[start : start + _EMBED_BATCH], crops, strict=False):
            pixels = torch.from_numpy(crop.astype(np.float32))
            points = torch.tensor(row.points, dtype=torch.float64).view(1, 5, 2)
            chips.append(cut(pixels.permute(2, 0, 1)[None], points))
        yield torch.cat(chips).contiguous(memory_format=torch.channels_last)


# ---- the head --------------------------------------------------------------------------------


def fit(
    identities: Floats, labels: Labels, *, seed: int, epochs: int = EPOCHS, width: int = WIDTH
) -> dict[str, npt.NDArray[np.float32]]:
    """Fit a head to (n, 48) identities -> tensors as networks.traits names them.

    The last CALIBRATION of the n (a tenth, if that is fewer) set one temperature for the bands
    and one for gender, folded into the last layer. torch's own random state is left as it was.
    """
    import torch
    from torch.nn import functional

    kept = len(labels.bands) - min(CALIBRATION, len(labels.bands) // 10)
    x = torch.from_numpy(np.array(identities, np.float32) * identities.shape[1] ** 0.5)
    bands, females = torch.from_numpy(labels.bands), torch.from_numpy(labels.genders).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = torch.nn.Sequential(
            torch.nn.Linear(x.shape[1], width),
            torch.nn.ReLU(),
            torch.nn.Dropout(DROPOUT),
            torch.nn.Linear(width, len(BANDS) + 1),
        )
        optimiser = torch.optim.AdamW(head.parameters(), RATE, weight_decay=DECAY)
        steps = max(2, epochs * kept // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
        for _ in range(steps):
            chosen = torch.randint(0, kept, (BATCH,))
            seen = x[chosen]
            logits = head(seen + NOISE * torch.randn_like(seen))
            loss = functional.cross_entropy(logits[:, :-1], bands[chosen])
            gender = functional.binary_cross_entropy_with_logits(logits[:, -1], females[chosen])
            optimiser.zero_grad()
            torch.autograd.backward(loss + gender)
            optimiser.step()
            schedule.step()
    return _calibrated(head.eval(), x[kept:], bands[kept:], females[kept:])


def _calibrated(
    head: nn.Sequential, x: torch.Tensor, bands: torch.Tensor, females: torch.Tensor
) -> dict[str, npt.NDArray[np.float32]]:
    """The head's tensors, its logits divided by the temperatures that fit `x` best."""
    import torch
    from torch.nn import functional

    with torch.no_grad():
        logits = head(x)
        # a grid from 0.5 to 2 in steps of 2 %: the loss is flat about its least value
        grid = torch.logspace(-1, 1, 71, base=2).tolist()
        by_band = [functional.cross_entropy(logits[:, :-1] / t, bands) for t in grid]
        by_gender = [
            functional.binary_cross_entropy_with_logits(logits[:, -1] / t, females) for t in grid
        ]
        temperature = torch.full((len(BANDS) + 1,), grid[int(torch.stack(by_band).argmin())])
        temperature[-1] = grid[int(torch.stack(by_gender).argmin())]
        state = head.state_dict()
        weight = state["3.weight"] / temperature[:, None]
        tensors = (state["0.weight"], state["0.bias"], weight, state["3.bias"] / temperature)
        return {name: each.numpy().copy() for name, each in zip(TENSORS, tensors, strict=True)}


# ---- figures ---------------------------------------------------------------------------------


def figures(head: TraitsHead, identities: Floats, labels: Labels) -> dict[str, float]:
    """Shares and areas on (n, 48) identities: what `report` prints of each subset.

    gender, band, within_one (bands): share read right. auc: a random female's probability above
    a random male's. ece_band, ece_gender: mean gap between confidence and share right, 10 bins.
    """
    bands, female = head.probabilities(identities)
    guess, girl = bands.argmax(axis=1), female >= 0.5
    right_band, right_gender = guess == labels.bands, girl == labels.genders
    return {
        "n": len(guess),
        "gender": float(right_gender.mean()),
        "auc": area(female, labels.genders == 1),
        "band": float(right_band.mean()),
        "within_one": float((np.abs(guess - labels.bands) <= 1).mean()),
        "ece_band": calibration_gap(bands.max(axis=1), right_band),
        "ece_gender": calibration_gap(np.maximum(female, 1 - female), right_gender),
    }


def area(scores: Floats, positive: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative; ties count half.

    >>> area(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    if positive.all() or not positive.any():
        return float("nan")
    negatives = np.sort(scores[~positive])
    below = np.searchsorted(negatives, scores[positive], side="left")
    until = np.searchsorted(negatives, scores[positive], side="right")
    return float((below + until).mean() / 2 / len(negatives))


def calibration_gap(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error: |share right - mean confidence| over bins, by their size.

    >>> round(calibration_gap(np.array([0.8, 0.8, 0.8, 0.8]), np.array([True, True, True, False])), 3)
    0.05
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [(right[place == b] - confidence[place == b]).sum() for b in range(bins)]
    return float(np.abs(gaps).sum() / len(confidence))


def report(head: TraitsHead, identities: Floats, labels: Labels) -> str:
    """Figures of all, of each group and of each band, as a Markdown table."""
    subsets = {"all": np.ones(len(labels.bands), dtype=bool)}
    subsets |= {name: labels.groups == at for at, name in enumerate(GROUPS)}
    subsets |= {name: labels.bands == at for at, name in enumerate(BANDS)}
    lines: list[str] = []
    for name, chosen in subsets.items():
        if chosen.any():
            found = figures(head, identities[chosen], labels[chosen])
            if not lines:
                lines = [f"| | {' | '.join(found)} |", "|---" * (1 + len(found)) + "|"]
            cells = [f"{v:.3f}" if k != "n" else f"{v:.0f}" for k, v in found.items()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


# ---- one call --------------------------------------------------------------------------------


def read_whitening(path: Path | None) -> dict[str, npt.NDArray[np.float32]]:
    """Return the whitening of the bundled file, or of an .npz with `mu` (128,) and `P` (128, 48)."""
    from moretta.networks.identity import DIRECTIONS, MEAN
    from moretta.weights import load

    if path is None:
        bundled = load.tensors("identity")
        return {name: bundled[name].astype(np.float32) for name in (MEAN, DIRECTIONS)}
    with np.load(path, allow_pickle=False) as arrays:
        return {MEAN: arrays["mu"].astype(np.float32), DIRECTIONS: arrays["P"].astype(np.float32)}


def main(arguments: list[str] | None = None) -> int:
    """Embed, fit, print the figures of the held-out rows, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m moretta.training.traits", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with faces-144.zip")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--whitening", type=Path, help="npz with mu and P; default: as bundled")
    parser.add_argument(
        "--identities", type=Path, help="npy of the embedded crops: read if it is there, else kept"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, help="read the first rows only, for a trial")
    chosen = parser.parse_args(arguments)

    import torch
    from safetensors.numpy import save_file

    from moretta.networks.identity import Identity
    from moretta.weights import load

    torch.set_num_threads(1)  # the sums, and so the file, depend on it
    started = time.monotonic()
    whitening = read_whitening(chosen.whitening)
    rows = read_rows(chosen.data / "index.csv")[: chosen.rows]
    held_out = min(HELD_OUT, len(rows) // 4)
    if chosen.identities and chosen.identities.exists():
        identities = np.load(chosen.identities, allow_pickle=False)
        if identities.shape != (len(rows), LENGTH):
            parser.error(
                f"{chosen.identities} holds {identities.shape}, not {count_of(len(rows), 'crop')}"
            )
    else:
        identity = Identity.from_tensors(load.tensors("dlib"), whitening)
        identity.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        identities = embed(chosen.data / "faces-144.zip", rows, identity)
        if chosen.identities:
            with chosen.identities.open("wb") as kept:
                np.save(kept, identities)
    embedded = time.monotonic()
    labels = labels_of(rows)
    tensors = fit(identities[:-held_out], labels[:-held_out], seed=chosen.seed)
    head = TraitsHead.from_tensors(tensors)
    sys.stdout.write(report(head, identities[-held_out:], labels[-held_out:]) + "\n")
    save_file(whitening | tensors, chosen.out)
    spent = (embedded - started, time.monotonic() - embedded)
    sys.stdout.write(f"embedding {spent[0]:.0f} s, fitting {spent[1]:.0f} s: {chosen.out}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
