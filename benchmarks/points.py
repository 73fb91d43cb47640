"""How still a face's five points hold when nothing but the photo's place or size changes.

    python benchmarks/points.py --data ../shared/data/eval/lfw --count 200

One photo a person, the face nearest the centre. Each photo is looked at again moved by 5 and 3 px,
shrunk, enlarged and mirrored; what is found is taken back and compared: the five points' mean distance
in per cent of that between the eyes. Once as the detector gives the points, once held (faces.steady).
Whatever is drawn from points, and whatever is measured with them, is no steadier than this.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from people import faces_of
from PIL import Image

from moretta.api import Anonymizer
from moretta.faces.detect import yunet
from moretta.faces.steady import held

Back = Callable[[Any], Any]


def main() -> None:
    """Print one line a change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    given = parser.parse_args()
    finder, look = Anonymizer("solid"), yunet.build("cpu", 1)
    rows: dict[str, list[tuple[float, float]]] = {}
    seconds = holds = 0.0
    for photo, face, _, _ in faces_of(given.data, given.count, steady=False):
        begun = time.perf_counter()
        steady = held(photo, face, look)
        seconds += time.perf_counter() - begun
        holds += 1
        for name, (changed, back) in changes(photo).items():
            near = [one for one in finder.find(changed) if _gap(back(one.points), face.points) < 50]
            if near:
                best = min(near, key=lambda one: _gap(back(one.points), face.points))
                after = held(changed, best, look)
                pair = (
                    _gap(back(best.points), face.points),
                    _gap(back(after.points), steady.points),
                )
                rows.setdefault(name, []).append(pair)
    print(f"{int(holds)} faces, {1000 * seconds / holds:.1f} ms to hold one")
    print("change | found | detector's, median (95th) | held, median (95th)")
    for name, pairs in rows.items():
        single, mean = np.percentile(np.array(pairs), (50, 95), axis=0).T
        print(
            f"{name} | {len(pairs)} | {single[0]:.1f} ({single[1]:.1f}) | {mean[0]:.1f} ({mean[1]:.1f})"
        )


def changes(photo: Any) -> dict[str, tuple[Any, Back]]:
    """Return name -> (changed photo, how to take points back)."""
    height, width = photo.shape[:2]

    def resized(factor: float) -> tuple[Any, Back]:
        size = (round(width * factor), round(height * factor))
        ratio = np.array(size) / [width, height]
        changed = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS))
        return changed, lambda points: points / ratio

    def mirrored(points: Any) -> Any:
        return np.stack([width - points[:, 0], points[:, 1]], 1)[[1, 0, 2, 4, 3]]

    return {
        "moved by 5 and 3 px": (np.roll(photo, (3, 5), (0, 1)), lambda points: points - [5, 3]),
        "three quarters of the size": resized(0.75),
        "one and a half times the size": resized(1.5),
        "mirrored": (np.ascontiguousarray(photo[:, ::-1]), mirrored),
    }


def _gap(first: Any, second: Any) -> float:
    eyes = np.linalg.norm(second[0] - second[1])
    return float(100 * np.linalg.norm(first - second, axis=1).mean() / eyes)


if __name__ == "__main__":
    main()
