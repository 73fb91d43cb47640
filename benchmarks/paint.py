"""What the judge sees in paint: which flat colours it takes for a person.

    python benchmarks/paint.py --data ../shared/data/eval/lfw [--every 8]

For each colour: the cosine between a crop of nothing but that colour and every face of the pack, and
the share of people whom the judge would call the same at FAR 1e-3.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from moretta.api import Anonymizer
from moretta.faces.recognise import Recogniser, threshold

COLOURS = [
    "000000",
    "2b2b2b",
    "555555",
    "808080",
    "b0b0b0",
    "ffffff",
    "ff0000",
    "00ff00",
    "0000ff",
    "ffff00",
    "ff00ff",
    "00a0a0",
]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=8)
    given = parser.parse_args()
    finder, judge = Anonymizer(), Recogniser()
    known = []
    for path in sorted(given.data.rglob("*.jpg"))[:: given.every]:
        photo = np.asarray(Image.open(path).convert("RGB"))
        known.append(judge.embed(photo, finder.find(photo)[:1])[0])
    print(f"{len(known)} faces; colour, mean, 99 % quantile, largest, share above the threshold")
    for colour in COLOURS:
        flat = np.full((1, 112, 112, 3), tuple(bytes.fromhex(colour)), np.uint8)
        cosine = np.stack(known) @ judge.embed_crops(flat)[0]
        high = float(np.quantile(cosine, 0.99))
        share = float((cosine > threshold("1e-3")).mean())
        print(f"{colour}  {cosine.mean():6.3f}  {high:6.3f}  {cosine.max():6.3f}  {share:.4f}")


if __name__ == "__main__":
    main()
