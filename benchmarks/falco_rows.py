"""Which rows of the composer's W+ carry identity: one row at a time, then from either end.

    python benchmarks/falco_rows.py --data ../shared/data/eval/lfw --count 60 --out scratch/falco-rows

Each face is drawn from its own code, then with some rows of a synthetic face in their place. Identity:
cosine in dlib's network (the recogniser of the loss) to the old photo. Attributes: distance of attribute
features to the old photo (summed over tokens). Prints a Markdown table and writes figures.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from moretta.api import Anonymizer
from moretta.faces import crop as crops
from moretta.faces.crop import points_in
from moretta.faces.detect import yunet
from moretta.faces.steady import held
from moretta.networks.backend import pictures_of
from moretta.networks.features import distance
from moretta.weights import backends


def views(folder: Path, count: int) -> list[Any]:
    """Wide crops of the first photo of `count` people."""
    finder, look = Anonymizer("solid"), yunet.build("cpu", 1)
    people = sorted(one for one in folder.iterdir() if one.is_dir())
    found = []
    for person in people[:: max(1, len(people) // count)][:count]:
        photo = np.asarray(Image.open(min(person.iterdir())).convert("RGB"))
        faces = finder.find(photo)
        if faces:
            face = held(photo, max(faces, key=lambda one: one.box.side), look)
            mask = np.zeros((1, 1), np.float32)
            found.append(
                crops.align(photo, face, mask, template="wide", side=backends.SIDE, seed=0)
            )
    return found


@torch.inference_mode()
def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    backend = backends.composer()
    features = backends.features("features", backend)
    found = views(given.data, given.count)
    pictures = pictures_of([one.pixels for one in found])
    points = torch.from_numpy(np.stack([points_in(one) for one in found])).float()
    own = backend.rows(backend.identity(pictures, points), backend.attributes(pictures))
    donors = torch.cat([part[2] for _, _, part in backend.samples(len(found), 7)])
    last = own.shape[1] - 1
    sets: dict[str, tuple[int, ...]] = {"none": ()}
    sets |= {str(row): (row,) for row in range(last + 1)}
    sets |= {f"{first} to {last}": tuple(range(first, last + 1)) for first in range(1, last)}
    sets |= {f"1 to {end}": tuple(range(1, end + 1)) for end in range(2, last)}
    sets |= {f"{a} to {b}": tuple(range(a, b + 1)) for a in (3, 4) for b in (6, 7)}
    sets["all"] = tuple(range(last + 1))
    figures = {}
    print("| rows of a synthetic face | cosine to the old face | attribute distance |")
    print("|---|---|---|")
    for name, rows in sets.items():
        cosines, apart = [], []
        for part in range(0, len(found), 16):
            at = slice(part, part + 16)
            code = own[at].clone()
            code[:, rows] = donors[at][:, rows]
            context = backend.context(pictures[at])
            drawn = backend.composed(pictures[at], backend.draw(context, points[at], code))
            old, maps = backend.seen(pictures[at], points[at])
            truth = features.of(pictures[at], points[at], maps=maps).tokens
            new, maps = backend.seen(drawn, points[at])
            cosines += (old * new).sum(1).tolist()
            apart += distance(features.of(drawn, points[at], maps=maps).tokens, truth).tolist()
        figures[name] = {"cosine": float(np.mean(cosines)), "attributes": float(np.mean(apart))}
        print(f"| {name} | {np.mean(cosines):.3f} | {np.mean(apart):.1f} |", flush=True)
    (given.out / "figures.json").write_text(json.dumps({"faces": len(found), **figures}, indent=1))


if __name__ == "__main__":
    main()
