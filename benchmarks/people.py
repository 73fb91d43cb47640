"""People with two photos, and their faces before and after: what several scripts here measure on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moretta.api import Anonymizer
from moretta.faces.detect import yunet
from moretta.faces.steady import held
from moretta.records import Face


def faces_of(folder: Path, count: int, *, steady: bool = True) -> list[tuple[Any, Face, Any, Face]]:
    """Return (photo, face, other photo, its face) of `count` people: the faces nearest the centre.

    Their points are held, as those of a face that is to be drawn are (faces.steady), unless told not to.
    """
    finder, look = Anonymizer("solid"), yunet.build("cpu", 1)
    found = []
    people = [one for one in sorted(folder.iterdir()) if one.is_dir()]
    people = [one for one in people if len(list(one.iterdir())) > 1]
    for person in people[:: max(1, len(people) // count)][:count]:
        pair: list[Any] = []
        for path in sorted(person.iterdir())[:2]:
            photo = np.asarray(Image.open(path).convert("RGB"))
            faces = finder.find(photo)
            middle = np.array(photo.shape[1::-1]) / 2
            faces.sort(key=lambda face: np.abs(face.points.mean(0) - middle).sum())
            if faces:
                pair += [photo, held(photo, faces[0], look) if steady else faces[0]]
        if len(pair) == 4:
            found.append(tuple(pair))
    return found


def found_again(
    finder: Anonymizer, photos: Sequence[Any], faces: Sequence[Face]
) -> tuple[float, float]:
    """Return the share of faces that are found at their places, and the median of `points_off`."""
    off = points_off(finder, photos, faces)
    found = ~np.isnan(off)
    return float(found.mean()), float(np.median(off[found])) if found.any() else float("nan")


def points_off(finder: Anonymizer, photos: Sequence[Any], faces: Sequence[Face]) -> np.ndarray:
    """Return the five points' mean distance of each face, in % of that of the eyes; nan: not found.

    Points are held in both: a detector's single ones move by 7 to 8 % in a photo that is merely moved.
    """
    errors, look = np.full(len(photos), np.nan), yunet.build("cpu", 1)
    for i, (photo, face) in enumerate(zip(photos, faces, strict=True)):
        near = [one for one in finder.find(photo) if one.box.overlap(face.box) > 0.3]
        if near:
            points = held(photo, near[0], look).points
            gap = np.linalg.norm(points - face.points, axis=1).mean()
            errors[i] = 100 * gap / np.linalg.norm(face.points[0] - face.points[1])
    return errors
