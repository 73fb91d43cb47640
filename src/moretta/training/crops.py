"""Crops that recipes learn from: read once, kept in memory as bytes.

Three kinds, all brought to the wide template (design section 4):
wide   photographed crops with their surroundings: a zip beside a table of five points and people
tight  brow to chin only: placed in the middle of the wide square, the rest unknown
drawn  faces painted by code, for smoke runs and tests: nobody's

Formats   those of docs/training.md, which also says how to bring one's own photos into them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from moretta.errors import UsageError
from moretta.faces.crop import WIDE, WIDE_SIDE
from moretta.photos.files import write_whole

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float32]

HELD = 600  # last crops of a table that no recipe may train on: see `held_of`
_POINTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Crops:
    """A set of crops of one side."""

    pixels: Bytes  # (n, side, side, 3) RGB
    points: Floats  # (n, 5, 2) in units of the side
    people: npt.NDArray[np.int64]  # (n,), -1 where unknown
    known: float  # share of the side, about the centre, that the crops hold: 1 for wide ones
    held: int  # the last so many are held out

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def trained(self) -> int:
        """How many may train: the first ones."""
        return len(self.pixels) - self.held


def held_of(count: int) -> int:
    """How many of so many rows are held out: the last 600, or the last quarter where they are few.

    >>> held_of(17_128), held_of(600), held_of(3)
    (600, 150, 0)
    """
    return min(HELD, count // 4)


def wide(folder: Path, side: int, *, limit: int | None = None) -> Crops:
    """Read `wide.zip` and `wide.csv` of a folder; the last of source lfw are held out: `held_of` them.

    Held-out people are never in the rest. limit: read that many rows only, and nothing that is held
    out where there is no room for it (for a quick look).
    Raises UsageError when a file is missing, damaged or of another form, or nobody is left to train.
    """
    path = folder / "wide.csv"
    rows = table(path, ("file", "source", "person", "side"))
    lfw = [row for row in rows if row["source"] == "lfw"]
    last = lfw[len(lfw) - held_of(len(lfw)) :]
    people = {(row["source"], row["person"]) for row in last if row["person"] != "0"}
    files = {row["file"] for row in last}
    kept = [
        row
        for row in rows
        if row["file"] not in files and (row["source"], row["person"]) not in people
    ]
    if not kept:
        raise UsageError(
            f"{path}: nobody is left to train: all rows are of people who are held out",
            hint="docs/training.md says who is held out",
        )
    numbers = {key: i for i, key in enumerate(sorted({(r["source"], r["person"]) for r in rows}))}
    np.random.default_rng(5).shuffle(kept)
    if limit is not None:
        last = last if limit > len(last) else []
        kept = kept[: limit - len(last)]
    chosen = [*kept, *last]
    pixels, points = [], []
    for row, picture in zip(
        chosen, pictures(folder / "wide.zip", (row["file"] for row in chosen)), strict=True
    ):
        pixels.append(_resized(picture, side))
        points.append(points_of(row, path) / len(picture))
    return Crops(
        pixels=np.stack(pixels),
        points=np.stack(points).astype(np.float32),
        people=np.array(
            [
                -1 if row["person"] == "0" else numbers[row["source"], row["person"]]
                for row in chosen
            ]
        ),
        known=1.0,
        held=len(last),
    )


def tight(
    folder: Path, side: int, *, limit: int | None = None, chosen: Sequence[int] | None = None
) -> Crops:
    """Read `faces-144.zip` and `index.csv`: tight crops in the middle of the wide square.

    Their surroundings are grey and must not be learnt from: see `known`. The last are held out:
    `held_of` them. chosen: these rows of the table alone, in this order; with it, or a limit, nothing
    is marked as held out. Raises UsageError when a file is missing, damaged or of another form.
    """
    path = folder / "index.csv"
    rows = table(path, ("file",))[:limit]
    if chosen is not None:
        rows = [rows[i] for i in chosen]
    pixels, points = [], []
    for row, picture in zip(
        rows, pictures(folder / "faces-144.zip", (row["file"] for row in rows)), strict=True
    ):
        inner = round(side / WIDE_SIDE)
        start = (side - inner) // 2
        square = np.full((side, side, 3), 128, np.uint8)
        square[start : start + inner, start : start + inner] = _resized(picture, inner)
        pixels.append(square)
        points.append((points_of(row, path) / len(picture) * inner + start) / side)
    return Crops(
        pixels=np.stack(pixels),
        points=np.stack(points).astype(np.float32),
        people=np.full(len(rows), -1),
        known=round(side / WIDE_SIDE) / side,
        held=held_of(len(rows)) if limit is None and chosen is None else 0,
    )


def drawn(side: int, count: int, *, seed: int = 0) -> Crops:
    """Paint `count` faces of `count // 4` people: ellipses with eyes, nose and mouth."""
    rng = np.random.default_rng(seed)
    people = np.arange(count) % max(count // 4, 1)
    looks = rng.uniform(size=(people.max() + 1, 12))
    pixels, points = [], []
    for person in people:
        look, mood = looks[person], rng.uniform(size=6)
        big = np.full((side * 4, side * 4, 3), (mood[:3] * 200 + 30), np.float64)
        unit = side * 4

        def at(x: float, y: float, unit: int = unit) -> tuple[int, int]:
            return round(x * unit), round(y * unit)

        skin = np.array([0.9, 0.7, 0.55]) * (90 + 150 * look[0])
        hair = np.array([1.0, 0.8, 0.6]) * 200 * look[1]
        cv2.ellipse(big, at(0.5, 0.42), at(0.30, 0.36), 0, 0, 360, hair.tolist(), -1)
        cv2.ellipse(
            big, at(0.5, 0.52), at(0.20 + 0.04 * look[2], 0.29), 0, 0, 360, skin.tolist(), -1
        )
        moved = WIDE + rng.normal(0, 0.006, WIDE.shape)
        for eye in moved[:2]:
            cv2.ellipse(big, at(*eye), at(0.035, 0.018), 0, 0, 360, (250, 250, 250), -1)
            cv2.circle(big, at(*eye), at(0.014, 0)[0], (look[3:6] * 120).tolist(), -1)
            brow = at(eye[0], eye[1] - 0.045 - 0.02 * look[6])
            cv2.ellipse(big, brow, at(0.045, 0.008 + 0.01 * look[7]), 0, 0, 360, hair.tolist(), -1)
        cv2.line(big, at(0.5, 0.41), at(*moved[2]), (skin * 0.7).tolist(), 3 + int(8 * look[8]))
        mouth = tuple(((moved[3] + moved[4]) / 2 * unit).round().astype(int).tolist())
        lips = (skin * (0.5, 0.3, 0.3)).tolist()
        cv2.ellipse(big, mouth, at(0.09, 0.012 + 0.03 * mood[3]), 0, 0, 360, lips, -1)
        pixels.append(cv2.resize(big, (side, side), interpolation=cv2.INTER_AREA))
        points.append(moved)
    return Crops(
        pixels=np.clip(np.stack(pixels), 0, 255).astype(np.uint8),
        points=np.stack(points).astype(np.float32),
        people=people,
        known=1.0,
        held=0,
    )


def steadied(crops: Crops, file: Path | None = None) -> Crops:
    """Return the crops with steady points (faces.steady): about 10 ms a crop, kept in `file` if given.

    A file that is damaged or belongs to other crops is made anew. Needs onnxruntime only where there
    is no file.
    """
    key = hashlib.sha256(crops.points.tobytes() + str(crops.pixels.shape).encode()).hexdigest()
    found = _steady_in(file, key) if file is not None and file.exists() else None
    if found is not None and found.shape == crops.points.shape:
        return replace(crops, points=found)
    from moretta.faces.detect import yunet
    from moretta.faces.steady import steadied as hold

    look = yunet.build("cpu", 1)
    pairs = zip(crops.pixels, crops.points.astype(np.float64), strict=True)
    points = np.stack([hold(picture, where, look) for picture, where in pairs])
    steady = points.astype(np.float32)
    if file is not None:
        content = io.BytesIO()
        np.savez(content, of=np.array(key), points=steady)
        write_whole(file, content.getvalue())
    return replace(crops, points=steady)


def _steady_in(file: Path, key: str) -> Floats | None:
    """Read steady points; None where they are not whole or not of these crops."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as kept:
            if str(kept["of"]) != key:
                return None
            points: Floats = kept["points"].astype(np.float32)
    except (EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
        return None
    return points


def mirrored(points: Floats) -> Floats:
    """Points of the mirrored crops: (n, 5, 2) in units of the side; left and right change names."""
    swapped: Floats = np.stack([1 - points[..., 0], points[..., 1]], -1)[:, [1, 0, 2, 4, 3]]
    return swapped


def _resized(picture: Bytes, side: int) -> Bytes:
    how = cv2.INTER_AREA if len(picture) > side else cv2.INTER_CUBIC
    resized: Bytes = cv2.resize(picture, (side, side), interpolation=how)  # type: ignore[assignment]
    return resized


def table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a CSV table: these columns, and ten of points at the end.

    Raises UsageError when it is missing or of another form.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", hint="docs/training.md has the format"
        ) from error
    if not rows or any(column not in list(rows[0])[: -2 * _POINTS] for column in columns):
        raise UsageError(
            f"{path} has no rows with the columns {', '.join(columns)} and, last, ten numbers",
            hint="docs/training.md has the format",
        )
    return rows


def points_of(row: dict[str, str], path: Path) -> npt.NDArray[np.float64]:
    """Return the five points that a row ends with, (5, 2). Raises UsageError where there are none."""
    try:
        numbers = np.array([float(value) for value in list(row.values())[-2 * _POINTS :]])
        points: npt.NDArray[np.float64] = numbers.reshape(_POINTS, 2)
    except (TypeError, ValueError):
        points = np.full((_POINTS, 2), np.nan)
    if not np.isfinite(points).all():
        raise UsageError(
            f"{path}: the row of {row['file']} does not end in ten numbers: x and y of five points",
            hint="docs/training.md has the format",
        )
    return points


def pictures(path: Path, files: Iterable[str]) -> Iterator[Bytes]:
    """Yield the files of a zip as (h, w, 3) RGB. Raises UsageError when one cannot be read whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            for file in files:
                with Image.open(io.BytesIO(archive.read(file))) as image:
                    picture = np.asarray(image.convert("RGB"))
                yield picture
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error, UnidentifiedImageError) as error:
        raise UsageError(
            f"{path} cannot be read whole: {error}", hint="docs/training.md has the format"
        ) from error
