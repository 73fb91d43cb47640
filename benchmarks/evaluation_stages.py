"""Time and memory of an evaluation by stage, cold and warm.

    python benchmarks/evaluation_stages.py --data ../shared/data/eval/lfw --out OUT \
        [--count 1000 3000] [--profile quick] [--method pixelate]

For each number of faces: the photos are pixelated once (not counted), then evaluated with an empty
cache and again with the one it left, each in a process of its own. Time between two messages of the
evaluation belongs to the first of them; memory is the largest resident size seen in that time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

STAGES = (("finding faces", "find, align"), ("vectors of", "vectors"), ("utility", "utility"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time and memory of an evaluation by stage")
    parser.add_argument("--data", type=Path, required=True, help="PERSON/NN.jpg")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, nargs="+", default=[1000, 3000], help="faces")
    parser.add_argument("--profile", default="quick", choices=("quick", "standard", "full"))
    parser.add_argument("--method", default="pixelate")
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        measure(*asked.one, asked.out, asked.profile)
        return
    measured: dict[str, dict[str, Any]] = {}
    for count in asked.count:
        before, after = photos(asked.data, count, asked.out / str(count), asked.method)
        cache = asked.out / str(count) / f"cache-{asked.profile}"
        shutil.rmtree(cache, ignore_errors=True)
        for state in ("cold", "warm"):
            goal = cache.with_name(f"{state}-{asked.profile}.json")
            own = [str(Path(__file__)), "--data", str(asked.data), "--out", str(goal)]
            more = ["--profile", asked.profile, "--one", str(before), str(after)]
            subprocess.run([sys.executable, *own, *more], check=True)
            measured[f"{count} {state}"] = json.loads(goal.read_text())
    stages = list(dict.fromkeys(name for each in measured.values() for name in each))
    print("| seconds, of CPU (peak MiB) |", " | ".join(measured), "|")
    print("| --- |", " | ".join("---" for _ in measured), "|")
    for stage in stages:
        cells = [each.get(stage) for each in measured.values()]
        shown = [
            f"{c['seconds']:.1f}, {c['cpu']:.1f} ({c['mib']:.0f})" if c else "-" for c in cells
        ]
        print(f"| {stage} |", " | ".join(shown), "|")


def photos(data: Path, count: int, place: Path, method: str) -> tuple[Path, Path]:
    """`count` faces, whole people in the order of the pack, and the same after `method`."""
    from moretta.api import Anonymizer

    before, after = place / "before", place / "after"
    if not before.exists():
        taken = 0
        for person in sorted(each for each in data.iterdir() if each.is_dir()):
            if taken >= count:
                break
            shutil.copytree(person, before / person.name)
            taken += len(list(person.iterdir()))
        if taken < count:
            raise SystemExit(f"{data}: {taken} photos, {count} wanted")
    if not (after / "manifest.jsonl").exists():
        Anonymizer(method, seed=0).run(before, after, jobs=1)
    return before, after


def measure(before: Path, after: Path, goal: Path, profile: str) -> None:
    """Evaluate once and write seconds and memory by stage."""
    from moretta.evaluation.protocol import Options, evaluate

    cache = goal.with_name(f"cache-{profile}")
    clock = Clock()
    clock.stage("start")
    evaluate(before, after, Options(profile=profile, cache=cache), listener=clock.stage)  # type: ignore[arg-type]
    goal.write_text(json.dumps(clock.end(), indent=1))


class Clock:
    """Seconds, CPU seconds and peak resident memory between two messages."""

    def __init__(self) -> None:
        self._name, self._since, self._spent = "", 0.0, 0.0
        self._found: dict[str, dict[str, float]] = {}
        self._peak, self._running = 0.0, True
        self._whole, self._start = 0.0, time.perf_counter()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def _look(self) -> None:
        while self._running:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self._peak = max(self._peak, pages * 4096 / 2**20)
            time.sleep(0.05)

    def stage(self, text: str) -> None:
        """Begin a stage; a message that STAGES shortens, or an attack's own name."""
        self._close()
        self._name = next((short for part, short in STAGES if part in text), text)
        self._since, self._spent, self._peak = time.perf_counter(), time.process_time(), 0.0

    def _close(self) -> None:
        if not self._name:
            return
        one = self._found.setdefault(self._name, {"seconds": 0.0, "cpu": 0.0, "mib": 0.0})
        one["seconds"] += time.perf_counter() - self._since
        one["cpu"] += time.process_time() - self._spent
        one["mib"] = max(one["mib"], self._peak)
        self._whole = max(self._whole, self._peak)

    def end(self) -> dict[str, dict[str, float]]:
        """Return stage -> seconds, mib; `all` last."""
        self._close()
        self._running = False
        everything = {
            "seconds": time.perf_counter() - self._start,
            "cpu": time.process_time(),
            "mib": self._whole,
        }
        return {**self._found, "all": everything}


if __name__ == "__main__":
    main()
