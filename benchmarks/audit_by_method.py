"""How often the judge still knew a face after a classical method, at three strengths.

    python benchmarks/audit_by_method.py --data ../shared/data/eval/lfw \
        --moretta VENV/bin/moretta --work SCRATCH/audit --out REPORT.json

A method without a scale (solid) runs once. Read from the manifest: the cosine between each face before and after, and whether the policy had
to cover it. The judge is the one that ships (SFace); `moretta evaluate` has the other attackers.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from folders import lfw_sample, quantiles
from rivals import decisions, manifest, moretta, save

METHODS = ("solid", "pixelate", "blur")
SCALELESS = ("solid",)  # these refuse --strength
SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def main() -> None:
    """Run every method at every strength, print a table, save."""
    parser = argparse.ArgumentParser(description="The judge's verdict by method and strength")
    parser.add_argument("--data", type=Path, required=True, help="LFW pack: PERSON/NN.jpg")
    parser.add_argument("--moretta", type=Path, required=True, help="the command")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--strengths", type=float, nargs="+", default=(0.0, 0.5, 1.0))
    parser.add_argument("--jobs", type=int)
    asked = parser.parse_args()
    photos = lfw_sample(asked.data, asked.photos)
    rows = []
    print("method    strength  faces  covered  no verdict  median cosine")
    for method in asked.methods:
        for strength in [None] if method in SCALELESS else asked.strengths:
            row = verdicts(photos, method, strength, asked)
            middle = row["cosine"].get("q50", float("nan"))
            print(
                f"{method:9} {strength if strength is not None else '':8} {row['faces']:6}"
                f" {row['covered_share']:8.1%} {row['no_verdict']:11} {middle:14.3f}",
                flush=True,
            )
            rows.append(row)
    save(asked.out, {"photos": asked.photos, "rows": rows})


def verdicts(
    photos: Mapping[str, Path], method: str, strength: float | None, asked: argparse.Namespace
) -> dict[str, Any]:
    """One run: shares and quantiles over all faces in it."""
    extra = () if strength is None else ("--strength", str(strength))
    tool = moretta(asked.moretta, method=method, jobs=asked.jobs, extra=extra)
    cost, _ = tool.run(photos, asked.work)
    if cost.code not in (0, 3):
        raise SystemExit(f"{method} at {strength}: exit code {cost.code}\n{cost.output}")
    lines = manifest(asked.work)
    audits = [face["audit"] for line in lines for face in line["faces"]]
    cosines = [audit["cosine"] for audit in audits if audit.get("cosine") is not None]
    covered = sum("covered" in audit for audit in audits)
    return {
        "method": method,
        "strength": strength,
        "code": cost.code,
        "decisions": decisions(asked.work),
        "reasons": dict(Counter(line["reason"] for line in lines if line["reason"])),
        "faces": len(audits),
        "covered": covered,
        "covered_share": round(covered / max(1, len(audits)), 4),
        "no_verdict": len(audits) - len(cosines),
        "thresholds": sorted({audit["threshold"] for audit in audits if "threshold" in audit}),
        "cosine": {key: round(value, 4) for key, value in quantiles(cosines, SHARES).items()},
    }


if __name__ == "__main__":
    main()
