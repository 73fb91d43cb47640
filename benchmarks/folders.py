"""Folders of photos for a run, and the JSON lines that a run leaves."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def lfw_sample(data: Path, count: int, *, seed: int = 0) -> dict[str, Path]:
    """`count` photos of the pack, name in the run -> file; the same for everyone."""
    photos = sorted(data.glob("*/*.jpg"))
    if len(photos) < count:
        raise SystemExit(f"{data}: {len(photos)} photos, {count} wanted")
    chosen = sorted(random.Random(seed).sample(photos, count))  # noqa: S311, a sample, no secret
    return {f"{path.parent.name}-{path.name}": path for path in chosen}


def group_photos(folder: Path) -> dict[str, Path]:
    """Photos that compose_groups.py wrote."""
    photos = {path.name: path for path in sorted(folder.glob("group-*.jpg"))}
    if not photos:
        raise SystemExit(f"{folder}: no group photos; run benchmarks/compose_groups.py first")
    return photos


def fill(folder: Path, photos: Mapping[str, Path]) -> Path:
    """A fresh folder with copies of `photos` and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, path in photos.items():
        shutil.copyfile(path, folder / name)
    return folder


def json_lines(path: Path) -> list[dict[str, Any]]:
    """One record a line; none if the file is not there."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def quantiles(values: Iterable[float], shares: Iterable[float]) -> dict[str, float]:
    """Nearest-rank quantiles, keyed "q05" and so on; empty for no values."""
    ranked = sorted(values)
    if not ranked:
        return {}
    last = len(ranked) - 1
    return {f"q{round(100 * share):02}": ranked[round(share * last)] for share in shares}
