"""`moretta evaluate`: attack and measure the output of any tool, and write a report of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from moretta.errors import UsageError, count_of, nearest

PROFILES = ("quick", "standard", "full")
SCENARIOS = ("bystander", "published", "series")


def command(
    original: Annotated[
        Path | None, typer.Option(help="Folder of the photos before. One folder a person.")
    ] = None,
    anonymized: Annotated[
        Path | None, typer.Option(help="Folder of the same photos after, by any tool.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for report.html and report.json.")
    ] = None,
    identities: Annotated[
        str, typer.Option(help="folders, or a CSV file with the columns file,person[,part].")
    ] = "folders",
    profile: Annotated[
        str,
        typer.Option(help="quick (one recogniser), standard (all that are here) or full (hours)."),
    ] = "standard",
    scenario: Annotated[
        str,
        typer.Option(
            help="bystander: the attacker has other photos; published: this very photo too; "
            "series: also links released photos."
        ),
    ] = "bystander",
    labelled: Annotated[
        str, typer.Option(help="Which face a label means: centre or largest.")
    ] = "centre",
    trained_with: Annotated[
        str,
        typer.Option(help="NAME[,NAME]: recognisers that the tool learnt from; they never decide."),
    ] = "",
    recognisers: Annotated[
        str, typer.Option(help="NAME[,NAME] instead of the profile's: sface, facenet, dlib.")
    ] = "",
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps vectors for the next evaluation.")
    ] = None,
    again: Annotated[
        list[Path] | None,
        typer.Option(
            help="A further release of the same photos (another seed, another or a wrong key); may be "
            "given several times. Adds A5 cases i and iii, AK and diversity."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split into parts and of the intervals.")] = 0,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Only test the evaluation itself, on drawn people.")
    ] = False,
) -> None:
    """Attack two folders as strangers would, measure what the photos are still good for, and report.

    Exit code 0 with a verdict, 3 without one (too few people, a gate failed), 2 for wrong use.

    Example: [bold]moretta evaluate --original photos --anonymized protected --report report[/bold]
    """
    from moretta.evaluation import require_extra

    require_extra()
    if self_test:
        raise typer.Exit(_self_test())
    wanted = {"--original": original, "--anonymized": anonymized, "--report": report}
    if original is None or anonymized is None or report is None:
        missing = ", ".join(name for name, value in wanted.items() if value is None)
        raise UsageError(f"missing: {missing}", hint="moretta evaluate --help has an example")
    _one_of("--profile", profile, PROFILES)
    _one_of("--scenario", scenario, SCENARIOS)
    _one_of("--labelled", labelled, ("centre", "largest"))
    if seed < 0:
        raise UsageError(f"--seed is {seed}", hint="0 or more")
    from moretta.evaluation.embed import RECOGNISERS

    chosen = {"--recognisers": _names(recognisers), "--trained-with": _names(trained_with)}
    for option, names in chosen.items():
        for name in names:
            _one_of(option, name, RECOGNISERS)
    from moretta.evaluation.protocol import Options, evaluate

    known = method_of(anonymized)
    options = Options(
        profile=profile,  # type: ignore[arg-type] # checked above
        scenario=scenario,  # type: ignore[arg-type]
        identities=identities,
        labelled=labelled,  # type: ignore[arg-type]
        seed=seed,
        recognisers=chosen["--recognisers"],
        trained_with=(*chosen["--trained-with"], *known.get("trained_with", ())),
        again=tuple(again or ()),
        cache=cache,
        method=known,
    )
    found = evaluate(original, anonymized, options, listener=_say)
    write(found, report)
    head = found.headline
    print(f"{head.verdict}. {head.sentence}")  # noqa: T201
    for note in head.notes:
        print(f"  {note}")  # noqa: T201
    print(f"{report / 'report.html'}")  # noqa: T201
    raise typer.Exit(exit_code([head.verdict]))


def exit_code(verdicts: Iterable[str]) -> int:
    """Return 3 where one of them is no verdict, else 0."""
    from moretta.evaluation.verdict import NONE

    return 3 if any(each in NONE for each in verdicts) else 0


def write(found: Any, folder: Path) -> None:
    """Write report.json and the page made from it."""
    from moretta.evaluation.report.page import page
    from moretta.evaluation.report.schema import read, written
    from moretta.photos.files import write_whole
    from moretta.photos.manifest import make_folder

    make_folder(folder, hint="choose another name")
    text = written(found)
    write_whole(folder / "report.json", text.encode())
    write_whole(folder / "report.html", page(read(text)).encode())


def method_of(folder: Path) -> dict[str, Any]:
    """Return what Moretta's own manifest says about the photos in `folder`; empty for other tools."""
    from moretta.errors import MorettaError
    from moretta.methods import METHODS
    from moretta.methods import method as find
    from moretta.photos.manifest import read_lines

    try:
        lines = read_lines(folder)
    except MorettaError:
        return {}
    names = sorted({str(line.get("method", "")) for line in lines} - {""})
    trained = sorted({n for name in names if name in METHODS for n in find(name).trained_with})
    return {"name": ", ".join(names), "trained_with": trained} if names else {}


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _one_of(option: str, value: str, offered: tuple[str, ...]) -> None:
    if value not in offered:
        raise UsageError(f"{option} is {value!r}", hint=nearest(value, list(offered)))


def _say(text: str) -> None:
    print(f"moretta: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _self_test() -> int:
    from moretta.evaluation.gates import self_test

    found = self_test()
    for gate in found:
        word = "passed" if gate.passed else "FAILED"
        print(f"{gate.id} {word}: {gate.what}: {gate.value} (must be: {gate.bound})")  # noqa: T201
    failed = sum(not gate.passed for gate in found)
    print(f"{len(found) - failed} of {count_of(len(found), 'gate')} passed")  # noqa: T201
    return 1 if failed else 0
