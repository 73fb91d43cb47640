"""Compare our port of dlib's face ResNet with dlib itself, and float16 storage with float32.

python benchmarks/check_dlib.py --crops ../shared/data/train/wide.zip --dat MODEL.dat

--crops  a zip of wide crops with its table beside it (same name, .csv): see ../shared/data
--dat    dlib_face_recognition_resnet_model_v1.dat, from the package that catalogue.toml names
Needs    dlib-bin, torch. Exit code 1 when a component differs from dlib's by more than 1e-4.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
import zipfile
from pathlib import Path

import dlib
import numpy as np
import torch
from PIL import Image

from moretta.networks.recogniser import DlibResNet, chip
from moretta.weights import convert, load

LIMIT = 1e-4  # a component, against dlib


def chips_of(crops: Path, count: int) -> np.ndarray:
    """(count, 150, 150, 3) uint8, cut from crops spread evenly over the file."""
    with crops.with_suffix(".csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, count).astype(int)]
    chips = []
    with zipfile.ZipFile(crops) as archive:
        for row in chosen:
            with Image.open(io.BytesIO(archive.read(row["file"]))) as photo:
                pixels = np.asarray(photo.convert("RGB"), np.float32)
            picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
            cut = chip(picture, torch.tensor([points_of(row)]))[0].permute(1, 2, 0)
            chips.append(cut.round().clamp(0, 255).to(torch.uint8).contiguous().numpy())
    return np.stack(chips)


def points_of(row: dict[str, str]) -> list[list[float]]:
    """Return five points: the last ten columns, x and y in turn."""
    numbers = [float(value) for value in list(row.values())[-10:]]
    return [numbers[i : i + 2] for i in range(0, 10, 2)]


def vectors_of(network: DlibResNet, chips: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """(n, 128), in batches of 20."""
    network = network.to(dtype=dtype, memory_format=torch.channels_last)
    pictures = torch.from_numpy(chips).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        return torch.cat([network.embed(batch) for batch in pictures.split(20)]).numpy()


def compare(name: str, a: np.ndarray, b: np.ndarray) -> float:
    """Print one line of figures; return the largest difference of a component."""
    difference = np.abs(a - b)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    distance = np.linalg.norm(a - b, axis=1)
    print(
        f"{name:42} component max {difference.max():.2e} mean {difference.mean():.2e}"
        f"  distance max {distance.max():.2e}  cosine min {cosine.min():.7f}"
    )
    return float(difference.max())


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=Path, required=True)
    parser.add_argument("--dat", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    chosen = parser.parse_args()
    chips = chips_of(chosen.crops, chosen.count)

    original = dlib.face_recognition_model_v1(str(chosen.dat))
    start = time.process_time()
    theirs = np.array([np.array(original.compute_face_descriptor(each)) for each in chips])
    print(
        f"{len(chips)} chips; dlib {(time.process_time() - start) / len(chips) * 1e3:.1f} ms CPU each"
    )

    exact = convert.convert_dlib(chosen.dat.read_bytes())
    stored = load.tensors("dlib")
    results = {}
    for name, tensors, dtype in (
        ("float32", exact, torch.float32),
        ("float16 stored", stored, torch.float32),
        ("float16 stored, run in bfloat16", stored, torch.bfloat16),
    ):
        network = DlibResNet.from_tensors(tensors)
        start = time.process_time()
        results[name] = vectors_of(network, chips, dtype)
        print(f"{name}: {(time.process_time() - start) / len(chips) * 1e3:.1f} ms CPU a chip")

    worst = compare("float32 against dlib", results["float32"], theirs)
    compare("float16 stored against float32", results["float16 stored"], results["float32"])
    compare(
        "float16 stored, bfloat16, against float32",
        results["float16 stored, run in bfloat16"],
        results["float32"],
    )
    return int(worst > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
