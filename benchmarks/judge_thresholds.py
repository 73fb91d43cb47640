"""Measure the judge: cosine thresholds at stated false-accept rates, and what YuNet's box looks like.

    python benchmarks/judge_thresholds.py --data ../shared/data/eval [--out thresholds.json]

For each photo of the LFW pack the face nearest the centre is embedded as the pipeline does it.
FAR thresholds are quantiles over ALL pairs of different people (4.9 million: 1e-4 still has 490
pairs above it); pairs.csv (3,000 + 3,000 pairs in ten person-disjoint folds) gives the accuracy that
other papers report, with the threshold of each fold chosen on the other nine.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from moretta.api import Anonymizer
from moretta.faces.crop import TIGHT, apply, scale_of, similarity
from moretta.faces.recognise import Recogniser
from moretta.records import Face


def central(faces: list[Face], side: int) -> Face | None:
    """Return the face nearest the photo's centre."""
    if not faces:
        return None
    middle = np.array([side / 2, side / 2])
    return min(faces, key=lambda face: float(np.linalg.norm(face.points.mean(0) - middle)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", default="sface")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    finder, judge = Anonymizer(), Recogniser(given.network)
    names, people, vectors, boxes, missed = [], [], [], [], []
    for path in sorted((given.data / "lfw").rglob("*.jpg")):
        photo = np.asarray(Image.open(path).convert("RGB"))
        face = central(finder.find(photo), photo.shape[1])
        if face is None:
            missed.append(str(path.relative_to(given.data)))
            continue
        names.append(str(path.relative_to(given.data)))
        people.append(int(path.parent.name))
        vectors.append(judge.embed(photo, [face])[0])
        matrix = similarity(face.points, TIGHT)
        box = face.box
        centre = apply(matrix, np.array([[(box.left + box.right) / 2, (box.top + box.bottom) / 2]]))
        boxes.append([*centre[0], *(np.array([box.width, box.height]) * scale_of(matrix))])
    all_vectors, who = np.stack(vectors), np.array(people)
    cosine = all_vectors @ all_vectors.T
    upper = np.triu(np.ones_like(cosine, bool), 1)
    same = who[:, None] == who[None]
    genuine, impostor = cosine[upper & same], cosine[upper & ~same]
    report: dict[str, object] = {
        "photos": len(names),
        "missed": missed,
        "genuine_pairs": len(genuine),
        "impostor_pairs": len(impostor),
        "box_on_tight_template": [round(float(v), 3) for v in np.median(boxes, axis=0)],
    }
    for rate in (1e-2, 1e-3, 1e-4):
        at = float(np.quantile(impostor, 1 - rate))
        report[f"far_{rate:.0e}"] = {"cosine": round(at, 4), "tar": float((genuine > at).mean())}
    report["pairs.csv"] = folds(
        given.data / "pairs.csv", dict(zip(names, all_vectors, strict=True))
    )
    text = json.dumps(report, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


def folds(path: Path, vectors: dict[str, np.ndarray]) -> dict[str, float]:
    """Ten-fold accuracy, and the cosine at FAR 1e-2 and 1e-3 over the 3,000 different pairs."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["a"] in vectors and row["b"] in vectors]
    fold = np.array([int(row["fold"]) for row in rows])
    same = np.array([row["same"] == "1" for row in rows])
    cosine = np.array([float(vectors[row["a"]] @ vectors[row["b"]]) for row in rows])
    tries = np.linspace(-0.2, 0.8, 501)
    right = []
    for one in np.unique(fold):
        rest = fold != one
        best = max(tries, key=lambda t: float(((cosine[rest] > t) == same[rest]).mean()))
        right.append(float(((cosine[~rest] > best) == same[~rest]).mean()))
    return {
        "pairs": len(rows),
        "accuracy": round(float(np.mean(right)), 4),
        "far_1e-2": round(float(np.quantile(cosine[~same], 0.99)), 4),
        "far_1e-3": round(float(np.quantile(cosine[~same], 0.999)), 4),
    }


if __name__ == "__main__":
    main()
