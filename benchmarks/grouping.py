"""Measure the grouping of faces by person: pairs and B-cubed, by threshold and by way of linking.

    python benchmarks/grouping.py --data ../shared/data/eval/lfw [--step 3] [--scale 0.25]
    python benchmarks/grouping.py --size 20000       # time and memory, on drawn vectors

A folder is a person. Every face of every photo is found, embedded and grouped as `--persons group`
does it; the face nearest the centre of each photo is the one whose person is known, and the figures
are about those. Faces of others in the background are grouped with them and not counted.
`single` (connected components) and `complete` linkage are for comparison; they need the matrix of all
pairs. --step N takes every Nth person, --scale shrinks the photos. Vectors stay in memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from moretta.api import Anonymizer
from moretta.faces.group import grouped
from moretta.faces.recognise import Recogniser

LEASTS = (0.24, 0.26, 0.28, 0.30, 0.32, 0.34, 0.36, 0.38, 0.40, 0.42, 0.44, 0.46, 0.50, 0.55, 0.60)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--size", type=int)
    given = parser.parse_args()
    if given.size:
        print(json.dumps(cost(given.size)))
    if given.data:
        report(*embedded(given.data, given.step, given.scale))


def embedded(
    data: Path, step: int, scale: float
) -> tuple[np.ndarray, list[int], np.ndarray, np.ndarray, np.ndarray]:
    """Return vectors, photo numbers, people, which faces are central, and their sides in px."""
    finder, judge = Anonymizer(), Recogniser()
    folders = sorted(folder for folder in data.iterdir() if folder.is_dir())[::step]
    vectors, photos, people, central, sides = [], [], [], [], []
    for person, folder in enumerate(folders):
        for path in sorted(folder.glob("*.jpg")):
            picture = Image.open(path).convert("RGB")
            size = round(picture.width * scale), round(picture.height * scale)
            rgb = np.asarray(picture.resize(size, Image.Resampling.BOX) if scale != 1 else picture)
            faces = finder.find(rgb)
            middle = np.array([rgb.shape[1], rgb.shape[0]]) / 2
            away = [float(np.linalg.norm(face.points.mean(0) - middle)) for face in faces]
            for i, vector in enumerate(judge.embed(rgb, faces) if faces else []):
                vectors.append(vector)
                photos.append(hash(path))
                people.append(person)
                central.append(i == int(np.argmin(away)))
                sides.append(faces[i].box.side)
    return np.array(vectors), photos, np.array(people), np.array(central), np.array(sides)


def report(
    vectors: np.ndarray,
    photos: list[int],
    people: np.ndarray,
    central: np.ndarray,
    sides: np.ndarray,
) -> None:
    """Print one line a way of linking and threshold."""
    about = {
        "faces": len(vectors),
        "photos_with_a_face": len(set(photos)),
        "people": len(set(people.tolist())),
        "median_face_px": round(float(np.median(sides[central])), 1),
    }
    print(json.dumps(about))
    ways: dict[str, Callable[[float], list[int]]] = {
        "average": lambda least: grouped(vectors, photos, least=least),
        "single": lambda least: components(vectors, least),
        "complete": lambda least: complete(vectors, least),
    }
    for name, way in ways.items():
        for least in LEASTS:
            start = time.perf_counter()
            groups = np.array(way(least))[central]
            seconds = round(time.perf_counter() - start, 2)
            line = {"linkage": name, "least": least, **figures(groups.tolist(), people[central])}
            print(json.dumps({**line, "seconds": seconds}), flush=True)


def figures(groups: Sequence[int], people: np.ndarray) -> dict[str, float]:
    """Pairwise and B-cubed precision and recall, and how many people were split or mixed.

    >>> figures([0, 0, 1], np.array([5, 5, 5]))["pair_recall"]
    0.3333
    """
    both = Counter(zip(groups, people.tolist(), strict=True))
    group, person = Counter(groups), Counter(people.tolist())

    def pairs(counts: Counter) -> int:
        return sum(n * (n - 1) // 2 for n in counts.values())

    right = pairs(both)
    precision = sum(n * n / group[g] for (g, _), n in both.items()) / len(groups)
    recall = sum(n * n / person[p] for (_, p), n in both.items()) / len(groups)
    spread = Counter(p for _, p in both)
    mixed = Counter(g for g, _ in both)
    return {
        "pair_precision": round(right / max(pairs(group), 1), 4),
        "pair_recall": round(right / max(pairs(person), 1), 4),
        "b3_precision": round(precision, 4),
        "b3_recall": round(recall, 4),
        "b3_f": round(2 * precision * recall / (precision + recall), 4),
        "groups": len(group),
        "people_split": sum(n > 1 for n in spread.values()),
        "groups_mixed": sum(n > 1 for n in mixed.values()),
        "faces_in_mixed": sum(n for g, n in group.items() if mixed[g] > 1),
    }


def components(vectors: np.ndarray, least: float) -> list[int]:
    """Single linkage: everything that a chain of pairs above `least` connects."""
    near = vectors @ vectors.T >= least
    labels = [-1] * len(near)
    for start in range(len(near)):
        if labels[start] < 0:
            labels[start], edge = start, [start]
            while edge:
                for other in np.flatnonzero(near[edge.pop()]):
                    if labels[other] < 0:
                        labels[other] = start
                        edge.append(int(other))
    return labels


def complete(vectors: np.ndarray, least: float) -> list[int]:
    """Complete linkage: the best pair first, judged by its worst cosine; rows keep their best."""
    worst = vectors @ vectors.T
    np.fill_diagonal(worst, -2)
    labels = np.arange(len(worst))
    best, at = worst.max(axis=1), worst.argmax(axis=1)
    while True:
        a = int(best.argmax())
        if best[a] < least:
            return labels.tolist()
        b = int(at[a])
        worst[a] = np.minimum(worst[a], worst[b])
        worst[:, a] = worst[a]
        worst[b] = worst[:, b] = worst[a, a] = best[b] = -2
        labels[labels == labels[b]] = labels[a]
        again = np.flatnonzero((at == a) | (at == b) | (np.arange(len(at)) == a))
        best[again], at[again] = worst[again].max(axis=1), worst[again].argmax(axis=1)
        best[b] = -2


def cost(size: int) -> dict[str, float]:
    """Seconds and peak memory of grouping `size` drawn vectors of `size` / 5 people."""
    random = np.random.default_rng(0)
    people = random.normal(size=(size // 5, 128))
    drawn = people[random.integers(0, len(people), size)] + random.normal(size=(size, 128))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    start = time.perf_counter()
    groups = grouped(vectors, range(size))
    return {
        "faces": size,
        "groups": len(set(groups)),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
