"""The leak floor: how often are the surroundings alone recognised, for each shape of mask?

    python benchmarks/surroundings.py --data ../shared/data/eval/lfw [--photos 500]

Inside the mask the face is replaced by another person's, aligned by the five points; the judge then
compares the composite with the owner's photo. Whatever it still recognises comes from outside the
mask (design, section 4). The same with the average face of the pack.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from moretta.api import Anonymizer
from moretta.faces import crop as crops
from moretta.faces import mask as masks
from moretta.faces.recognise import Recogniser, threshold
from moretta.records import Face

SIDE = 192


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=500)
    given = parser.parse_args()
    finder, judge = Anonymizer(), Recogniser()
    paths = sorted(given.data.glob("*/01.jpg"))[: given.photos]
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    faces = [finder.find(photo)[0] for photo in photos]
    owners = [judge.embed(photo, [face])[0] for photo, face in zip(photos, faces, strict=True)]
    drawn = [
        crops.align(photo, face, np.zeros((1, 1), np.float32), template="wide", side=SIDE, seed=0)
        for photo, face in zip(photos, faces, strict=True)
    ]
    average = np.mean([one.pixels for one in drawn], axis=0).astype(np.uint8)
    known = threshold("1e-3")
    print(f"{len(photos)} photos; share whose owner the judge still knows (cosine above {known})")
    print("mask                         another person's face   the average face")
    for name, scale, kind in (
        ("ellipse 1.0", 1.0, "redraw"),
        ("ellipse 1.3", 1.3, "redraw"),
        ("ellipse 1.45 (redrawing)", 1.45, "redraw"),
        ("two ellipses 1.5 (cover)", 1.5, "cover"),
        ("block (paint)", 1.5, "block"),
    ):
        shares = []
        for own in (False, True):
            cosines = []
            for i, (photo, face) in enumerate(zip(photos, faces, strict=True)):
                content = average if own else drawn[(i + 1) % len(drawn)].pixels
                alpha, bounds = shape(face, photo, scale, kind)
                canvas = photo.copy()
                crops.paste(canvas, content, drawn[i], alpha, bounds)
                cosines.append(float(judge.embed(canvas, [face])[0] @ owners[i]))
            shares.append(float((np.array(cosines) > known).mean()))
        print(f"{name:28s} {shares[0]:20.3f} {shares[1]:18.3f}")


def shape(
    face: Face, photo: np.ndarray, scale: float, kind: str
) -> tuple[np.ndarray, crops.Bounds]:
    """Return alpha and bounds of one of the masks."""
    if kind == "redraw":
        return masks.redraw(face, photo.shape, scale=scale)
    return masks.cover(face, photo.shape, scale=scale, fills_view=kind == "block")


if __name__ == "__main__":
    main()
