"""Compose large group photos with known faces from the LFW pack.

    python benchmarks/compose_groups.py --data ../shared/data/eval/lfw --out SCRATCH/groups \
        --yunet yunet.onnx --centerface centerface.onnx

Each photo has 10 to 60 faces whose side (geometric mean of the tight box, as detectors draw it)
is log-uniform from 12 to 400 px. No face covers another. Beside the photos stands truth.json:
photo -> list of {"box": [left, top, right, bottom], "side", "person"}. Same seed, same bytes.
Not here  real backgrounds, shade and turned heads: recall on these photos is an upper limit.
The photos are research data: `--out` may not lie in this repository.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from finders import centerface, yunet
from portraits import Portrait, portraits
from scenery import Floats, grain, scenery

Rect = tuple[float, float, float, float]  # left, top, right, bottom

# Of one person about the centre of the face, in sides of the face.
HEAD: Rect = (-0.92, -1.3, 0.92, 0.9)
BODY: Rect = (-1.4, 0.65, 1.4, 2.0)
FACE: Rect = (-0.85, -1.1, 0.85, 0.75)  # nobody else may reach into this


def main() -> None:
    """Parse, choose people, compose, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="LFW pack: PERSON/NN.jpg")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--yunet", type=Path, required=True)
    parser.add_argument("--centerface", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 3000))
    parser.add_argument("--people", type=int, default=1000, help="photos looked at for portraits")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if Path(__file__).resolve().parents[1] in asked.out.resolve().parents:
        parser.error("--out lies in the repository; LFW may not be copied there")
    sources = [min(folder.glob("*.jpg")) for folder in sorted(asked.data.iterdir())]
    finders = yunet(asked.yunet), centerface(asked.centerface)
    people = list(portraits(sources[: asked.people], *finders))
    print(f"{len(people)} portraits with one face, of {asked.people} photos")
    asked.out.mkdir(parents=True, exist_ok=True)
    truth = {}
    for number in range(asked.photos):
        rng = np.random.default_rng([asked.seed, number])
        name = f"group-{number:02}.jpg"
        photo, faces = group(people, tuple(asked.size), int(rng.integers(10, 61)), rng)
        cv2.imwrite(str(asked.out / name), photo, [cv2.IMWRITE_JPEG_QUALITY, 92])
        truth[name] = faces
        print(f"{name}: {len(faces)} faces")
    (asked.out / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")


def group(
    people: Sequence[Portrait], size: tuple[int, int], count: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], list[dict[str, object]]]:
    """One photo with up to `count` people: fewer if the large ones leave no room."""
    width, height = size
    sides = np.sort(np.exp(rng.uniform(math.log(12.2), math.log(399), count)))[::-1]
    chosen = rng.permutation(len(people))[:count]
    spots = place(sides, size, rng)
    canvas = scenery(width, height, rng)
    faces: list[dict[str, object]] = []
    people_here = zip(sides, chosen, spots, strict=True)
    for side, index, spot in sorted(people_here, key=lambda one: one[2][1] if one[2] else 0.0):
        if spot is not None:
            box = paste(canvas, people[index], float(side), spot)
            actual = ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5
            rounded = {"box": [round(edge, 2) for edge in box], "side": round(actual, 2)}
            faces.append({**rounded, "person": people[index].person})
    photo = np.clip(grain(canvas, 1.5, rng) + 0.5, 0, 255).astype(np.uint8)
    return photo, faces


def place(
    sides: npt.NDArray[np.float64], size: tuple[int, int], rng: np.random.Generator
) -> list[tuple[float, float] | None]:
    """Centres for faces, largest first; None where 400 tries found no room."""
    spots: list[tuple[float, float] | None] = []
    kept: list[Rect] = []  # faces nobody may reach into
    taken: list[Rect] = []  # heads and bodies
    for side in sides:
        spots.append(None)
        for _ in range(400):
            x = float(rng.uniform(0.95 * side, size[0] - 0.95 * side))
            y = float(rng.uniform(1.35 * side, size[1] - 0.95 * side))
            mine = _at(FACE, x, y, side)
            parts = [_at(HEAD, x, y, side), _at(BODY, x, y, side)]
            if not _meets(mine, taken) and not any(_meets(part, kept) for part in parts):
                spots[-1] = x, y
                kept.append(mine)
                taken.extend(parts)
                break
    return spots


def paste(canvas: Floats, person: Portrait, side: float, spot: tuple[float, float]) -> list[float]:
    """Draw one person with the face's centre near `spot`; return the face's box on the canvas."""
    before = person.picture.shape[0]
    after = max(8, round(before * side / person.side))
    scale = after / before
    smoother = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(person.picture, (after, after), interpolation=smoother)
    alpha = np.clip(cv2.resize(person.alpha, (after, after), interpolation=cv2.INTER_AREA), 0, 1)
    x, y = person.centre
    left, top = round(spot[0] - x * scale), round(spot[1] - y * scale)
    _body(canvas, person.cloth, side, left + x * scale, top + y * scale)
    _blend(canvas, picture.astype(np.float32), alpha.astype(np.float32), left, top)
    corner = (left, top, left, top)
    return [float(shift + edge * scale) for shift, edge in zip(corner, person.box, strict=True)]


def _body(canvas: Floats, cloth: Floats, side: float, x: float, y: float) -> None:
    """Draw a torso under the chin, in the colour of the clothes."""
    left, top = int(x + BODY[0] * side), int(y + BODY[1] * side)
    width, height = max(4, int(2.8 * side)), max(3, int(1.35 * side))
    column = np.abs(np.linspace(-1.08, 1.08, width, dtype=np.float32))[None]
    row = np.linspace(1.08, -0.25, height, dtype=np.float32)[:, None]
    inside = (column**3 + np.maximum(row, 0) ** 2 <= 1).astype(np.float32)
    alpha = cv2.GaussianBlur(inside, (0, 0), max(0.4, 0.04 * side)).astype(np.float32)
    shade = (1.05 - 0.35 * column * np.ones_like(row))[:, :, None]
    _blend(canvas, (cloth * shade).astype(np.float32), alpha, left, top)


def _blend(canvas: Floats, picture: Floats, alpha: Floats, left: int, top: int) -> None:
    """Lay `picture` over the canvas in place, cut at its edges."""
    height, width = alpha.shape
    rows = slice(max(0, top), min(canvas.shape[0], top + height))
    columns = slice(max(0, left), min(canvas.shape[1], left + width))
    inner = (
        slice(rows.start - top, max(rows.start, rows.stop) - top),
        slice(columns.start - left, max(columns.start, columns.stop) - left),
    )
    area = canvas[rows, columns]
    area += (picture[inner] - area) * alpha[inner][:, :, None]


def _at(part: Rect, x: float, y: float, side: float) -> Rect:
    return x + part[0] * side, y + part[1] * side, x + part[2] * side, y + part[3] * side


def _meets(one: Rect, others: Sequence[Rect]) -> bool:
    return any(
        one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
        for other in others
    )


if __name__ == "__main__":
    main()
