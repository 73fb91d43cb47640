"""`moretta benchmark`: anonymise with several methods, attack each output, and compare."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from moretta.errors import ManifestError, UsageError, count_of

if TYPE_CHECKING:
    from moretta.api import Anonymizer
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
        str,
        typer.Option(
            help="NAME[:STRENGTH][:OPTION=VALUE...][,...], such as "
            "solid,pixelate:0.3,styleid:variant=swapper; `moretta methods NAME` lists the options."
        ),
    ] = "solid,pixelate,blur",
    identities: Annotated[
        str, typer.Option(help="folders, or a CSV file with the columns file,person[,part].")
    ] = "folders",
    profile: Annotated[str, typer.Option(help="quick, standard or full.")] = "quick",
    scenario: Annotated[str, typer.Option(help="bystander, published or series.")] = "bystander",
    seed: Annotated[int, typer.Option(help="Of the methods and of the evaluation.")] = 0,
) -> None:
    """Compare methods: one output and one report each, then benchmark.json and benchmark.html.

    Photos that a method withholds count as no output. An output that is there already is used again; the
    keys of keyed methods are kept for that, in the folder keys beside the outputs.
    Exit code 0 with a verdict on every method, 3 where one has none (too few people, a gate failed), 2
    for wrong use.

    Example: [bold]moretta benchmark --methods solid,blur:0.5 --data photos --output bench[/bold]
    """
    from moretta.evaluation import require_extra

    require_extra()
    from moretta.cli.evaluate import PROFILES, SCENARIOS, _one_of, _say, exit_code, method_of, write
    from moretta.evaluation.pairs import photos_of
    from moretta.evaluation.protocol import Options, evaluate, foreseen
    from moretta.evaluation.report.compare import comparison
    from moretta.photos.files import write_whole
    from moretta.photos.manifest import make_folder
    from moretta.pipeline.inputs import listed
    from moretta.pipeline.run import prepared

    _one_of("--profile", profile, PROFILES)
    _one_of("--scenario", scenario, SCENARIOS)
    if seed < 0:
        raise UsageError(f"--seed is {seed}", hint="0 or more")
    entries = listed_methods(methods)
    photos = sum(item.photo for item in listed([data], output=out))
    if not photos:
        raise UsageError(f"there is no photo in {data}", hint="one folder a person, photos in it")
    makers = [_maker(entry, out, seed) for entry in entries]
    for maker in makers:
        prepared(maker.options, photos, "auto", None)
    if lacking := foreseen(photos_of(data, identities)):
        _say(f"warning: {lacking}")
    make_folder(out, hint="choose another name")
    reports: list[tuple[str, Report]] = []
    for entry, maker in zip(entries, makers, strict=True):
        _say(f"{entry.label}: anonymising")
        folder = out / "outputs" / entry.label
        _protected(data, folder, maker)
        known = method_of(folder)
        options = Options(
            profile=profile,  # type: ignore[arg-type] # checked above
            scenario=scenario,  # type: ignore[arg-type]
            identities=identities,
            seed=seed,
            trained_with=tuple(known.get("trained_with", ())),
            cache=out / "cache",
            method={**known, "strength": entry.strength, "settings": dict(entry.settings)},
            gates=not reports,
        )
        report = evaluate(data, folder, options, listener=_say)
        write(report, out / "reports" / entry.label)
        reports.append((entry.label, report))
    rows, html = comparison(reports)
    write_whole(out / "benchmark.json", (json.dumps(rows, indent=1) + "\n").encode())
    write_whole(out / "benchmark.html", html.encode())
    _print(rows)
    print(out / "benchmark.html")  # noqa: T201
    raise typer.Exit(exit_code(report.headline.verdict for _, report in reports))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A method to compare, as it is to be run."""

    label: str  # of its output, its report and its row
    name: str
    strength: float | Literal["auto"] | None
    settings: Mapping[str, Any]


def listed_methods(text: str) -> list[Entry]:
    """Return what --methods names. Raises UsageError for what no method knows, and for doubles.

    >>> [entry.label for entry in listed_methods("solid,blur:0.5,pixelate:cells=6")]
    ['solid', 'blur-0.5', 'pixelate-cells-6']
    """
    found: list[Entry] = []
    for part in [each.strip() for each in text.split(",") if each.strip()]:
        entry = _entry(part)
        if entry.label in [other.label for other in found]:
            raise UsageError(f"--methods names {part} twice", hint="once is enough")
        found.append(entry)
    if not found:
        raise UsageError("--methods is empty", hint="such as solid,pixelate,blur")
    return found


def _entry(part: str) -> Entry:
    from moretta.methods import from_words, method, settings

    name, *given = part.split(":")
    chosen = method(name)
    strengths = [each for each in given if "=" not in each]
    pairs = [each.split("=", 1) for each in given if "=" in each]
    said = {key.replace("-", "_"): value for key, value in pairs}
    if len(strengths) > 1 or len(said) < len(pairs):
        raise UsageError(f"--methods: {part!r} says one thing twice", hint="once is enough")
    strength = _strength(part, strengths[0]) if strengths else None
    if strength is not None and chosen.strength is None:
        raise UsageError(
            f"--methods: {name} has no scale of strength",
            hint=f"leave :{strengths[0]} out: --methods {name}",
        )
    own = from_words(chosen, said)
    settings(chosen, own, strength=strength)
    words = [name, *strengths, *(word for pair in said.items() for word in pair)]
    return Entry(
        label="-".join(re.sub(r"[^A-Za-z0-9.+]+", "-", word).strip("-") for word in words),
        name=name,
        strength=strength,
        settings=own,
    )


def _strength(part: str, given: str) -> float | Literal["auto"]:
    if given == "auto":
        return "auto"
    try:
        return float(given)
    except ValueError:
        raise UsageError(f"--methods: {part!r} has no strength", hint="such as blur:0.5") from None


def _maker(entry: Entry, out: Path, seed: int) -> Anonymizer:
    """Return what runs a method. What it is built of is checked, and nothing is made.

    Keys and stated epsilons take no seed. What is spent goes to a ledger beside the outputs: a
    comparison on this machine must not use up the budgets that published releases are held to.
    """
    from moretta.api import Anonymizer
    from moretta.methods import method, settings

    chosen = method(entry.name)
    own = settings(chosen, entry.settings, strength=entry.strength)
    given: dict[str, Any] = {"settings": entry.settings, "strength": entry.strength}
    if not (chosen.keyed or own.counted or own.secret_chance):
        given["seed"] = seed
    if own.counted:
        given["ledger"] = out / "ledger.sqlite"
    if own.needs_persons:
        given["persons"] = "folders"
    return Anonymizer(entry.name, **given)


def _protected(data: Path, folder: Path, maker: Anonymizer) -> None:
    from moretta.cli.show import Display
    from moretta.methods import method

    there = (folder / "manifest.jsonl").exists()
    if there:
        _as_it_was(data, folder)
    key = _key(folder, there=there) if method(maker.options.method).keyed else None
    with Display("auto") as display:
        try:
            maker.run(data, folder, resume=there, keyring=key, listener=display)
        except ManifestError as error:  # its hint names options that we have not
            raise UsageError(error.fault, hint="choose another --output") from error


def _as_it_was(data: Path, folder: Path) -> None:
    """Refuse an output that is older than a photo: what is compared would be two different photos."""
    begun = (folder / "run.json").stat().st_mtime
    newer = [one for one in data.rglob("*") if one.is_file() and one.stat().st_mtime > begun]
    if newer:
        raise UsageError(
            f"{count_of(len(newer), 'file')} in {data} changed since {folder} was begun, such as"
            f" {newer[0].name}",
            hint="choose another --output",
        )


def _key(folder: Path, *, there: bool) -> Path:
    """Return the key of a method's output, beside all outputs: it goes on with it, attackers get none.

    there: the output was begun before. Raises UsageError when its key is gone.
    """
    from moretta.photos.manifest import make_folder
    from moretta.pipeline.custody import write_key
    from moretta.privacy import keys

    path = folder.parents[1] / "keys" / f"{folder.name}.key"
    if there and not path.exists():
        raise UsageError(
            f"{folder} was drawn from a key that is not at {path}",
            hint=f"remove {folder}, or choose another --output",
        )
    if not path.exists():
        make_folder(path.parent, hint="choose another name")
        write_key(path, keys.to_bytes(keys.new()))
    return path


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for key in SHOWN:
        table.add_column(key.replace("_", " "), no_wrap=key == "method")
    for row in rows:
        table.add_row(*("-" if row[key] is None else str(row[key]) for key in SHOWN))
    Console(file=sys.stdout).print(table)
