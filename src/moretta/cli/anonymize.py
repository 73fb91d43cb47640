"""`moretta anonymize`: photos in, protected photos out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from moretta.errors import UsageError
from moretta.methods import METHODS, method

Progress = Literal["auto", "text", "jsonl", "none"]


def with_method_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add every method's own settings to a command, each in its method's panel of the help."""
    signature = inspect.signature(function, eval_str=True)
    plain = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    taken = {p.name for p in plain}
    added = []
    for name in METHODS:
        for key, info in method(name).settings.model_fields.items():
            if key in taken:
                continue
            taken.add(key)
            kind = info.annotation if info.annotation in (int, float, bool) else str
            text = f"{info.description} (default {info.default})"
            option = typer.Option(
                f"--{key.replace('_', '-')}", help=text, rich_help_panel=f"--method {name}"
            )
            added.append(
                inspect.Parameter(
                    key,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None,
                    annotation=Annotated[kind | None, option],
                )
            )
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in plain]
    function.__signature__ = signature.replace(parameters=[*keyword, *added])  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in [*plain, *added]}
    return function


@with_method_options
def command(
    inputs: Annotated[
        list[str], typer.Argument(help="Files, folders (recursive) and quoted globs.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the protected photos.")
    ],
    method: Annotated[
        str | None, typer.Option(help="How faces are changed: " + ", ".join(METHODS) + ".")
    ] = None,
    strength: Annotated[
        str | None,
        typer.Option(help="0..1, for methods that have a scale; auto where a method finds it."),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            help="Who shares a new face: per-photo (nobody, default), per-person, per-run."
        ),
    ] = None,
    persons: Annotated[
        str | None,
        typer.Option(help="With --identity per-person: folders, group (default), or a CSV file."),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            help="File of the budgets, for identitydp; default in the user's data folder."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with options; see docs/configuration.md.")
    ] = None,
    on_no_face: Annotated[
        str | None, typer.Option(help="A photo without a found face: withhold (default) or copy.")
    ] = None,
    on_audit_fail: Annotated[
        str | None, typer.Option(help="A face the judge still knows: cover (default) or withhold.")
    ] = None,
    audit_far: Annotated[
        str | None, typer.Option(help="The judge's false-accept rate: 1e-2 (strict), 1e-3, 1e-4.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="none (default), or profile: keep the colour profile.")
    ] = None,
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option(help="jpeg, png, webp, tiff, bmp, avif, heic; default as the input."),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(help="1..100, of lossy formats (default 95).")
    ] = None,
    rename: Annotated[
        bool, typer.Option("--rename", help="Neutral names in random order, fixed times.")
    ] = False,
    detector: Annotated[
        str | None, typer.Option(help="NAME[,NAME]: yunet (default), centerface; finds are joined.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="0..1, least score of a find; default each detector's own.")
    ] = None,
    min_face: Annotated[
        float | None, typer.Option(help="Smaller faces are not looked for, in px (default 12).")
    ] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Every detector, every turn, twice the size: slow.")
    ] = False,
    boxes: Annotated[
        Path | None, typer.Option(help="Faces given by hand: JSON lines of `detect`, or COCO JSON.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Key file of 32 bytes: keyed methods draw from it, --reversible seals."),
    ] = None,
    reversible: Annotated[
        bool,
        typer.Option("--reversible", help="Seal each original beside its output, as NAME.ifad."),
    ] = False,
    to: Annotated[
        list[Path] | None,
        typer.Option(help="Public key of a recipient who may open the sidecars; repeatable."),
    ] = None,
    passphrase: Annotated[
        str | None,
        typer.Option(help="prompt, fd:NUMBER or file:PATH; never the passphrase itself."),
    ] = None,
    key_table: Annotated[
        Path | None,
        typer.Option(help="File with one more key a photo, so that single ones can be shredded."),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="Who shares a keyed pseudonym: record (nobody), subject, collection."),
    ] = None,
    linkable: Annotated[
        bool, typer.Option("--linkable", help="Accept what --scope collection gives away.")
    ] = False,
    jobs: Annotated[str, typer.Option(help="Worker processes, or auto.")] = "auto",
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; never downgraded.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeatable results.")] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Larger photos are refused (default 250 million).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove what an earlier run published; start anew.")
    ] = False,
    internal_record: Annotated[
        Path | None,
        typer.Option(
            help="File outside the output: input names and hashes. Links; keep it private."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, write nothing.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output.")
    ] = False,
    progress: Annotated[
        str,
        typer.Option(help="auto (a bar on a terminal), text, jsonl or none; on standard error."),
    ] = "auto",
    **own: Any,
) -> None:
    """Write a protected copy of each photo into a folder, with a record of every face.

    A photo is published only when every face in it was changed and checked; what is withheld is
    named, and the exit code says so. Output files are built from pixels: no metadata survives.

    Example: [bold]moretta anonymize photos --output protected --method pixelate --strength 0.7[/bold]
    """
    from moretta.cli.show import Display, summary_table
    from moretta.pipeline.custody import keyring
    from moretta.pipeline.options import from_toml, normalised, options
    from moretta.pipeline.run import run
    from moretta.pipeline.sealing import check

    given = from_toml(config) if config else {}
    chosen = {
        "method": method,
        "strength": _strength(strength),
        "identity": identity,
        "persons": persons,
        "ledger": ledger,
        "on_no_face": on_no_face,
        "on_audit_fail": on_audit_fail,
        "audit_far": audit_far,
        "metadata": metadata,
        "format": {"jpg": "jpeg", "tif": "tiff"}.get(format or "", format),
        "quality": quality,
        "rename": rename or None,
        "reversible": reversible or None,
        "scope": scope,
        "linkable": linkable or None,
        "detector": detector,
        "threshold": threshold,
        "min_face": min_face,
        "thorough": thorough or None,
        "device": device,
        "seed": seed,
        "max_pixels": max_pixels,
    }
    merged = normalised(given)
    merged.update({key: value for key, value in chosen.items() if value is not None})
    own = {key: value for key, value in own.items() if value is not None}
    if own:
        table = merged.get("settings", {})
        merged["settings"] = {**table, **own} if isinstance(table, dict) else table
    checked = options(merged)
    count = _jobs(jobs)
    if progress not in ("auto", "text", "jsonl", "none"):
        raise UsageError(f"--progress is {progress!r}", hint="auto, text, jsonl or none")
    sealing = key or to or passphrase or key_table
    ring = keyring(key=key, to=to or (), how=passphrase, table=key_table) if sealing else None
    check(checked, ring)
    if dry_run:
        from moretta.cli.dry import rehearse

        raise typer.Exit(rehearse(inputs, output, checked, boxes=boxes, as_json=json))
    with Display(progress) as display:
        summary = run(
            inputs,
            output,
            checked,
            jobs=count,
            resume=resume,
            overwrite=overwrite,
            boxes=boxes,
            internal_record=internal_record,
            keyring=ring,
            listener=display,
        )
    summary_table(summary, as_json=json)
    raise typer.Exit(summary.exit_code)


def _strength(text: str | None) -> float | str | None:
    """Return a number where it is one; what is neither that nor "auto" is refused with the options."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _jobs(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UsageError(f"--jobs is {text!r}", hint="a whole number from 1, or auto")
