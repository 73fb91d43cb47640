"""Attacks on `ifadit` that need its networks: A1, A4, A5, A12, A13, A14 of facts 3.2, on vectors.

    python benchmarks/redteam_ifadit.py --data ../shared/data/eval/lfw --count 300 --out scratch/redteam

The attacker has everything but keys: code, weights, and photos of other people, of which he makes as many
pseudonymised ones as he likes with keys of his own. He learns on the first half of the people and is
scored on the second. A12 and A14 are linear here; no U-Net was trained. Vectors, once made, stay in --out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from ifadit import (
    METHOD,
    Recogniser,
    area,
    drawn_with,
    embedded,
    faces_of,
    inputs,
    own_of,
    pasted,
    secret,
    view,
)

from moretta.methods import settings
from moretta.networks.flow import Flow, key_of
from moretta.networks.reader import seen_in
from moretta.pipeline.recovery import _networks
from moretta.privacy.rotation import rotate, rotate_back
from moretta.weights import load

SETTINGS: dict[str, dict[str, Any]] = {
    "rotation": {"match": "none"},
    "matched": {"match": "age,gender"},
    "level 2": {"match": "none", "level": 2},
    "flow": {"pseudonym": "flow"},
}
FLOOR = "identity removed"
STEPS = 300  # of the search for a key of the flow


def main() -> None:
    """Attack and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--keys", type=int, default=4, help="pictures a person, a key each")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    people = faces_of(given.data, given.count, given.out)
    judge = Recogniser("sface")
    own = own_of([view(p, f, bytes(32), 0) for p, f, _, _ in people]).astype(float)
    clear = embedded(judge, [(p, f) for p, f, _, _ in people])
    figures: dict[str, Any] = {"people": len(people), "date": time.strftime("%F")}
    figures["A1 near keys"] = near_keys(own)
    figures["A5 known pairs"] = known_pairs(own)
    figures["A13 keys of the flow"] = flow_keys(own)
    for name in (*SETTINGS, FLOOR):
        shown = looked_at(name, people, judge, given)
        figures[name] = attacked(shown, own, clear)
    (given.out / "redteam.json").write_text(json.dumps(figures, indent=1))
    report(figures)


def looked_at(name: str, people: Any, judge: Recogniser, given: Any) -> dict[str, np.ndarray]:
    """Pseudonymise everybody with `keys` keys and return what networks see: (people, keys, length)."""
    kept = given.out / f"{name.replace(' ', '_')}-{given.keys}.npz"
    if kept.exists():
        return dict(np.load(kept))
    crops = [
        view(photo, face, secret("red", name, i, j), i * given.keys + j)
        for i, (photo, face, _, _) in enumerate(people)
        for j in range(given.keys)
    ]
    if name == FLOOR:
        mean = own_of(crops[:: given.keys]).mean(0)
        drawn = drawn_with(crops, np.repeat(mean[None] / np.linalg.norm(mean), len(crops), 0))
    else:
        edit = METHOD.build(settings(METHOD, SETTINGS[name]), "cpu")
        drawn = [one.pixels for one in edit(crops)]
    photos = [
        pasted(people[i // given.keys][0], crop, pixels)
        for i, (crop, pixels) in enumerate(zip(crops, drawn, strict=True))
    ]
    faces = [people[i // given.keys][1] for i in range(len(crops))]
    views = [view(p, f, bytes(32), 0) for p, f in zip(photos, faces, strict=True)]
    backend, _ = _networks("cpu")
    with torch.inference_mode():
        parts = [inputs(views[i : i + 16]) for i in range(0, len(views), 16)]
        dlib = torch.cat([seen_in(backend, *part) for part in parts]).numpy()
        code = torch.cat([backend.attributes(part[0]) for part in parts]).numpy()
    sface = embedded(judge, list(zip(photos, faces, strict=True)))
    shape = (len(people), given.keys, -1)
    made = {"dlib": dlib.reshape(shape), "code": code.reshape(shape), "sface": sface.reshape(shape)}
    np.savez(kept, **made)
    return made


def attacked(shown: dict[str, np.ndarray], own: np.ndarray, clear: np.ndarray) -> dict[str, float]:
    """A12, A4, A14 and the floor's own figure, scored on the second half of the people."""
    half = len(own) // 2
    x = np.concatenate([shown["dlib"], shown["code"], shown["sface"]], 2)
    keys = x.shape[1]
    made: dict[str, float] = {}
    for target, name in ((own, "dlib"), (clear, "sface")):
        guess = ridge(x[:half].reshape(half * keys, -1), target[:half].repeat(keys, 0), x[half:, 0])
        made[f"A12 AUC, {name}"] = area(guess @ target[half:].T)
        made[f"A12 rank 1, {name}"] = float(
            ((guess @ target[half:].T).argmax(1) == np.arange(len(guess))).mean()
        )
    mean = shown["sface"][half:].mean(1)
    made["A4 AUC, one picture"] = area(shown["sface"][half:, 0] @ clear[half:].T)
    made["A4 AUC, mean of pictures"] = area(mean @ clear[half:].T)
    made["linkage AUC"] = area(shown["sface"][half:, 0] @ shown["sface"][half:, 1].T)
    both = np.concatenate([clear, shown["sface"][:, 0]])
    label = np.concatenate([np.full(len(clear), -1.0), np.full(len(clear), 1.0)])
    train = np.concatenate([np.arange(half), len(clear) + np.arange(half)])
    test = np.setdiff1d(np.arange(len(both)), train)
    told = ridge(both[train], label[train, None], both[test])[:, 0]
    made["A14 told from clear photos"] = float(((told > 0) == (label[test] > 0)).mean())
    return made


def ridge(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Ridge regression on standardised inputs, its strength chosen on the last fifth."""
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    a, b, level = (x - mean) / deviation, (at - mean) / deviation, y.mean(0)

    def solved(rows: np.ndarray, wanted: np.ndarray, strength: float) -> np.ndarray:
        normal = rows.T @ rows + strength * len(rows) * np.eye(rows.shape[1])
        return np.linalg.solve(normal, rows.T @ (wanted - level))

    cut = len(a) * 4 // 5
    strengths = (0.01, 0.1, 1.0, 10.0)
    errors = [
        ((a[cut:] @ solved(a[:cut], y[:cut], s) + level - y[cut:]) ** 2).mean() for s in strengths
    ]
    best = strengths[int(np.argmin(errors))]
    guess: np.ndarray = b @ solved(a, y, best)
    return guess


def near_keys(own: np.ndarray) -> dict[str, float]:
    """The way back with each of 256 keys that differ in one bit."""
    right = secret("near")
    turned = rotate(right, own[:40])
    cosines = []
    for bit in range(256):
        near = bytearray(right)
        near[bit // 8] ^= 1 << bit % 8
        cosines.append((rotate_back(bytes(near), turned) * own[:40]).sum(1))
    both = np.concatenate(cosines)
    return {"mean": float(both.mean()), "deviation": float(both.std()), "most": float(both.max())}


def known_pairs(own: np.ndarray) -> dict[str, float]:
    """Pairs of one scope are known: cosine of the estimate (Procrustes) on other people."""
    half = len(own) // 2
    made = {}
    for scope in ("collection", "record"):
        keys = [secret("A5", 0 if scope == "collection" else i) for i in range(len(own))]
        turned = np.concatenate([rotate(k, z[None]) for k, z in zip(keys, own, strict=True)])
        for n in (1, 4, 16, 48, 64, 128):
            if n <= half:
                u, _, v = np.linalg.svd(own[:n].T @ turned[:n])
                guess = turned[half:] @ (u @ v).T
                made[f"{scope}, {n} pairs"] = float((guess * own[half:]).sum(1).mean())
    return made


def flow_keys(own: np.ndarray) -> dict[str, float]:
    """The flow's keys: how near ones open, and one found by gradient from known pairs."""
    flow = Flow.from_tensors(load.tensors("flow"))
    x = torch.from_numpy(own[:40]).float()
    made: dict[str, float] = {}
    for cone in (False, True):
        kind = "cone" if cone else "Gaussian"
        right = torch.from_numpy(key_of(secret("flow"), cone=cone))
        with torch.no_grad():
            hidden = flow(x, right.expand(len(x), -1))

            def opened(key: torch.Tensor, hidden: torch.Tensor = hidden) -> float:
                return float((flow.back(hidden, key.expand(len(x), -1)) * x).sum(1).mean())

            made[f"{kind}, right key"] = opened(right)
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)) * 0.7 / 48**0.5
            read = torch.nn.functional.normalize(hidden + noise, dim=1)
            made[f"{kind}, of a noisy reading to the pseudonym"] = float(
                (read * hidden).sum(1).mean()
            )
            made[f"{kind}, right key, from that reading"] = opened(right, read)
            others = [key_of(secret("flow", i), cone=cone) for i in range(50)]
            made[f"{kind}, another key"] = float(
                np.mean([opened(torch.from_numpy(each)) for each in others])
            )
            made[f"{kind}, pseudonym to own"] = float((hidden * x).sum(1).mean())
            second = flow(x, torch.from_numpy(others[0]).expand(len(x), -1))
            made[f"{kind}, two pseudonyms of one face"] = float((hidden * second).sum(1).mean())
            for eps in (0.001, 0.01, 0.1, 0.3, 1.0):
                noise = torch.randn(48, generator=torch.Generator().manual_seed(1))
                made[f"{kind}, key off by {eps:g}"] = opened(right + eps * noise)
            start = torch.from_numpy(np.mean(others, axis=0)).float()
            made[f"{kind}, mean key"] = opened(start)
        for pairs in (1, 4):
            guess = start.clone().requires_grad_(True)
            optimiser = torch.optim.Adam([guess], 0.05)
            for _ in range(STEPS):
                loss = (
                    1 - (flow(x[:pairs], guess.expand(pairs, -1)) * hidden[:pairs]).sum(1)
                ).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            with torch.no_grad():
                made[f"{kind}, key found from {pairs} pairs"] = opened(guess)
    return made


def report(figures: dict[str, Any]) -> None:
    """Print the Markdown tables."""
    print(f"{figures['people']} people, {figures['date']}\n")
    columns = list(figures[FLOOR])
    print(f"| | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name in (*SETTINGS, FLOOR):
        print(f"| {name} | {' | '.join(f'{figures[name][c]:.3f}' for c in columns)} |")
    for name in ("A1 near keys", "A5 known pairs", "A13 keys of the flow"):
        print(f"\n| {name} | cosine |\n|---|---|")
        for key, value in figures[name].items():
            print(f"| {key} | {value:.3f} |")


if __name__ == "__main__":
    main()
