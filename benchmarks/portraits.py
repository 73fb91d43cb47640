"""Head-and-shoulders cut-outs from the LFW pack, each with the one face that it shows.

A photo is used only if two detectors agree that it holds exactly one face, so that whatever is
pasted from it is known. The truth box is the mean of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from finders import Finder, Picture

Floats = npt.NDArray[np.float32]
_GROWN = np.ones((11, 11), np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Portrait:
    """One person, cut out softly; lengths in pixels of the source photo."""

    person: str
    picture: Picture
    alpha: Floats
    box: npt.NDArray[np.float64]  # left, top, right, bottom
    cloth: Floats  # mean colour under the chin, BGR

    @property
    def side(self) -> float:
        """Geometric mean of the face's width and height."""
        left, top, right, bottom = self.box
        return float(((right - left) * (bottom - top)) ** 0.5)

    @property
    def centre(self) -> tuple[float, float]:
        """Of the face."""
        left, top, right, bottom = self.box
        return float(left + right) / 2, float(top + bottom) / 2


def portraits(photos: Sequence[Path], small: Finder, large: Finder) -> Iterator[Portrait]:
    """Portraits of those `photos` that show one face and no black corner in the way.

    `small` looks at twice the size too, for people in the background.
    """
    for path in photos:
        picture = np.asarray(cv2.imread(str(path)), np.uint8)
        twice = np.asarray(cv2.resize(picture, None, fx=2, fy=2), np.uint8)
        seen, again, third = small(picture, 0.5), small(twice, 0.5), large(picture, 0.2)
        if not len(seen) == len(again) == len(third) == 1:
            continue
        box = (seen[0, :4] + third[0, :4]) / 2
        if np.abs(seen[0, :4] - third[0, :4]).max() > 0.2 * (box[3] - box[1]):
            continue
        alpha, hidden = _cut_out(picture, box)
        if hidden > 0.06:
            continue
        left, top, right, bottom = box
        chest = picture[int(bottom + 0.35 * (bottom - top)) :, int(left) : int(right)]
        if chest.shape[0] < 4:
            continue
        cloth = chest.reshape(-1, 3).mean(0).astype(np.float32)
        yield Portrait(person=path.parent.name, picture=picture, alpha=alpha, box=box, cloth=cloth)


def _cut_out(picture: Picture, box: npt.NDArray[np.float64]) -> tuple[Floats, float]:
    """Return the soft mask of head and shoulders, and the share of the head that is corner."""
    height, width = picture.shape[:2]
    left, top, right, bottom = box
    x, y, side = (left + right) / 2, (top + bottom) / 2, ((right - left) * (bottom - top)) ** 0.5
    column, row = np.arange(width)[None] + 0.5, np.arange(height)[:, None] + 0.5
    head = ((column - x) / (0.82 * side)) ** 2 + ((row - y + 0.14 * side) / (1.05 * side)) ** 2 <= 1
    chest = ((column - x) / (1.3 * side)) ** 4 + ((row - y - 1.7 * side) / (0.95 * side)) ** 2 <= 1
    corner = _black_corners(picture)
    wanted = (head | chest) & ~cv2.dilate(corner.astype(np.uint8), _GROWN).astype(bool)
    edge_px = max(2, int(0.08 * side))
    wanted[:edge_px] = wanted[height - edge_px :] = False  # fades out before the photo ends
    wanted[:, :edge_px] = wanted[:, width - edge_px :] = False
    alpha = cv2.GaussianBlur(wanted.astype(np.float32), (0, 0), 0.045 * side)
    alpha[corner] = 0
    return alpha.astype(np.float32), float((corner & head).sum() / head.sum())


def _black_corners(picture: Picture) -> npt.NDArray[np.bool_]:
    """Black areas that touch the photo's edge: left by deep funneling."""
    black = (picture.max(axis=2) <= 12).astype(np.uint8)
    _, labels = cv2.connectedComponents(black)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    touching = np.isin(labels, np.setdiff1d(edge, [0])).astype(np.uint8)
    return cv2.dilate(touching, np.ones((3, 3), np.uint8)).astype(bool)
