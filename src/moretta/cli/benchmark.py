"""`moretta benchmark`: anonymise with several methods, attack each output, and compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moretta.errors import UsageError

if TYPE_CHECKING:
    from moretta.evaluation.report.schema import Report

SHOWN = ("method", "verdict", "best_attack", "top1", "top1_upper", "a8_top1", "faces_found")


def command(
    data: Annotated[Path, typer.Option(help="Folder of photos, one folder a person.")],
    out: Annotated[
        Path,
        typer.Option(
            "--output", "-o", "--out", help="Folder for outputs, reports and the comparison."
        ),
    ],
    methods: Annotated[
        str, typer.Option(help="NAME[:STRENGTH][,...], such as solid,pixelate:0.3,pixelate:0.9.")
    ] = "solid,pixelate,blur",
    identities: Annotated[
        str, typer.Option(help="folders, or a CSV file with the columns file,person[,part].")
    ] = "folders",
    profile: Annotated[str, typer.Option(help="quick, standard or full.")] = "quick",
    scenario: Annotated[str, typer.Option(help="bystander, published or series.")] = "bystander",
    seed: Annotated[int, typer.Option(help="Of the methods and of the evaluation.")] = 0,
) -> None:
    """Compare methods: one output and one report each, then benchmark.json and benchmark.html.

    Photos that a method withholds count as no output. An output that is there already is used again.

    Example: [bold]moretta benchmark --methods solid,blur:0.5 --data photos --output bench[/bold]
    """
    from moretta.evaluation import require_extra

    require_extra()
    from moretta.cli.evaluate import PROFILES, SCENARIOS, _one_of, _say, method_of, write
    from moretta.evaluation.protocol import Options, evaluate
    from moretta.evaluation.report.compare import comparison
    from moretta.photos.files import write_whole
    from moretta.photos.manifest import make_folder
    from moretta.pipeline.inputs import listed

    _one_of("--profile", profile, PROFILES)
    _one_of("--scenario", scenario, SCENARIOS)
    if seed < 0:
        raise UsageError(f"--seed is {seed}", hint="0 or more")
    wanted = settings(methods)
    if not any(item.photo for item in listed([data], output=out)):
        raise UsageError(f"there is no photo in {data}", hint="one folder a person, photos in it")
    make_folder(out, hint="choose another name")
    reports: list[tuple[str, Report]] = []
    for label, name, strength in wanted:
        _say(f"{label}: anonymising")
        folder = out / "outputs" / label
        _protected(data, folder, name, strength, seed)
        known = method_of(folder)
        options = Options(
            profile=profile,  # type: ignore[arg-type] # checked above
            scenario=scenario,  # type: ignore[arg-type]
            identities=identities,
            seed=seed,
            trained_with=tuple(known.get("trained_with", ())),
            cache=out / "cache",
            method={**known, "strength": strength},
            gates=not reports,
        )
        report = evaluate(data, folder, options, listener=_say)
        write(report, out / "reports" / label)
        reports.append((label, report))
    rows, html = comparison(reports)
    write_whole(out / "benchmark.json", (json.dumps(rows, indent=1) + "\n").encode())
    write_whole(out / "benchmark.html", html.encode())
    _print(rows)
    print(out / "benchmark.html")  # noqa: T201


def settings(text: str) -> list[tuple[str, str, float | None]]:
    """Return (label, method, strength) of "solid,blur:0.5"; unknown methods are refused.

    >>> settings("solid,blur:0.5")
    [('solid', 'solid', None), ('blur-0.5', 'blur', 0.5)]
    """
    from moretta.methods import method
    from moretta.methods import settings as checked

    found: list[tuple[str, str, float | None]] = []
    for part in [each.strip() for each in text.split(",") if each.strip()]:
        name, _, given = part.partition(":")
        try:
            strength = float(given) if given else None
        except ValueError:
            raise UsageError(
                f"--methods: {part!r} has no strength", hint="such as blur:0.5"
            ) from None
        chosen = method(name)
        if strength is not None and chosen.strength is None:
            raise UsageError(
                f"--methods: {name} has no scale of strength",
                hint=f"leave :{given} out: --methods {name}",
            )
        checked(chosen, {}, strength=strength)
        label = name if strength is None else f"{name}-{given}"
        if label in [each[0] for each in found]:
            raise UsageError(f"--methods names {part} twice", hint="once is enough")
        found.append((label, name, strength))
    if not found:
        raise UsageError("--methods is empty", hint="such as solid,pixelate,blur")
    return found


def _protected(data: Path, folder: Path, name: str, strength: float | None, seed: int) -> None:
    from moretta.api import Anonymizer
    from moretta.methods import method
    from moretta.pipeline.custody import fleeting

    there = (folder / "manifest.jsonl").exists()
    keyed = method(name).keyed  # such pictures come from a key, which the attackers do not get
    maker = Anonymizer(name, strength=strength, seed=None if keyed else seed)
    maker.run(data, folder, resume=there, keyring=fleeting() if keyed else None)


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for key in SHOWN:
        table.add_column(key.replace("_", " "), no_wrap=key == "method")
    for row in rows:
        table.add_row(*("-" if row[key] is None else str(row[key]) for key in SHOWN))
    Console(file=sys.stdout).print(table)
