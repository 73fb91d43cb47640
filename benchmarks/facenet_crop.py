"""Choose the crop for FaceNet, on people who are in no evaluation.

    MORETTA_WEIGHTS=FOLDER python benchmarks/facenet_crop.py --crops ../shared/data/train/wide.zip

FaceNet learnt from a detector's boxes with a margin, not from aligned points. Two crops each of 130
people of the training pack (source lfw) are cut at several scales and heights; printed is how well
FaceNet tells people apart: true accept rate at a false accept rate of 1e-3, and d'.
"""

from __future__ import annotations

import argparse
import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from moretta.faces.crop import TIGHT, similarity, warp
from moretta.faces.recognise import Recogniser

POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
PEOPLE = 130
SIDE = 160


def main() -> None:
    """Print one line a crop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=Path, required=True)
    given = parser.parse_args()
    with given.crops.with_suffix(".csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "lfw"]
    people: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        people.setdefault(row["person"], []).append(row)
    chosen = [row for own in [p for p in people.values() if len(p) > 1][:PEOPLE] for row in own[:2]]
    with zipfile.ZipFile(given.crops) as pack:
        place = {Path(name).name: name for name in pack.namelist()}
        pictures = [
            np.asarray(Image.open(io.BytesIO(pack.read(place[row["file"]]))).convert("RGB"))
            for row in chosen
        ]
    points = [np.array([[float(row[f"{p}_{a}"]) for a in "xy"] for p in POINTS]) for row in chosen]
    who = np.array([row["person"] for row in chosen])
    same = who[:, None] == who[None]
    upper = np.triu(np.ones_like(same), 1)
    network = Recogniser("facenet")
    for scale in (1.0, 1.1, 1.15, 1.25, 1.4):
        for middle in (0.38, 0.43, 0.48):
            template = ((TIGHT - [0.5, middle]) / scale + 0.5) * SIDE
            crops = [
                warp(picture, similarity(five, template), SIDE, border="edge")
                for picture, five in zip(pictures, points, strict=True)
            ]
            vectors = network.embed_crops(np.stack(crops))
            cosine = vectors @ vectors.T
            genuine, impostor = cosine[upper & same], cosine[upper & ~same]
            rate = (genuine > np.quantile(impostor, 0.999)).mean()
            spread = np.sqrt((genuine.var() + impostor.var()) / 2)
            prime = (genuine.mean() - impostor.mean()) / spread
            print(f"scale {scale:.2f} middle {middle:.2f}: TAR {rate:.3f} d' {prime:.2f}")


if __name__ == "__main__":
    main()
