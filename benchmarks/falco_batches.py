"""What a face costs `falco` by how many go through it at once: why a batch is not smaller.

    python benchmarks/falco_batches.py

8 crops of the photo that ships with the package, 50 steps without early stop, one thread. Prints CPU
seconds a face, two rounds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from moretta.api import find_faces
from moretta.cli.demo import photo
from moretta.faces import crop as crops
from moretta.faces import mask as masks
from moretta.methods import method, settings
from moretta.records import Crop

FACES = 8


def views() -> list[Crop]:
    """Cut the same face at several places, as the pipeline does."""
    chosen = method("falco")
    found = []
    for i in range(FACES):
        rgb = np.ascontiguousarray(np.roll(photo()[::2, ::2], 3 * i, axis=1))
        (face,) = find_faces(rgb)
        alpha, _ = masks.redraw(
            face, rgb.shape, scale=chosen.mask_scale, feather=chosen.mask_feather
        )
        crop = crops.align(rgb, face, alpha, template="wide", side=chosen.side, seed=i)
        found.append(crop)
    return found


def main() -> None:
    """Time every size in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen, faces = method("falco"), views()
    own = settings(chosen, {"steps": arguments.steps, "compat": True, "unique": "no"})
    edit = chosen.build(own, "cpu")
    edit(faces[:1])
    for turn in (1, 2):
        for size in (8, 4, 2, 1):
            start = time.process_time()
            for at in range(0, FACES, size):
                edit(faces[at : at + size])
            spent = (time.process_time() - start) / FACES
            print(f"round {turn}, {size} at once: {spent:.2f} s a face", flush=True)


if __name__ == "__main__":
    main()
