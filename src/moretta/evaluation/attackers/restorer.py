"""A3-lin: a linear restorer of pixels, learnt on pairs of other people's photos.

Ridge regression from small anonymised crops to small clear ones: solves any fixed linear map at that
scale (blur, mixing, a fixed shuffle of blocks). What it draws is given to the recogniser.
In its dual form it costs the cube of the number of training photos, not of pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Floats, Ints, cosine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moretta.records import Pixels

SIDES = (32, 64)  # px of the crops that are restored
WEIGHTS = (1e-3, 1e-2, 1e-1)  # of the penalty, times the mean square of the training pictures
ALIGNMENT = "clear"  # the same points on both sides


def small(crops: Pixels, side: int) -> Floats:
    """(n, big, big, 3) uint8 -> (n, side * side * 3) in 0..1, by area."""
    import cv2

    rows: Any = [cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA) for crop in crops]
    flat: Floats = np.stack(rows).reshape(len(crops), -1).astype(np.float64) / 255
    return flat


def drawn(flat: Floats, side: int, big: int) -> Pixels:
    """(n, side * side * 3) in 0..1 -> (n, big, big, 3) uint8."""
    import cv2

    pictures = np.clip(flat.reshape(-1, side, side, 3), 0, 1).astype(np.float32)
    rows: Any = [cv2.resize(one, (big, big), interpolation=cv2.INTER_CUBIC) for one in pictures]
    grown: Pixels = np.rint(np.clip(np.stack(rows), 0, 1) * 255).astype(np.uint8)
    return grown


class Restorer:
    """Ridge regression in its dual form, for several weights at once."""

    def __init__(self, anon: Floats, clear: Floats) -> None:
        self._before, self._after = anon.mean(0), clear.mean(0)
        self._x = anon - self._before
        gram = self._x @ self._x.T
        self._value, self._vector = np.linalg.eigh(gram)
        self._turned = self._vector.T @ (clear - self._after)
        self._level = float(np.trace(gram)) / len(gram)

    def __call__(self, anon: Floats, weight: float) -> Floats:
        """(m, pixels) -> (m, pixels): the restored pictures."""
        against = (anon - self._before) @ self._x.T @ self._vector
        inverse = 1 / (np.maximum(self._value, 0) + weight * self._level + 1e-9)
        restored: Floats = (against * inverse) @ self._turned + self._after
        return restored


def lazily(case: Case, restore: Callable[[Ints], Pixels]) -> Callable[[Ints, Ints], Floats]:
    """Return a score that restores and embeds only the probes it is asked about."""
    embed = case.embed
    if embed is None:
        raise ValueError("a restorer needs a recogniser")

    def score(probe_rows: Ints, gallery_rows: Ints) -> Floats:
        found: Floats = embed(restore(probe_rows)) @ case.clear[gallery_rows].T
        return found

    return score


def candidates(case: Case, rows: Ints) -> Iterator[Candidate]:
    """Yield the untrained twin, then each size and weight."""
    if case.clear_crops is None or case.anon_crops is None:
        raise ValueError("a restorer needs crops")
    for name, vectors in case.anon.items():
        yield Candidate(label=f"untrained, points from {name}", score=cosine(vectors, case.clear))
    released, big = case.anon_crops[ALIGNMENT], case.clear_crops.shape[1]
    for side in [each for each in SIDES if each <= big]:
        restorer = Restorer(small(released[rows], side), small(case.clear_crops[rows], side))
        for weight in WEIGHTS:

            def restore(
                wanted: Ints, side: int = side, weight: float = weight, by: Restorer = restorer
            ) -> Pixels:
                return drawn(by(small(released[wanted], side), weight), side, big)

            label = f"{side} px, weight {weight:g}"
            yield Candidate(label=label, score=lazily(case, restore), trained=True)


LINEAR = Attacker(
    name="A3-lin",
    summary="pixels restored by a learnt linear map",
    gallery="clear",
    candidates=candidates,
    trained=True,
    pixels=True,
)
