"""Detections out, a person's corrections in: our own JSON lines, or COCO.

A photo named in the file gets exactly the faces that stand there: what a person added is covered,
what a person removed is not. Photos that are not named are searched as usual.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moretta.errors import UsageError
from moretta.faces.crop import points_of_box
from moretta.faces.detect import DETECTORS
from moretta.records import Box, Face

SCHEMA = 1
FAR = 1e9  # px; also keeps out NaN, infinity and numbers that no float holds


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """The faces of one photo as the file has them, and the size of the photo they were drawn on."""

    width: int
    height: int
    faces: tuple[Face, ...]


def as_line(name: str, width: int, height: int, faces: list[Face]) -> dict[str, Any]:
    """Return one photo's detections as a JSON line, in upright pixels."""
    return {
        "schema": SCHEMA,
        "name": name,
        "width": width,
        "height": height,
        "faces": [
            {
                "box": [round(v, 2) for v in (f.box.left, f.box.top, f.box.right, f.box.bottom)],
                "points": [[round(float(x), 2), round(float(y), 2)] for x, y in f.points],
                "score": round(f.score, 4),
                "detector": f.detector,
            }
            for f in faces
        ],
    }


def read_boxes(path: Path) -> dict[str, Drawn]:
    """Return name -> faces from a file of JSON lines or a COCO JSON file.

    Raises UsageError naming the line or annotation that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UsageError(f"{path} cannot be read: {why}", hint="check --boxes") from error
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict) and "annotations" in whole:
        return _coco(whole, path)
    drawn: dict[str, Drawn] = {}
    for number, row in enumerate(text.split("\n"), 1):  # names may hold other line separators
        if row.strip():
            where = f"{path}: line {number}"
            try:
                line = json.loads(row)
            except (ValueError, RecursionError) as error:
                raise _wrong(where, f"not JSON ({error})") from error
            name = _text(line, "name", where)
            if name in drawn:
                raise _wrong(where, f"{name} is named twice")
            drawn[name] = _line(line, where)
    return drawn


def _line(line: Mapping[str, Any], where: str) -> Drawn:
    schema = line.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise _wrong(where, f"written by a newer version (schema {schema!r})")
    width, height = _size(line, where)
    faces = line.get("faces")
    if not isinstance(faces, list):
        raise _wrong(where, "«faces» must be a list")
    found = []
    for i, face in enumerate(faces):
        label = f"{where}, face {i + 1}"
        if not isinstance(face, Mapping):
            raise _wrong(label, "a face is an object with a «box»")
        box = _box(face.get("box"), width, height, label)
        found.append(_face(box, face.get("points"), face, label))
    return Drawn(width, height, tuple(found))


def _coco(whole: Mapping[str, Any], path: Path) -> dict[str, Drawn]:
    for part in ("images", "annotations"):
        if not isinstance(whole.get(part), list):
            raise _wrong(str(path), f"«{part}» must be a list")
    images: dict[int | str, tuple[str, int, int]] = {}
    faces: dict[int | str, list[Face]] = {}
    for i, image in enumerate(whole["images"]):
        where = f"{path}: image {i + 1}"
        if not isinstance(image, Mapping) or not isinstance(image.get("id"), int | str):
            raise _wrong(where, "an image needs id, file_name, width and height")
        name = _text(image, "file_name", where)
        if image["id"] in images or name in (one for one, _, _ in images.values()):
            raise _wrong(where, f"{name} or its id is named twice")
        images[image["id"]] = (name, *_size(image, where))
        faces[image["id"]] = []
    for i, mark in enumerate(whole["annotations"]):
        where = f"{path}: annotation {i + 1}"
        key = mark.get("image_id") if isinstance(mark, Mapping) else None
        if not isinstance(key, int | str) or key not in images:
            raise _wrong(where, "its image_id is not among the images")
        _, width, height = images[key]
        x, y, w, h = _numbers(mark.get("bbox"), 4, where, "bbox is [x, y, width, height]")
        box = _box([x, y, x + w, y + h], width, height, where)
        faces[key].append(_face(box, None, {}, where))
    return {name: Drawn(w, h, tuple(faces[one])) for one, (name, w, h) in images.items()}


def _face(box: Box, points: Any, line: Mapping[str, Any], where: str) -> Face:
    measured = points is not None
    if measured:
        if not isinstance(points, list) or len(points) != 5:
            raise _wrong(where, "«points» are five [x, y] pairs, or absent")
        places = np.array([_numbers(p, 2, where, "a point is [x, y]") for p in points])
        if np.ptp(places, axis=0).max() < 1:
            raise _wrong(where, "the five «points» lie in one place; leave them out")
    else:
        places = points_of_box(box)
    score = line.get("score", 1.0)
    return Face(
        box=box,
        points=places,
        score=float(score) if isinstance(score, int | float) else 1.0,
        detector=_detector(line),
        points_from="detector" if measured else "box",
    )


def _detector(line: Mapping[str, Any]) -> str:
    """Return one of our detectors' names, or "manual": no text of the file goes any further."""
    named = line.get("detector")
    return named if isinstance(named, str) and named in DETECTORS else "manual"


def _box(value: Any, width: int, height: int, where: str) -> Box:
    left, top, right, bottom = _numbers(value, 4, where, "a box is [left, top, right, bottom]")
    box = Box(max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    if box.width <= 0 or box.height <= 0:
        raise _wrong(where, f"the box {value} is empty or outside of {width} x {height}")
    return box


def _numbers(value: Any, count: int, where: str, what: str) -> list[float]:
    good = isinstance(value, list) and len(value) == count
    if not good or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < FAR for v in value
    ):
        raise _wrong(where, what)
    return [float(v) for v in value]


def _size(line: Mapping[str, Any], where: str) -> tuple[int, int]:
    size = line.get("width"), line.get("height")
    if not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in size):
        raise _wrong(where, "width and height of the upright photo are needed, in pixels")
    return size  # type: ignore[return-value]


def _text(line: Any, key: str, where: str) -> str:
    if not isinstance(line, Mapping) or not isinstance(line.get(key), str):
        raise _wrong(where, f"«{key}» is needed")
    return str(line[key])


def _wrong(where: str, what: str) -> UsageError:
    return UsageError(f"{where}: {what}", hint="docs/manual-boxes.md shows both forms")
