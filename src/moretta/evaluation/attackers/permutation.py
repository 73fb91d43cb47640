"""A3-perm: a fixed shuffle of blocks, found on other people's photos and undone.

For every grid the blocks of all training photos are compared: a block of the released photo that
was moved from elsewhere has that place's mean and contrast in photo after photo. Correlation over
photos, then the one-to-one assignment that fits best (Hungarian method).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Floats, Ints, cosine
from moretta.evaluation.attackers.restorer import ALIGNMENT, lazily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moretta.records import Pixels

GRIDS = (4, 7, 8, 14, 16)  # blocks a side; only those that divide the crop's side
LEARNT_ON = 300  # photos


def blocks(crops: Pixels, grid: int) -> Any:
    """(n, side, side, 3) -> (n, grid * grid, size, size, 3)."""
    n, side = crops.shape[:2]
    size = side // grid
    cut = crops[:, : size * grid, : size * grid].reshape(n, grid, size, grid, size, 3)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(n, grid * grid, size, size, 3)


def whole(parts: Any, grid: int) -> Pixels:
    """Undo `blocks`."""
    n, _, size = parts.shape[:3]
    laid = parts.reshape(n, grid, grid, size, size, 3).transpose(0, 1, 3, 2, 4, 5)
    joined: Pixels = laid.reshape(n, grid * size, grid * size, 3)
    return joined


def found(anon: Pixels, clear: Pixels, grid: int) -> tuple[Ints, float]:
    """Return where each released block came from, and the mean correlation of that assignment.

    anon, clear: (photos, side, side, 3) of the same photos.
    """
    from scipy.optimize import linear_sum_assignment

    def described(crops: Pixels) -> Floats:
        parts = blocks(crops, grid).astype(np.float32)
        n, count = parts.shape[:2]
        flat = parts.reshape(n, count, -1, 3)
        values = np.concatenate([flat.mean(2), flat.std(2).mean(2, keepdims=True)], axis=2)
        values = values - values.mean(0)
        scaled: Floats = values / np.maximum(np.sqrt((values**2).mean(0)), 1e-6)
        return scaled

    a, c = described(anon), described(clear)
    alike = np.einsum("nik,njk->ij", a, c) / (len(a) * a.shape[2])
    rows, columns = linear_sum_assignment(-alike)
    return columns[np.argsort(rows)].astype(np.int64), float(alike[rows, columns].mean())


def undone(crops: Pixels, source: Ints, grid: int) -> Pixels:
    """Put every block back where it came from."""
    parts = blocks(crops, grid)
    back = np.empty_like(parts)
    back[:, source] = parts
    return whole(back, grid)


def candidates(case: Case, rows: Ints) -> Iterator[Candidate]:
    """Yield the untrained twin, then each grid."""
    if case.clear_crops is None or case.anon_crops is None:
        raise ValueError("a restorer needs crops")
    for name, vectors in case.anon.items():
        yield Candidate(label=f"untrained, points from {name}", score=cosine(vectors, case.clear))
    released, side = case.anon_crops[ALIGNMENT], case.clear_crops.shape[1]
    chosen = rows[:: max(1, len(rows) // LEARNT_ON)][:LEARNT_ON]
    best: list[tuple[float, int, Ints]] = []
    for grid in [each for each in GRIDS if side % each == 0]:
        source, fit = found(released[chosen], case.clear_crops[chosen], grid)
        if (source != np.arange(len(source))).any():
            best.append((fit, grid, source))
    for fit, grid, source in sorted(best, key=lambda each: -each[0])[:2]:

        def restore(wanted: Ints, source: Ints = source, grid: int = grid) -> Pixels:
            return undone(released[wanted], source, grid)

        label = f"{grid} x {grid} blocks, correlation {fit:.2f}"
        yield Candidate(label=label, score=lazily(case, restore), trained=True)


PERMUTATION = Attacker(
    name="A3-perm",
    summary="a fixed shuffle of blocks undone",
    gallery="clear",
    candidates=candidates,
    trained=True,
    pixels=True,
)
