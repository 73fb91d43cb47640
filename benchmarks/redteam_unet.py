"""A12 on `ifadit` with a network: a U-Net learns to draw the original from the pseudonymised picture.

    python benchmarks/redteam_unet.py --train ../shared/data/train --data ../shared/data/eval/lfw \
        --out scratch/redteam-unet

The attacker has everything but keys: he pseudonymises other people's crops with keys of his own, learns
the way back from the pairs (the restorer of `moretta evaluate`, A3-net, at 64 px), and draws the
originals of people whom he has never seen. SFace, which was in no loss, says whom it knows in what he
draws. The floor is the same attacker where one mean face was drawn over everybody: there is no identity
in those pictures, so what he finds there is surroundings, points and attributes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from ifadit import area, composer_once, secret
from people import faces_of

from moretta.evaluation.attackers import unet
from moretta.evaluation.attackers.restorer import drawn, small
from moretta.faces import crop as crops
from moretta.faces.crop import points_in
from moretta.faces.recognise import JUDGE, Recogniser, threshold
from moretta.networks.backend import pictures_of, pixels_of
from moretta.networks.flow import Flow, key_of
from moretta.privacy.rotation import rotate
from moretta.records import Box, Face
from moretta.training import crops as sets
from moretta.weights import load

SIDE = 64  # px of what the attacker reads and draws
VIEW = 192  # px of the crop that the recogniser is shown
Turn = Callable[[np.ndarray, int], np.ndarray]  # identities, which half -> identities asked for


def main() -> None:
    """Learn, attack and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="wide.zip and wide.csv")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, nargs="+", default=[300, 6000])
    parser.add_argument("--count", type=int, default=200, help="people who are attacked")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="rotation, flow, 'one mean face': only these")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    backend, judge = composer_once(), Recogniser(JUDGE)
    own = sets.wide(given.train, backend.side, limit=max(given.pairs) + sets.HELD)
    own = sets.steadied(own, given.out / "points.npz")
    people = faces_of(given.data, given.count)
    views = [
        crops.align(p, f, np.zeros((1, 1), np.float32), template="wide", side=backend.side, seed=0)
        for p, f, _, _ in people
    ]
    learnt_on = Side(own.pixels[: max(given.pairs)], own.points[: max(given.pairs)])
    victims = Side(np.stack([v.pixels for v in views]), np.stack([points_in(v) for v in views]))
    clear = seen(judge, victims.pixels, victims.points)
    other = np.concatenate([judge.embed(p, [f]) for _, _, p, f in people])
    figures: dict[str, Any] = {
        "people": len(people),
        "date": time.strftime("%F"),
        "SFace on clear crops, other photo": rates(clear, clear, other),
    }
    mean = learnt_on.own.mean(0)
    flow = Flow.from_tensors(load.tensors("flow"))
    ways: dict[str, Turn] = {
        "rotation": lambda own, half: rotated(own, half),
        "flow": lambda own, half: flowed(flow, own, half),
        "one mean face": lambda own, _: np.repeat(mean[None] / np.linalg.norm(mean), len(own), 0),
    }
    for name, turn in ways.items():
        if given.only and name not in given.only:
            continue
        released = [
            side.drawn(turn(side.own, half)) for half, side in enumerate((learnt_on, victims))
        ]
        row = {"released": rates(seen(judge, released[1], victims.points), clear, other)}
        for pairs in given.pairs:
            x, y = small(released[0][:pairs], SIDE), small(learnt_on.pixels[:pairs], SIDE)
            *_, (_, restore) = unet.learnt(x, y, SIDE, 1)
            back = drawn(restore(small(released[1], SIDE)), SIDE, backend.side)
            row[f"{pairs} pairs"] = rates(seen(judge, back, victims.points), clear, other)
        figures[name] = row
        print(name, json.dumps(row), flush=True)
        np.savez_compressed(
            given.out / f"{name.replace(' ', '-')}.npz", back=back, drawn=released[1]
        )
    (given.out / "unet.json").write_text(json.dumps(figures, indent=1))


class Side:
    """Crops of one side, with what the composer reads in them."""

    def __init__(self, pixels: np.ndarray, points: np.ndarray) -> None:
        self.pixels, self.points = pixels, points
        self.backend = composer_once()
        self.own = np.concatenate(
            [self.backend.identity(*part).numpy() for part in self._parts()]
        ).astype(np.float64)

    @torch.inference_mode()
    def drawn(self, asked: np.ndarray) -> np.ndarray:
        """Draw identities (n, 48) into the crops, with noise of their own: (n, side, side, 3)."""
        noise = np.random.default_rng(7).standard_normal((len(asked), 64))
        made: list[Any] = []
        for i, (pictures, points) in zip(range(0, len(asked), 16), self._parts(), strict=True):
            some = torch.from_numpy(noise[i : i + 16]).float()
            code = self.backend.known(pictures, some, level=0)
            rows = self.backend.rows(torch.from_numpy(asked[i : i + 16]).float(), code)
            faces = self.backend.draw(self.backend.context(pictures), points, rows)
            made += pixels_of(self.backend.composed(pictures, faces))
        return np.stack(made)

    def _parts(self) -> Any:
        for i in range(0, len(self.pixels), 16):
            points = torch.from_numpy(np.asarray(self.points[i : i + 16])).float()
            yield pictures_of(list(self.pixels[i : i + 16])), points


def rotated(own: np.ndarray, half: int) -> np.ndarray:
    """Every identity by a key of its own."""
    return np.stack([rotate(secret("unet", half, i), one[None])[0] for i, one in enumerate(own)])


@torch.inference_mode()
def flowed(flow: Flow, own: np.ndarray, half: int) -> np.ndarray:
    """The same by the published flow."""
    keys = np.stack([key_of(secret("unet", half, i)) for i in range(len(own))])
    made: np.ndarray = flow(torch.from_numpy(own).float(), torch.from_numpy(keys)).numpy()
    return made.astype(np.float64)


def seen(judge: Recogniser, pixels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The judge's vectors of crops."""
    vectors = []
    for picture, where in zip(pixels, points, strict=True):
        big = cv2.resize(picture, (VIEW, VIEW), interpolation=cv2.INTER_CUBIC)
        face = Face(box=Box(0, 0, VIEW, VIEW), points=where * VIEW, score=1.0, detector="yunet")
        vectors.append(judge.embed(np.asarray(big), [face]))
    return np.concatenate(vectors)


def rates(probe: np.ndarray, same: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Known at FAR 1e-3 against the same and another photo; AUC and rank 1 of the other."""
    limit, scores = threshold("1e-3"), probe @ other.T
    return {
        "same": float(((probe * same).sum(1) >= limit).mean()),
        "other": float(((probe * other).sum(1) >= limit).mean()),
        "AUC": float(area(scores)),
        "rank 1": float((scores.argmax(1) == np.arange(len(scores))).mean()),
    }


if __name__ == "__main__":
    main()
