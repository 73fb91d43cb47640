"""What others would read off a face: apparent age, gender, expression, and where the head turns.

The networks are not ours, drew nothing and taught no method of ours. None of them ships; one that is
not there is named as not measured (docs/networks.md says how to make them). A reading is how a face
looks to a network, no fact about a person.
Sources  the packages in catalogue.toml; scaled orthography for the head (DeMenthon, Davis 1995).
Checked  tests/evaluation/test_readers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.faces.crop import to_template, warp
from moretta.weights import load

if TYPE_CHECKING:
    import numpy.typing as npt

    from moretta.evaluation.embed import Cache
    from moretta.records import Face, Pixels, Points

    Floats = npt.NDArray[np.float64]

GENDERS = ("female", "male")
AGES = np.array([0.25, *range(1, 81)])  # years that the classes of `age` stand for
BATCH = 32

#: A generic head, mm from the tip of its nose: right, down, away from the camera. Order of Points.
HEAD = np.array([[-32, -34, 27], [32, -34, 27], [0, 0, 0], [-24, 30, 22], [24, 30, 22]], np.float64)


def chip(photo: Pixels, face: Face, side: int) -> Pixels:
    """Return dlib's chip with a margin of a fifth, (side, side, 3)."""
    unit = to_template(face, "dlib", side)  # margin of a quarter: u = (0.25 + p) / 1.5
    wide, narrow = 1.5, 1.4
    matrix = unit * (wide / narrow)
    matrix[:, 2] -= side * 0.05 / narrow
    return warp(photo, matrix, side, border="edge")


def boxed(photo: Pixels, face: Face, side: int) -> Pixels:
    """Return the square about the face's box, upright, (side, side, 3)."""
    box = face.box
    scale = side / max(box.width, box.height)
    middle = np.array([(box.left + box.right) / 2, (box.top + box.bottom) / 2])
    matrix = np.column_stack([np.eye(2) * scale, side / 2 - middle * scale])
    return warp(photo, matrix, side, border="edge")


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A network that reads one thing off crops."""

    name: str
    side: int
    crop: Callable[[Pixels, Face, int], Pixels]
    session: Any

    def cut(self, photo: Pixels, face: Face) -> Pixels:
        """Return the crop that it wants, (side, side, 3) RGB."""
        return self.crop(photo, face, self.side)

    def probabilities(self, crops: Pixels, cache: Cache | None = None) -> Floats:
        """(n, side, side, 3) -> (n, classes)."""
        import hashlib

        keys = [hashlib.sha256(crop.tobytes()).digest() for crop in crops]
        kind = f"{self.name}-{load.entry(self.name).sha256[:12]}"
        kept = cache.get(kind, keys) if cache else [None] * len(keys)
        todo = [i for i, value in enumerate(kept) if value is None]
        for start in range(0, len(todo), BATCH):
            chosen = todo[start : start + BATCH]
            batch = crops[chosen].transpose(0, 3, 1, 2).astype(np.float32)
            if self.session.get_inputs()[0].shape[1] == 1:
                batch = np.tensordot([[0.299, 0.587, 0.114]], batch, (1, 1)).transpose(1, 0, 2, 3)
                batch = batch.astype(np.float32)
            made = self.session.run(None, {self.session.get_inputs()[0].name: batch})[0]
            for i, row in zip(chosen, made, strict=True):
                kept[i] = row
                if cache:
                    cache.put(kind, keys[i], row)
        rows = [row for row in kept if row is not None]
        return np.stack(rows).astype(np.float64) if rows else np.zeros((0, 1))


_CROPS: dict[str, tuple[int, Callable[[Pixels, Face, int], Pixels]]] = {
    "age": (64, chip),
    "gender": (32, chip),
    "expression": (64, boxed),
}
READERS = tuple(_CROPS)


def reader(name: str) -> Reader:
    """Return a reader by its name in the catalogue. Raises WeightsRejected when it is not there."""
    side, crop = _CROPS[name]
    return Reader(name, side, crop, load.open_onnx(name))


def years(probabilities: Floats) -> Floats:
    """(n, 81) -> (n,) expected years."""
    found: Floats = probabilities @ AGES
    return found


def head_angles(points: Points) -> Floats:
    """Return yaw, pitch and roll in degrees, (3,), of the head with these five points.

    Positive: turned to its own left (the picture's right), down, and leaning to the picture's right.
    Scaled orthography: the affine map of HEAD to the points, and the rotation nearest to it.
    """
    solid, flat = HEAD - HEAD.mean(0), points - points.mean(0)
    rows = np.linalg.lstsq(solid, flat, rcond=None)[0].T  # (2, 3)
    left, _, right = np.linalg.svd(rows, full_matrices=False)
    first, second = left @ right
    third = np.cross(first, second)
    yaw = np.arctan2(-first[2], third[2])
    pitch = np.arcsin(np.clip(-second[2], -1, 1))
    roll = np.arctan2(second[0], first[0])
    angles: Floats = np.degrees(np.array([yaw, pitch, roll]))
    return angles


def kappa(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> float:
    """Return Cohen's kappa of two labellings, (n,) each; nan where all labels are one."""
    classes = int(max(first.max(), second.max())) + 1
    table = np.bincount(first * classes + second, minlength=classes**2).reshape(classes, classes)
    total = table.sum()
    by_chance = float((table.sum(0) * table.sum(1)).sum()) / total**2
    return (
        float((np.trace(table) / total - by_chance) / (1 - by_chance)) if by_chance < 1 else np.nan
    )


def skin_tone(photo: Pixels, face: Face) -> float:
    """Return the individual typology angle of both cheeks in degrees: light skin has a large one.

    arctan((L - 50) / b) in CIELAB; nan outside of the photo. The light of the photo is in it.
    """
    light, _, yellow = skin_colour(photo, face)
    return float(np.degrees(np.arctan2(light - 50, yellow)))


def skin_colour(photo: Pixels, face: Face) -> Floats:
    """Return the cheeks' colour, (3,) CIELAB: the median of two patches between eye and mouth corner.

    nan where both lie outside of the photo.
    """
    import cv2

    points, between = face.points, float(np.linalg.norm(face.points[1] - face.points[0]))
    half = max(1, round(between / 10))
    patches = []
    for eye, mouth in ((0, 3), (1, 4)):
        x, y = np.rint(points[eye] * 0.4 + points[mouth] * 0.6).astype(int)
        part = photo[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
        patches.append(part.reshape(-1, 3))
    colour = np.concatenate(patches)
    if not len(colour):
        return np.full(3, np.nan)
    lab: Any = cv2.cvtColor(colour[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]
    return np.asarray(np.median(lab, axis=0), np.float64)
