"""How close composers draw to crops of people whom none of them has seen.

    python benchmarks/held_out.py --train ../shared/data/train --weights checkpoints/composer-128-start.safetensors

The bundled composer, and every other of the same shape that is given (a composer's file or its start file),
on the crops that the recipe holds out: their own identity is drawn, and one that fits at random. Judged by
what the recipe minimises, which is the only use of it: to compare runs, whose terms on training crops are
all noise. What recognisers say that trained nothing is in composer.py.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from moretta.networks import pool as pools
from moretta.networks.identity import cut
from moretta.training import crops as sets
from moretta.training.composer import _apart, _beside
from moretta.weights import load
from moretta.weights.backends import composer, stand_ins

BATCH = 24


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="wide.zip and wide.csv")
    parser.add_argument("--weights", type=Path, nargs="*", default=[])
    parser.add_argument("--count", type=int, default=480)
    parser.add_argument("--points", type=Path, help="points-wide.npz of a run, else made anew here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    backend = composer()
    data = sets.wide(given.train, backend.side)
    where = given.points or Path("points-held-out.npz")
    data = sets.steadied(data, where)
    index = np.arange(data.trained, len(data))[: given.count]
    levels = torch.from_numpy(np.stack([data.pixels[i] for i in index]))
    pictures = levels.permute(0, 3, 1, 2).float() / 127.5 - 1
    points = torch.from_numpy(data.points[index]).float()
    with torch.inference_mode():
        print("bundled", json.dumps(terms(backend, backend, pictures, points)), flush=True)
        for path in given.weights:
            other = opened(backend, path)
            print(path, json.dumps(terms(other, backend, pictures, points)), flush=True)


def opened(backend: Any, path: Path) -> Any:
    """Return the backend with another file's networks."""
    tensors = load.tensors(path)
    other = copy.deepcopy(backend)
    for network, part in ((other.composer, "composer"), (other.encoder, "attributes")):
        network.load_state_dict(
            {
                name.removeprefix(f"{part}."): torch.as_tensor(value).float()
                for name, value in tensors.items()
                if name.startswith(f"{part}.")
            }
        )
    return other


def terms(
    drawer: Any, reader: Any, pictures: torch.Tensor, points: torch.Tensor
) -> dict[str, float]:
    """Mean terms of the recipe over all crops; reader: whose recogniser looks."""
    pool, head = stand_ins()
    rng = np.random.default_rng(3)
    noise = torch.randn(len(pictures), 64, generator=torch.Generator().manual_seed(1))
    mask, rim = drawer.composer.mask, _beside(pictures.shape[-1])
    found: dict[str, list[float]] = {}
    for part in torch.arange(len(pictures)).split(BATCH):
        crops, where = pictures[part], points[part]
        own = reader.identity(crops, where)
        kinds = [head.read(one.numpy()) for one in own]
        members = [pools.choose(pool, kind, "age,gender", rng) for kind in kinds]
        asked = torch.from_numpy(pool.identities[members])
        code = drawer.known(crops, noise[part], level=0)
        same, other = (drawer.redrawn(crops, where, who, code).clamp(-1, 1) for who in (own, asked))
        truth, drawn, new = (seen(reader, x, where) for x in (crops, same, other))
        gap = (same - crops) * mask / mask.mean()
        beside = (other - crops) * rim / rim.mean()
        for name, value in {
            "pixels, own": gap.abs().mean(),
            "coarse, own": functional.avg_pool2d(gap, 4).abs().mean(),
            "perceptual, own": _apart(drawn[1], truth[1]),
            "cosine to own": (drawn[0] * own).sum(1).mean(),
            "cosine to asked": (new[0] * asked).sum(1).mean(),
            "asked: cosine to own": (new[0] * own).sum(1).mean(),
            "asked: rim": beside.abs().mean(),
        }.items():
            found.setdefault(name, []).append(float(value))
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


def seen(reader: Any, pictures: torch.Tensor, points: torch.Tensor) -> Any:
    """The loss recogniser's vectors and stages."""
    chips = cut((pictures + 1) * 127.5, points * pictures.shape[-1])
    return reader.identify.embed(chips, features=True)


if __name__ == "__main__":
    main()
