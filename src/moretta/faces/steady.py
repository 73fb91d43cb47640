"""Five points that hold still: a detector's, averaged over views of one face.

A detector's points move when the picture does: on LFW, YuNet's moved by 7 % of the distance between
the eyes when the photo was shifted by five pixels. The mean over eight views of one crop comes back
within 2.3 % from eight other views. What is drawn from points, and what is measured with them, is no
steadier than they are.

Assumes   wide crops (design section 4), whatever their side, and points near the face's own.
Not here  finding faces; deciding whether points belong to a face (crop.points_fit).
Checked   tests/faces/test_steady.py; benchmarks/points.py has the figures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moretta.faces.crop import apply, inverse, points_fit, to_template, warp

if TYPE_CHECKING:
    from moretta.faces.detect.search import Look
    from moretta.records import Face, Pixels, Points

SIDE = 128  # px of a view
_CROP = 192  # px of the wide crop that the views are taken from
LEAST = 4  # views that must see the face; with fewer the points stay as they are
NEAR = 0.15  # sides: a find whose points are farther from those given, on average, is another face
LEAST_SCORE = 0.3


class View(NamedTuple):
    """One view of a crop."""

    scale: float
    shift: tuple[float, float]  # pixels of the view
    mirrored: bool


#: Scales over an octave, shifts over the detector's coarsest stride (32 px), half of them mirrored.
VIEWS = (
    View(0.72, (-11, 5), False),
    View(0.79, (4, -13), True),
    View(0.87, (12, 9), False),
    View(0.95, (-6, -3), True),
    View(1.04, (7, -8), False),
    View(1.14, (-14, 12), True),
    View(1.25, (1, 15), False),
    View(1.37, (10, -1), True),
)


def held(photo: Pixels, face: Face, look: Look) -> Face:
    """Return a face of a photo with steady points; as it is where they are not seen or do not fit.

    photo: (height, width, 3) RGB. look: a detector's, as `detect.yunet.build` returns it.
    """
    if not points_fit(face):
        return face
    matrix = to_template(face, "wide", _CROP)
    before = apply(matrix, face.points) / _CROP
    after = steadied(warp(photo, matrix, _CROP), before, look)
    if after is before:
        return face
    steady = replace(face, points=apply(inverse(matrix), after * _CROP))
    return steady if points_fit(steady) else face


def steadied(crop: Pixels, points: Points, look: Look) -> Points:
    """Return the mean of the detector's points over `VIEWS`; `points` where too few see the face.

    crop: (side, side, 3) RGB. points: (5, 2) in units of the side. look: a detector's, as
    `detect.yunet.build` returns it. Returns (5, 2) in units of the side.
    """
    seen = [one for view in VIEWS if (one := points_seen(crop, points, look, view)) is not None]
    if len(seen) < LEAST:
        return points
    together: Points = np.mean(seen, axis=0)
    return together


def points_seen(crop: Pixels, points: Points, look: Look, view: View) -> Points | None:
    """Return the points that one view shows, in units of the crop's side; None without the face."""
    factor = SIDE / len(crop) * view.scale
    start = (SIDE - factor * len(crop)) / 2
    shift = np.array([start + view.shift[0], start + view.shift[1]])
    picture = warp(crop, np.column_stack([np.eye(2) * factor, shift]), SIDE)
    found = look(np.ascontiguousarray(picture[:, ::-1]) if view.mirrored else picture, LEAST_SCORE)
    if not len(found.scores):
        return None
    marks = found.points
    if view.mirrored:
        marks = np.stack([SIDE - marks[..., 0], marks[..., 1]], -1)[:, [1, 0, 2, 4, 3]]
    back = (marks - shift) / factor / len(crop)
    far = np.linalg.norm(back - points, axis=2).mean(1)
    best = int(np.argmax(np.where(far < NEAR, found.scores, -1)))
    chosen: Points = back[best]
    return chosen if far[best] < NEAR else None
