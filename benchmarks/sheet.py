"""Pairs of pictures, before and after, as one sheet: for docs/composer.md, on faces that nobody has.

moretta sample --count 64 --seed 3 --out before
moretta anonymize before --output after --method newface --seed 1
python benchmarks/sheet.py before after --out docs/newface-64.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

GAP = 6  # pixels between pairs


def main() -> None:
    """Write the sheet: eight pairs a row, by name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=8)
    given = parser.parse_args()
    names = sorted(path.name for path in given.before.glob("*.png"))
    pairs = [
        np.concatenate(
            [
                np.asarray(Image.open(folder / name).convert("RGB"))
                for folder in (given.before, given.after)
            ],
            1,
        )
        for name in names
    ]
    height, width = pairs[0].shape[:2]
    rows = -(-len(pairs) // given.columns)
    size = (rows * (height + GAP) - GAP, given.columns * (width + GAP) - GAP, 3)
    sheet = np.full(size, 255, np.uint8)
    for place, pair in enumerate(pairs):
        row, column = divmod(place, given.columns)
        top, left = row * (height + GAP), column * (width + GAP)
        sheet[top : top + height, left : left + width] = pair
    Image.fromarray(sheet).save(given.out, quality=88)


if __name__ == "__main__":
    main()
