"""Moretta against deface 1.5 on the same photos: speed, faces found, leftovers, bad input.

    python benchmarks/against_deface.py --data ../shared/data/eval/lfw --groups SCRATCH/groups \
        --deface DEFACE_VENV --moretta VENV/bin/moretta --work SCRATCH/against --out REPORT.json

Speed: whole processes in turn A B A B after one warm-up each; ratios are of neighbours. Without
--moretta only deface is measured. deface gets its faster backend (opencv on the machine at hand).
Found: truth.py. Neither tool's margin around the box counts for it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from aftermath import described, leftovers
from clock import clocked
from folders import group_photos, lfw_sample
from hostile import bad_inputs, portrait, telling_jpeg
from rivals import Tool, decisions, deface, manifest, moretta, save
from truth import centre_recall, group_recall

PARTS = ("speed", "found", "metadata", "bad")


def main() -> None:
    """Measure the parts asked for, print and save."""
    parser = argparse.ArgumentParser(description="Moretta against deface")
    parser.add_argument("--data", type=Path, required=True, help="LFW pack: PERSON/NN.jpg")
    parser.add_argument("--groups", type=Path, required=True, help="from compose_groups.py")
    parser.add_argument("--deface", type=Path, required=True, help="its virtual environment")
    parser.add_argument("--moretta", type=Path, help="the command; without it deface alone")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--method", default="solid", choices=("solid", "pixelate", "blur"))
    parser.add_argument("--backend", default="opencv", choices=("auto", "onnxrt", "opencv"))
    parser.add_argument("--jobs", type=int, help="for moretta; its default otherwise")
    asked = parser.parse_args()
    tools = [deface(asked.deface, method=asked.method, backend=asked.backend)]
    if asked.moretta:
        tools.insert(0, moretta(asked.moretta, method=asked.method, jobs=asked.jobs))
    lfw, groups = lfw_sample(asked.data, asked.photos), group_photos(asked.groups)
    report: dict[str, Any] = {"machine": _machine(), "settings": _settings(asked)}
    if "speed" in asked.parts:
        report["speed"] = {
            name: speed(tools, photos, asked.runs, asked.work)
            for name, photos in (("lfw", lfw), ("groups", groups))
        }
    if "found" in asked.parts:
        truth = json.loads((asked.groups / "truth.json").read_text())
        report["found"] = {
            tool.name: {
                "lfw": centre_recall(list(lfw), tool.found(lfw, asked.work / tool.name)),
                "groups": group_recall(truth, tool.found(groups, asked.work / tool.name)),
            }
            for tool in tools
        }
    base = lfw[min(lfw)]
    if "metadata" in asked.parts:
        keeping = deface(asked.deface, method="solid", backend=asked.backend, keep_metadata=True)
        report["metadata"] = metadata([*tools, keeping], base, asked.work)
    if "bad" in asked.parts:
        report["bad"] = {tool.name: bad(tool, base, asked.work) for tool in tools}
    save(asked.out, report)
    print(json.dumps(_brief(report), indent=1))


def speed(
    tools: Sequence[Tool], photos: Mapping[str, Path], runs: int, work: Path
) -> dict[str, Any]:
    """Run the tools in turn on the same photos; the first round is a warm-up and not counted."""
    costs: dict[str, list[dict[str, Any]]] = {tool.name: [] for tool in tools}
    for turn in range(runs + 1):
        for tool in tools:
            place = work / f"speed-{tool.name}"
            cost, written = tool.run(photos, place)
            print(f"{tool.name}: {len(photos) / cost.wall_s:.2f} photos/s, code {cost.code}")
            if turn:
                ending = {"written": len(written), "decisions": decisions(place)}
                costs[tool.name].append({**cost.record(), **ending})
    summary: dict[str, Any] = {
        name: {
            "photos_a_second": round(len(photos) / median(one["wall_s"] for one in ran), 3),
            "cpu_s_a_photo": round(median(map(_cpu_s, ran)) / len(photos), 4),
            "peak_mib": round(max(one["peak_mib"] for one in ran)),
            "tree_mib": round(max(one["tree_mib"] for one in ran)),
        }
        for name, ran in costs.items()
    }
    if len(tools) > 1:
        rounds = list(zip(*costs.values(), strict=True))
        wall = [round(theirs["wall_s"] / ours["wall_s"], 3) for ours, theirs in rounds]
        cpu = [round(_cpu_s(theirs) / _cpu_s(ours), 3) for ours, theirs in rounds]
        summary["times_as_fast"] = {"pairs": wall, "median": median(wall)}
        summary["times_less_cpu"] = {"pairs": cpu, "median": median(cpu)}
    return {"photos": len(photos), "summary": summary, "runs": costs}


def _cpu_s(cost: Mapping[str, Any]) -> float:
    """User and system time: steadier than wall time when others use the machine."""
    return float(cost["user_s"] + cost["system_s"])


def metadata(tools: Sequence[Tool], base: Path, work: Path) -> dict[str, Any]:
    """Give each tool one JPEG full of things that tell; list what is left of them."""
    telling = work / "telling.jpg"
    telling.parent.mkdir(parents=True, exist_ok=True)
    telling_jpeg(telling, portrait(base))
    found: dict[str, Any] = {"original": leftovers(telling)}
    for tool in tools:
        cost, written = tool.run({"telling.jpg": telling}, work / "metadata")
        found[tool.name] = {
            "code": cost.code,
            "files": {path.name: leftovers(path) for path in written},
        }
    return found


def bad(tool: Tool, base: Path, work: Path) -> dict[str, Any]:
    """Each bad file alone, then all of them as one folder."""
    sources = work / "bad-sources"
    shutil.rmtree(sources, ignore_errors=True)
    photos = {path.name: path for path in bad_inputs(sources, portrait(base))}
    alone = {}
    for name, path in photos.items():
        place = work / "bad"
        cost, written = tool.run({name: path}, place)
        reasons = [line.get("reason", "") for line in manifest(place)]
        last = (cost.output.strip().splitlines() or [""])[-1]
        alone[name] = {
            "code": cost.code,
            "written": [described(file, path) for file in written],
            "says": (reasons or [last])[0][:160],
        }
    missing = work / "bad" / "not-there.jpg"
    gone = clocked(tool.command([missing], work / "bad" / "gone"), log=work / "bad.txt")
    alone["(a file that is not there)"] = {"code": gone.code, "written": [], "says": ""}
    cost, written = tool.run(photos, work / "bad")
    together = {
        "code": cost.code,
        "inputs": len(photos),
        "written": len(written),
        "of_0_bytes": sum(path.stat().st_size == 0 for path in written),
        "decisions": decisions(work / "bad"),
    }
    return {"alone": alone, "one_folder": together}


def _settings(asked: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in ("photos", "runs", "method", "backend", "jobs")}


def _machine() -> dict[str, Any]:
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else "",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def _brief(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report without single runs and lists of missed photos."""
    brief = {key: value for key, value in report.items() if key not in ("speed", "found")}
    brief["speed"] = {name: one["summary"] for name, one in report.get("speed", {}).items()}
    brief["found"] = {
        tool: {
            "lfw": {key: value for key, value in one["lfw"].items() if key != "missed"},
            "groups": one["groups"],
        }
        for tool, one in report.get("found", {}).items()
    }
    return brief


if __name__ == "__main__":
    main()
