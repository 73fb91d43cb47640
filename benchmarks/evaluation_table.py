"""Every tool and strength under the same attackers: ladder, utility, minutes, as Markdown.

    python benchmarks/evaluation_table.py --data ../shared/data/eval/lfw --count 400 --out OUT \
        [--deface DEFACE_VENV] [--profile quick] [--recognisers sface,facenet] [--only solid,deface]
    python benchmarks/evaluation_table.py --bench BENCH

The second form prints the tables of what `moretta benchmark --output BENCH` has made, and nothing more.
Conditions: no change; a black box twice as wide and high as the face; solid; pixelate and blur at
strengths 0, 0.5 and 1; deface 1.5 with its defaults. Ours are what `moretta anonymize` releases: a
face that the judge still knows is covered, and the table says how many were. solid has no strength.
Originals are looked at and embedded once: all runs share OUT/cache. A run whose report is there with
the same settings is not repeated, so that a broken series goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from folders import json_lines
from PIL import Image
from rivals import deface

from moretta.api import Anonymizer
from moretta.cli.evaluate import method_of, write
from moretta.evaluation.protocol import Options, evaluate
from moretta.evaluation.report.compare import comparison
from moretta.evaluation.report.schema import AttackPart, Report, read

HEAD = [
    "",
    "verdict",
    "deciding attack",
    "its top-1",
    "largest upper bound",
    "TAR at FMR 1e-3",
    "A8",
    "missed faces",
    "covered by the audit",
    "minutes",
]
STRENGTHS = (0.0, 0.5, 1.0)
USEFUL = (
    "faces found by yunet",
    "faces found by centerface",
    "box overlap, yunet",
    "five-point error",
    "SSIM inside the changed area",
    "SSIM outside the changed area",
    "PSNR outside the changed area",
)  # shown first; whatever else the report holds follows


def main() -> None:
    """Make, attack, print; JSON and Markdown lie in --out."""
    parser = argparse.ArgumentParser(description="One table of tools under the same attackers")
    parser.add_argument(
        "--bench", type=Path, help="folder of `moretta benchmark`: print its tables"
    )
    parser.add_argument("--data", type=Path, help="PERSON/NN.jpg")
    parser.add_argument("--count", type=int, default=400, help="people")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--deface", type=Path, help="virtual environment that holds deface 1.5.0")
    parser.add_argument("--profile", default="quick", choices=("quick", "standard", "full"))
    parser.add_argument("--recognisers", default="", help="NAME[,NAME] instead of the profile's")
    parser.add_argument("--only", default="", help="NAME[,NAME] of the conditions")
    asked = parser.parse_args()
    if asked.bench:
        made = [each["method"] for each in json.loads((asked.bench / "benchmark.json").read_text())]
        print(table(*of_benchmark(asked.bench, made)))
        return
    if not (asked.data and asked.out):
        parser.error("--data and --out, or --bench")
    originals = people(asked.data, asked.count, asked.out / "original")
    makers = conditions(asked.deface)
    wanted = [each for each in asked.only.split(",") if each] or list(makers)
    reports: list[tuple[str, Report]] = []
    covered: dict[str, str] = {}
    for number, name in enumerate(wanted):
        folder = asked.out / "released" / name
        if not folder.exists():
            say(f"{name}: anonymising")
            half = folder.with_name(f"{name}-half")
            shutil.rmtree(half, ignore_errors=True)
            makers[name](originals, half)
            half.rename(folder)
        covered[name] = audited(folder)
        reports.append((name, judged(name, originals, folder, asked, gates=number == 0)))
        _, html = comparison(reports)
        (asked.out / "compared.html").write_text(html)
    text = table(reports, covered)
    (asked.out / "table.md").write_text(text)
    print(text)


def of_benchmark(bench: Path, labels: list[str]) -> tuple[list[tuple[str, Report]], dict[str, str]]:
    """Return the reports of `moretta benchmark`, and how many faces were covered."""
    reports = [
        (name, read((bench / "reports" / name / "report.json").read_text())) for name in labels
    ]
    return reports, {name: audited(bench / "outputs" / name) for name in labels}


def conditions(environment: Path | None) -> dict[str, Callable[[Path, Path], None]]:
    """Name -> (originals, output folder)."""
    makers: dict[str, Callable[[Path, Path], None]] = {
        "no change": lambda before, after: shutil.copytree(before, after),
        "black box": black_boxes,
        "solid": ours("solid", None),
    }
    for method in ("pixelate", "blur"):
        for strength in STRENGTHS:
            makers[f"{method} {strength:g}"] = ours(method, strength)
    if environment:
        makers["deface"] = lambda before, after: by_deface(environment, before, after)
    return makers


def people(data: Path, count: int, folder: Path) -> Path:
    """The first `count` people of the pack with all their photos."""
    chosen = sorted(each for each in data.iterdir() if each.is_dir())[:count]
    if len(chosen) < count:
        raise SystemExit(f"{data}: {len(chosen)} people, {count} wanted")
    if folder.exists() and len(list(folder.iterdir())) != count:
        raise SystemExit(f"{folder} holds another number of people; name another --out")
    for person in chosen:
        if not (folder / person.name).exists():
            shutil.copytree(person, folder / person.name)
    return folder


def ours(method: str, strength: float | None) -> Callable[[Path, Path], None]:
    """What `moretta anonymize` releases."""

    def make(before: Path, after: Path) -> None:
        Anonymizer(method, strength=strength, seed=0).run(before, after, jobs=1)

    return make


def black_boxes(before: Path, after: Path) -> None:
    """Paint every face's box, twice as wide and high, black; lossless."""
    finder = Anonymizer()
    for path in sorted(before.rglob("*.jpg")):
        photo = np.array(Image.open(path).convert("RGB"))
        for face in finder.find(photo):
            x, y = face.box.left, face.box.top
            w, h = face.box.width, face.box.height
            top, left = max(0, round(y - h / 2)), max(0, round(x - w / 2))
            photo[top : round(y + 1.5 * h), left : round(x + 1.5 * w)] = 0
        goal = (after / path.relative_to(before)).with_suffix(".png")
        goal.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(goal)


def by_deface(environment: Path, before: Path, after: Path) -> None:
    """Deface with its defaults; it does not descend into folders, so names carry the folder."""
    tool = deface(environment, method="blur", backend="opencv")
    flat = {f"{p.parent.name}~{p.name}": p for p in sorted(before.rglob("*.jpg"))}
    place = after.with_name("deface-work")
    cost, written = tool.run(flat, place)
    if cost.code or not written:
        raise SystemExit(f"deface ended with {cost.code}: {cost.output}")
    for path in written:
        person, name = path.name.split("~", 1)
        (after / person).mkdir(parents=True, exist_ok=True)
        path.rename(after / person / name)
    shutil.rmtree(place)


def audited(folder: Path) -> str:
    """How many faces of a run of ours were covered after the judge knew them."""
    faces = [face for line in json_lines(folder / "manifest.jsonl") for face in line["faces"]]
    covered = sum('"covered":' in json.dumps(face) for face in faces)
    return f"{covered} of {len(faces)}" if faces else "-"


def judged(
    name: str, before: Path, after: Path, asked: argparse.Namespace, *, gates: bool
) -> Report:
    """Evaluate, unless a report with the same settings is there."""
    place = asked.out / "reports" / name
    settings = {
        "profile": asked.profile,
        "recognisers": [each for each in asked.recognisers.split(",") if each],
    }
    note = place / "settings.json"
    if note.exists() and json.loads(note.read_text()) == settings:
        return read((place / "report.json").read_text())
    known = method_of(after)
    options = Options(
        profile=asked.profile,
        recognisers=tuple(settings["recognisers"]),
        trained_with=tuple(known.get("trained_with", ())),
        cache=asked.out / "cache",
        method=known,
        gates=gates,
    )
    report = evaluate(before, after, options, listener=lambda what: say(f"{name}: {what}"))
    write(report, place)
    note.write_text(json.dumps(settings))
    return report


def table(reports: list[tuple[str, Report]], covered: Mapping[str, str]) -> str:
    """Everything as Markdown."""
    first = reports[0][1]
    title = (
        f"{first.run.utc[:10]}; {first.data.people} people, {first.data.photos} photos, "
        f"{first.headline.people} people in part E; profile {first.run.profile}, scenario "
        f"{first.run.scenario}; {platform.machine()}. All rates in per cent, 95 % intervals over "
        "people in brackets."
    )
    lines = [title, ""]
    lines += _rows(
        HEAD,
        [
            [
                name,
                each.headline.verdict,
                f"{each.headline.attack} ({each.headline.recogniser})",
                _interval(each.headline.top1),
                _percent(each.headline.highest_upper),
                _interval(each.headline.tar_1e_3),
                _interval(each.headline.a8),
                str(each.coverage.missed),
                covered[name],
                f"{each.run.seconds / 60:.1f}",
            ]
            for name, each in reports
        ],
    )
    names = [name for name, _ in reports]
    for recogniser in dict.fromkeys(row.recogniser for row in first.attacks):
        lines += ["", f"Attack ladder, {recogniser}: top-1 among {first.headline.N} people", ""]
        attacks = [row.id for row in first.attacks if row.recogniser == recogniser]
        cells = [
            [attack, *(_top1(_row(each, attack, recogniser)) for _, each in reports)]
            for attack in dict.fromkeys(attacks)
        ]
        lines += _rows(["", *names], cells)
    lines += ["", "Utility", ""]
    figures = dict.fromkeys([*USEFUL, *(u.name for u in first.utility)])
    lines += _rows(
        ["", "unit", "clear", *names],
        [
            [figure, *_unit(first, figure), *(_useful(each, figure) for _, each in reports)]
            for figure in figures
        ],
    )
    total = sum(each.run.seconds for _, each in reports) / 60
    lines += ["", f"Evaluations together: {total:.0f} minutes.", ""]
    return "\n".join(lines)


def _rows(head: list[str], rows: list[list[str]]) -> list[str]:
    made = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return [line.replace("|  |", "| |") for line in made]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _interval(found: Any) -> str:
    if found is None or found.v is None:
        return "-"
    return f"{_percent(found.v)} ({_percent(found.lo)} to {_percent(found.hi)})"


def _row(report: Report, attack: str, recogniser: str) -> AttackPart | None:
    for row in report.attacks:
        if (row.id, row.recogniser) == (attack, recogniser):
            return row
    return None


def _top1(row: AttackPart | None) -> str:
    if row is None or row.end_to_end is None:
        return row.status if row else "-"
    mark = " broken" if row.status == "broken" else ""
    return _interval(row.end_to_end.top1) + mark


def _unit(report: Report, figure: str) -> tuple[str, str]:
    for each in report.utility:
        if each.name == figure:
            return each.unit or "-", "-" if each.ceiling is None else f"{each.ceiling:.3f}"
    return "-", "-"


def _useful(report: Report, figure: str) -> str:
    for each in report.utility:
        if each.name == figure and each.value is not None:
            inner = f" ({each.lo:.3f} to {each.hi:.3f})" if each.lo is not None else ""
            return f"{each.value:.3f}{inner}"
    return "-"


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    main()
