"""What the composer hides and keeps, on photos of people who trained nothing.

    python benchmarks/composer.py --data ../shared/data/eval/lfw --count 400 --out scratch/composer

One photo a person, people with two photos or more; the face nearest the centre. Each face is drawn with
its own, another person's and random identities, and once with each source of a leak replaced: another
person's surroundings are the floor (their face under the same mask), an average face, points of the
template, no attribute code. Pasted back through the pipeline's mask, then compared by recognisers that
trained nothing (SFace; FaceNet where its file is found) with the same photo and with another one. At
the end, photos as `newface` releases them, after the judge's second thoughts.

Writes figures.json and, outside the repository, sheet.png.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from people import faces_of, points_off
from PIL import Image

from moretta.api import Anonymizer
from moretta.evaluation.readers import head_angles, skin_colour
from moretta.faces import crop as crops
from moretta.faces import mask as masks
from moretta.faces.crop import WIDE, points_in
from moretta.faces.recognise import Recogniser
from moretta.methods import method
from moretta.networks import pool as pools
from moretta.networks.traits import TraitsHead
from moretta.pipeline.options import options
from moretta.pipeline.protect import Picture, Protector
from moretta.weights import load
from moretta.weights.backends import SIDE, composer

FAR = ("1e-2", "1e-3", "1e-4")
RELEASED = {  # through the whole pipeline: what the judge knows is drawn anew, then covered
    "released": {},
    "released, truncation 1": {"truncation": 1},
    "released, level 1": {"level": 1},
    "released, level 2": {"level": 2},
    "released, match none": {"match": "none"},
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="another composer's file")
    parser.add_argument("--facenet", action="store_true", help="the catalogue's facenet, if found")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    backend = composer(given.weights) if given.weights else composer()
    head = TraitsHead.from_tensors(load.tensors("identity"))
    pool = pools.build(pools.COUNT, pools.SEED, head)
    people = faces_of(given.data, given.count)
    n = len(people)
    views = [crop_of(p, face, i, backend.side) for i, (p, face, _, _) in enumerate(people)]
    pictures = (
        torch.from_numpy(np.stack([v.pixels for v in views])).permute(0, 3, 1, 2).float() / 127.5
        - 1
    )
    points = torch.from_numpy(np.stack([points_in(v) for v in views])).float()
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((n, 64))).float()
    with torch.inference_mode():
        own = torch.cat(
            [
                backend.identity(a, b)
                for a, b in zip(pictures.split(16), points.split(16), strict=True)
            ]
        )
        codes = [
            torch.cat(
                [
                    backend.known(a, b, level=level)
                    for a, b in zip(pictures.split(16), noise.split(16), strict=True)
                ]
            )
            for level in (0, 1, 2)
        ]
    rng = np.random.default_rng(2)
    wanted = [head.read(one.numpy()) for one in own]

    def picked(match: Any) -> torch.Tensor:
        members = [pools.choose(pool, one, match, rng) for one in wanted]
        return torch.from_numpy(pool.identities[members])

    fits, free, swapped = picked("age,gender"), picked("none"), own.roll(7, 0)
    average = torch.from_numpy(np.broadcast_to(WIDE, (n, 5, 2)).copy()).float()
    elsewhere = pictures.roll(7, 0)
    conditions: dict[str, Any] = {
        "own": (own, points, codes[0]),
        "another's": (swapped, points, codes[0]),
        "random, fitting": (fits, points, codes[0]),
        "random, fitting, truncation 0.8": (fits, points, codes[0], 0.8),
        "random, fitting, truncation 0.5": (fits, points, codes[0], 0.5),
        "random": (free, points, codes[0]),
        "random, fitting, level 1": (fits, points, codes[1]),
        "random, fitting, level 2": (fits, points, codes[2]),
        "random, level 2": (free, points, codes[2]),
        "random, average points": (free, average, codes[0]),
        "random, level 2, average points": (free, average, codes[2]),
    }
    recognisers = {"sface": Recogniser("sface")}
    if given.facenet:
        recognisers["facenet"] = Recogniser("facenet")
    before = {
        k: np.concatenate([r.embed(p, [f]) for p, f, _, _ in people])
        for k, r in recognisers.items()
    }
    other = {
        k: np.concatenate([r.embed(p, [f]) for _, _, p, f in people])
        for k, r in recognisers.items()
    }
    finder = Anonymizer("solid")
    turned = np.abs([head_angles(face.points)[0] for _, face, _, _ in people])
    bounds = (0, 15, 30, 90)
    yaws = {
        f"{low} to {high} degrees": (turned >= low) & (turned < high)
        for low, high in pairwise(bounds)
    }
    figures: dict[str, Any] = {
        "people": n,
        "machine": platform.processor(),
        "date": time.strftime("%F"),
        "conditions": {},
    }
    figures["real"] = {k: rates(k, np.zeros(0), (before[k] * other[k]).sum(1)) for k in recognisers}
    sheet = [
        [
            np.asarray(Image.fromarray(p).resize((160, 160)))
            for p, *_ in people[:: max(1, n // 16)][:16]
        ]
    ]

    def pasted_in(drawn: np.ndarray) -> list[np.ndarray]:
        return [
            pasted(photo, face, view, edited)
            for (photo, face, _, _), view, edited in zip(people, views, drawn, strict=True)
        ]

    def measure(name: str, pasted: list[np.ndarray], asked: torch.Tensor | None) -> None:
        row: dict[str, Any] = {}
        for key, recogniser in recognisers.items():
            after = np.concatenate(
                [recogniser.embed(p, [f]) for p, (_, f, _, _) in zip(pasted, people, strict=True)]
            )
            row[key] = rates(key, (after * before[key]).sum(1), (after * other[key]).sum(1))
        off = points_off(finder, pasted, [face for _, face, _, _ in people])
        row["detected"] = float((~np.isnan(off)).mean())
        row["points, % of eye distance, median"] = float(np.nanmedian(off))
        row["points by yaw"] = {
            name: [int(some.sum()), float(np.nanmedian(off[some]))]
            for name, some in yaws.items()
            if some.any()
        }
        row["skin"] = skin(pasted, people)
        if asked is not None:
            row |= read_back(backend, pasted, people, asked, own, head, wanted)
        figures["conditions"][name] = row
        print(name, json.dumps(row))
        if len(sheet) < 9:
            sheet.append(
                [
                    np.asarray(Image.fromarray(p).resize((160, 160)))
                    for p in pasted[:: max(1, n // 16)][:16]
                ]
            )

    with torch.inference_mode():
        for name, (asked, where, code, *kept) in conditions.items():
            crowds = torch.from_numpy(pools.crowds(pool, head, asked.numpy()))
            psi = torch.tensor(kept[0] if kept else 1.0)
            each = (pictures, where, asked, code, crowds)
            faces = torch.cat(
                [
                    backend.redrawn(*part, crowd=crowd, truncation=psi)
                    for *part, crowd in zip(*(one.split(16) for one in each), strict=True)
                ]
            )
            levels = ((faces.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
            measure(name, pasted_in(levels), asked)
    strangers = ((elsewhere + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    measure("floor: a stranger's real face", pasted_in(strangers), None)
    mean = np.broadcast_to(strangers.mean(0).round().astype(np.uint8), strangers.shape)
    measure("floor: the average face", pasted_in(mean), None)
    for name, settings in RELEASED.items():
        measure(name, released([(photo, face) for photo, face, _, _ in people], settings), None)
    speed(backend, pictures, points, own, codes[0], figures)
    (given.out / "figures.json").write_text(json.dumps(figures, indent=1))
    Image.fromarray(np.vstack([np.hstack(row) for row in sheet])).save(given.out / "sheet.png")


def crop_of(photo: Any, face: Any, seed: int, side: int = SIDE) -> Any:
    """The wide crop that the pipeline would make."""
    nothing = np.zeros((1, 1), np.float32)
    return crops.align(
        photo, face, nothing, template="wide", side=side, seed=seed, stretch=stretched(face)
    )


def pasted(photo: Any, face: Any, view: Any, edited: Any) -> Any:
    """The photo with an edited crop blended in, as the pipeline does."""
    about, canvas = method("newface"), photo.copy()
    scale = about.mask_scale * stretched(face)
    alpha, bounds = masks.redraw(face, photo.shape, scale=scale, feather=about.mask_feather)
    crops.paste(canvas, edited, view, alpha, bounds)
    return canvas


def released(faces: list[tuple[Any, Any]], settings: dict[str, Any]) -> list[np.ndarray]:
    """Return photos as `newface` publishes them, only the given face of each replaced."""
    protector = Protector(options({"method": "newface", "seed": 1, "settings": settings}))
    pictures = [Picture(pixels=p, name=str(i), faces=[f]) for i, (p, f) in enumerate(faces)]
    done = []
    for start in range(0, len(pictures), 8):
        done += protector.protect(pictures[start : start + 8])
    covered = sum("covered" in one.faces[0].audit for one in done)
    print(f"{settings}: {covered} of {len(done)} covered")
    return [one.pixels for one in done]


def skin(pasted: list[np.ndarray], people: list) -> dict[str, float]:
    """How far the cheeks' colour is from the photo's, in CIELAB, and how lightness goes with it."""
    was = np.array([skin_colour(photo, face) for photo, face, _, _ in people])
    now = np.array([skin_colour(one, p[1]) for one, p in zip(pasted, people, strict=True)])
    dark = was[:, 0] <= np.quantile(was[:, 0], 0.2)
    return {
        "lightness off, mean": float(np.abs(now - was)[:, 0].mean()),
        "lightness of the darkest fifth, before": float(was[dark, 0].mean()),
        "and after": float(now[dark, 0].mean()),
        "correlation of lightness": float(np.corrcoef(was[:, 0], now[:, 0])[0, 1]),
        "colour off, mean": float(np.linalg.norm(now - was, axis=1).mean()),
    }


def stretched(face: Any) -> float:
    """As the pipeline does, but for faces that it would cover."""
    chosen = method("newface")
    return masks.stretch(face, scale=chosen.mask_scale, feather=chosen.mask_feather)


def rates(network: str, same: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Share of faces above each threshold, against the same photo and against another one."""
    thresholds = load.catalogue()[network].thresholds
    made = {}
    for label, cosines in (("same", same), ("other", other)):
        if len(cosines):
            made |= {
                f"{label} {far}": float((cosines > thresholds[f"far_{far}"]).mean()) for far in FAR
            }
            made[f"{label} mean"] = float(cosines.mean())
    return made


def read_back(
    backend: Any,
    pasted: list,
    people: list,
    asked: torch.Tensor,
    own: torch.Tensor,
    head: TraitsHead,
    wanted: list,
) -> dict[str, float]:
    """Cosine of the asked identity in the photo as PNG, JPEG 90 and 75, and what the head reads."""
    made, seen = {}, np.zeros((0, 48))
    for label, quality in (("png", 0), ("jpeg 90", 90), ("jpeg 75", 75)):
        vectors = []
        for canvas, (_, face, _, _) in zip(pasted, people, strict=True):
            shown = canvas
            if quality:
                file = BytesIO()
                Image.fromarray(canvas).save(file, "JPEG", quality=quality)
                shown = np.asarray(Image.open(file))
            picture = torch.from_numpy(shown.copy()).permute(2, 0, 1)[None].float()
            vectors.append(
                backend.identify.of(picture, torch.from_numpy(face.points)[None].float())
            )
        together = torch.cat(vectors)
        made[f"cosine to asked, {label}"] = float((together * asked).sum(1).mean())
        if label == "png":
            made["cosine to own"] = float((together * own).sum(1).mean())
            seen = together.numpy()
    read = [head.read(one) for one in seen]
    made["same band as before"] = float(
        np.mean([a.band == b.band for a, b in zip(read, wanted, strict=True)])
    )
    made["same gender as before"] = float(
        np.mean([a.gender == b.gender for a, b in zip(read, wanted, strict=True)])
    )
    return made


def speed(
    backend: Any,
    pictures: torch.Tensor,
    points: torch.Tensor,
    own: torch.Tensor,
    code: torch.Tensor,
    figures: dict[str, Any],
) -> None:
    """CPU seconds a face for drawing alone, one thread, beside dense float32 convolutions."""
    figures["cpu ms a face"] = {}
    for dtype in (torch.float32, torch.bfloat16):
        one = replace(backend, dtype=dtype)
        for batch in (1, 16):
            best = min(
                timed(one, pictures[:batch], points[:batch], own[:batch], code[:batch])
                for _ in range(5)
            )
            figures["cpu ms a face"][f"{str(dtype)[6:]}, batch {batch}"] = round(
                1000 * best / batch, 2
            )
    layer = torch.nn.Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.rand(16, 128, 48, 48).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        layer(x)
        start = time.process_time()
        for _ in range(5):
            layer(x)
        each = (time.process_time() - start) / 5
    figures["dense convolution, GFLOP/s of one thread"] = round(
        16 * 128 * 128 * 9 * 48 * 48 * 2 / each / 1e9
    )


@torch.inference_mode()
def timed(
    backend: Any,
    pictures: torch.Tensor,
    points: torch.Tensor,
    own: torch.Tensor,
    code: torch.Tensor,
) -> float:
    """Return CPU seconds of one drawing."""
    context = backend.context(pictures)
    start = time.process_time()
    backend.draw(context, points, backend.rows(own, code))
    return time.process_time() - start


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
