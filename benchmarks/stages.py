"""Where Moretta's time goes: by stage and size of photo, from 100 to 5,000 photos, by --jobs.

    python benchmarks/stages.py --data ../shared/data/eval/lfw --groups SCRATCH/groups \
        --moretta VENV/bin/moretta --work SCRATCH/stages --out REPORT.json

Stage times come from the manifest (seconds of each photo), the rest from whole processes. "other"
is the wall time of the process that no stage of any photo accounts for: start, imports, loading.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import cv2
from folders import group_photos, lfw_sample
from rivals import decisions, manifest, moretta, save

PARTS = ("stages", "growth", "jobs")


def main() -> None:
    """Measure the parts asked for, print and save."""
    parser = argparse.ArgumentParser(description="Where Moretta's time goes")
    parser.add_argument("--data", type=Path, required=True, help="LFW pack: PERSON/NN.jpg")
    parser.add_argument("--groups", type=Path, required=True, help="from compose_groups.py")
    parser.add_argument("--moretta", type=Path, required=True, help="the command")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--method", default="solid")
    parser.add_argument("--growth", type=int, nargs="+", default=(100, 1000, 5000))
    parser.add_argument("--runs", type=int, default=3, help="of each number of jobs")
    asked = parser.parse_args()
    groups = group_photos(asked.groups)
    small = lfw_sample(asked.data, 200)
    report: dict[str, Any] = {"method": asked.method}
    if "stages" in asked.parts:
        halves = downscaled(groups, asked.work / "2mp", megapixels=2.0)
        sizes = {"250 px": small, "2 MP": halves, "12 MP": groups}
        report["stages"] = {name: stages(photos, asked) for name, photos in sizes.items()}
    if "growth" in asked.parts:
        every = lfw_sample(asked.data, min(3000, *asked.growth))
        report["growth"] = {
            str(count): whole(repeated(every, count), asked) for count in asked.growth
        }
    if "jobs" in asked.parts:
        report["jobs"] = {
            "250 px": jobs(lfw_sample(asked.data, 500), asked),
            "12 MP": jobs(groups, asked),
        }
    save(asked.out, report)


def downscaled(photos: Mapping[str, Path], folder: Path, *, megapixels: float) -> dict[str, Path]:
    """Smaller copies of `photos`, by area averaging."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in photos.items():
        photo = cv2.imread(str(path))
        if photo is None:
            raise SystemExit(f"{path}: not readable")
        scale = (megapixels * 1e6 / (photo.shape[0] * photo.shape[1])) ** 0.5
        smaller = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / name), smaller, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return {name: folder / name for name in photos}


def repeated(photos: Mapping[str, Path], count: int) -> dict[str, Path]:
    """`count` photos under new names, the given ones over and over."""
    return {
        f"{number:06}-{name}": path
        for number, (name, path) in enumerate(islice(cycle(photos.items()), count))
    }


def stages(photos: Mapping[str, Path], asked: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a photo and share of the whole by stage, one job, after a warm-up."""
    place = asked.work / "run"
    tool = moretta(asked.moretta, method=asked.method, jobs=1)
    tool.run(dict(islice(photos.items(), 5)), place)
    cost, _ = tool.run(photos, place)
    lines = manifest(place)
    names = sorted({stage for line in lines for stage in line["seconds"]})
    spent = {stage: sum(line["seconds"].get(stage, 0.0) for line in lines) for stage in names}
    spent["other"] = cost.wall_s - sum(spent.values())
    faces = sum(len(line["faces"]) for line in lines)
    answer = {
        "photos": len(photos),
        "faces_a_photo": round(faces / max(1, len(lines)), 2),
        "photos_a_second": round(len(photos) / cost.wall_s, 3),
        "faces_a_second": round(faces / cost.wall_s, 2),
        "peak_mib": round(cost.peak_mib),
        "code": cost.code,
        "decisions": decisions(place),
        "ms_a_photo": {stage: round(1000 * s / len(photos), 2) for stage, s in spent.items()},
        "share": {stage: round(s / cost.wall_s, 4) for stage, s in spent.items()},
    }
    _print("stages", answer)
    return answer


def whole(
    photos: Mapping[str, Path], asked: argparse.Namespace, *, workers: int = 1
) -> dict[str, Any]:
    """One run as a whole process."""
    place = asked.work / "run"
    tool = moretta(asked.moretta, method=asked.method, jobs=workers)
    cost, _ = tool.run(photos, place)
    answer = {
        "photos": len(photos),
        "jobs": workers,
        "photos_a_second": round(len(photos) / cost.wall_s, 3),
        "decisions": decisions(place),
        "manifest_lines": len(manifest(place)),
        **cost.record(),
    }
    _print(f"{len(photos)} photos", answer)
    return answer


def jobs(photos: Mapping[str, Path], asked: argparse.Namespace) -> dict[str, Any]:
    """One job and two in turn, A B A B, after a warm-up of each."""
    rounds = [
        [whole(photos, asked, workers=workers) for workers in (1, 2)] for _ in range(asked.runs + 1)
    ][1:]
    ratios = [round(one["wall_s"] / two["wall_s"], 3) for one, two in rounds]
    return {"times_as_fast": {"pairs": ratios, "median": median(ratios)}, "runs": rounds}


def _print(what: str, answer: Mapping[str, Any]) -> None:
    shown = {key: value for key, value in answer.items() if key != "output"}
    print(f"{what}: {shown}", flush=True)


if __name__ == "__main__":
    main()
