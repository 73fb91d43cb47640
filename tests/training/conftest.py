"""A training folder as users have one, of painted faces."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moretta.faces.crop import WIDE_SIDE
from moretta.training import crops

POINTS = ",".join(f"{axis}{point}" for point in range(5) for axis in "xy")
LABELS = "file,source,age,gender,group"


def write(folder, name, table, head, rows):
    """Write a zip and its table: rows of (what the columns say, picture, points in units of its side)."""
    lines = [f"{head},{POINTS}"]
    with zipfile.ZipFile(folder / name, "w") as archive:
        for at, (said, pixels, points) in enumerate(rows):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "png")
            archive.writestr(f"{at:05}.png", file.getvalue())
            numbers = ",".join(f"{one:.2f}" for one in (points * len(pixels)).ravel())
            lines.append(f"{at:05}.png,{said},{numbers}" if said else f"{at:05}.png,{numbers}")
    (folder / table).write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def pack():
    """Return what fills a folder: so many crops of each source, two a person, and tight ones."""

    def fill(
        folder: Path, *, wide: dict[str, int], tight: int = 0, labels: bool = False, side: int = 96
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        sources = [(source, at) for source, count in wide.items() for at in range(count)]
        faces = crops.drawn(side, max(len(sources), tight))
        rows = [
            (f"{source},{at // 2 + 1},{side}", faces.pixels[i], faces.points[i])
            for i, (source, at) in enumerate(sources)
        ]
        write(folder, "wide.zip", "wide.csv", "file,source,person,side", rows)
        if tight:
            start = round(side * (1 - 1 / WIDE_SIDE) / 2)
            inner = slice(start, side - start)
            rows = [
                (
                    f"drawn,{i * 7 % 90},{i % 2},{i % 5}" if labels else "",
                    np.ascontiguousarray(faces.pixels[i][inner, inner]),
                    (faces.points[i] * side - start) / (side - 2 * start),
                )
                for i in range(tight)
            ]
            write(folder, "faces-144.zip", "index.csv", LABELS if labels else "file", rows)
        return folder

    return fill
