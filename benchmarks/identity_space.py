"""The space of identities: people in it, what moves a vector, and what the public pool holds.

python benchmarks/identity_space.py --crops ../shared/data/train/wide.zip

--crops  a zip of wide crops with its table beside it (same name, .csv): see ../shared
--pairs  people of LFW with two crops that are compared
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from moretta.networks import pool
from moretta.networks.identity import Identity, cut
from moretta.networks.traits import TraitsHead
from moretta.weights import load

TIGHT = (0.5 - 0.5 / 1.7, 0.5 + 0.5 / 1.7)  # the tight crop in a wide one


def two_each(table: Path, count: int) -> list[dict[str, str]]:
    """Return the rows of `count` people of LFW, two each, spread over the table."""
    with table.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["source"] == "lfw"]
    people = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row["person"])]
    pairs = [group[:2] for group in people if len(group) > 1]
    chosen = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(int)
    return [row for at in chosen for row in pairs[at]]


def chips(archive: zipfile.ZipFile, row: dict[str, str]) -> dict[str, torch.Tensor]:
    """Return the chip as it should be, and with one thing changed each, (1, 3, 150, 150)."""
    with Image.open(io.BytesIO(archive.read(row["file"]))) as crop:
        pixels = np.array(crop.convert("RGB"), np.float32)
    side = pixels.shape[1]
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    points = torch.tensor([float(each) for each in list(row.values())[-10:]]).view(1, 5, 2)
    mirrored = torch.stack([side - points[..., 0], points[..., 1]], -1)[:, [1, 0, 2, 4, 3]]
    low, high = (round(edge * side) for edge in TIGHT)
    return {
        "as it is": cut(picture, points),
        "points half a pixel off, both axes": cut(picture, points + 0.5),
        "points 2 px off, at random": cut(picture, points + 2 * torch.randn(1, 5, 2)),
        "mirrored": cut(picture.flip(3), mirrored),
        "nothing outside the tight crop": cut(picture[..., low:high, low:high], points - low),
    }


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=150)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tensors = load.tensors("identity")
    network = Identity.from_tensors(load.tensors("dlib"), tensors)
    head = TraitsHead.from_tensors(tensors)

    rows = two_each(chosen.crops.with_suffix(".csv"), chosen.pairs)
    with zipfile.ZipFile(chosen.crops) as archive, torch.inference_mode():
        cuts = [chips(archive, row) for row in rows]
        vectors = {
            name: torch.cat(
                [network(batch) for batch in torch.cat([each[name] for each in cuts]).split(30)]
            ).numpy()
            for name in cuts[0]
        }
    plain = vectors.pop("as it is")
    first, second = plain[::2], plain[1::2]
    others = (first @ second.T)[~np.eye(len(first), dtype=bool)]
    drawn = pool.random_identities(4000, 1)
    strangers = drawn[:2000] @ drawn[2000:].T
    print(
        "| compared | cosine, mean | its 5th percentile | same band | same gender |\n|---|---|---|---|---|"
    )
    line("two photos of one person", first, second, head)
    for name, changed in vectors.items():
        line(name, plain, changed, head)
    for name, cosine in (("different people", others), ("uniform random", strangers)):
        print(
            f"\n{name}: cosine {cosine.mean():.3f}, standard deviation {cosine.std():.3f}, "
            f"99th percentile {np.quantile(cosine, 0.99):.3f}, "
            f"99.9th {np.quantile(cosine, 0.999):.3f}"
        )
    print()

    started = time.process_time()
    public = pool.build(pool.COUNT, pool.SEED, head)
    spent = time.process_time() - started
    plain_pool = pool.build(pool.COUNT, pool.SEED, head, least=0)
    print(f"| share of {len(public)}, % | {' | '.join(pool.BANDS)} |\n|---{'|---' * 5}|")
    for name, each in (("uniform", plain_pool), ("the pool", public)):
        for at, gender in enumerate(pool.GENDERS):
            shares = " | ".join(f"{100 * share:.2f}" for share in each.shares()[:, at])
            print(f"| {name}, {gender} | {shares} |")
    cosines = public.identities[:3000] @ public.identities[3000:].T
    print(
        f"\nbuilt in {spent:.2f} s of CPU time; members fewest of a kind "
        f"{round(public.shares().min() * len(public))}; confidence, mean: band "
        f"{public.band_confidences.mean():.2f}, gender {public.gender_confidences.mean():.2f}; "
        f"nearest other member: cosine {cosines.max(1).mean():.2f}"
    )


def line(name: str, a: np.ndarray, b: np.ndarray, head: TraitsHead) -> None:
    """Print how alike two sets of vectors are, and how often the head reads them alike."""
    cosine = (a * b).sum(1)
    (bands, female), (bands_too, female_too) = head.probabilities(a), head.probabilities(b)
    band = (bands.argmax(1) == bands_too.argmax(1)).mean()
    gender = ((female >= 0.5) == (female_too >= 0.5)).mean()
    print(
        f"| {name} | {cosine.mean():.3f} | {np.quantile(cosine, 0.05):.3f} "
        f"| {100 * band:.0f} % | {100 * gender:.0f} % |"
    )


if __name__ == "__main__":
    main()
