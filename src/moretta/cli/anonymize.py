"""`moretta anonymize`: photos in, protected photos out."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
import typer.main
from typer.core import TyperCommand

from moretta.errors import UsageError
from moretta.methods import METHODS, method

Progress = Literal["auto", "text", "jsonl", "none"]


class Command(TyperCommand):
    """The command with every method's own settings, which are read when it is called or explained."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options; the first call adds the methods'."""
        taken = {one.name for one in self.params}
        if not taken.issuperset(_method_options()):
            shape = inspect.Signature(
                [p for p in _method_options().values() if p.name not in taken]
            )

            def methods() -> None: ...

            methods.__signature__ = shape  # type: ignore[attr-defined]
            methods.__annotations__ = {p.name: p.annotation for p in shape.parameters.values()}
            apart = typer.Typer(add_completion=False)
            apart.command()(methods)
            self.params += typer.main.get_command(apart).params
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        """Run; the methods' options, which typer's function does not know, go by `_given`."""
        mine = _method_options()
        _given.set({name: ctx.params.pop(name) for name in list(ctx.params) if name in mine})
        return super().invoke(ctx)


#: What the command line said of methods' own options, None where it said nothing.
_given: ContextVar[Mapping[str, Any]] = ContextVar("given", default={})  # noqa: B039 - never changed


@functools.cache
def _method_options() -> dict[str, inspect.Parameter]:
    """Return name -> option of all methods' settings; one that several have says each default."""
    found: dict[str, dict[str, Any]] = {}
    for name in METHODS:
        for key, info in method(name).settings.model_fields.items():
            found.setdefault(key, {})[name] = info
    return {key: _option(key, having) for key, having in found.items()}


def _option(key: str, having: Mapping[str, Any]) -> inspect.Parameter:
    first = next(iter(having.values()))
    kind = first.annotation if first.annotation in (int, float, bool) else str
    texts = {name: info.description for name, info in having.items()}
    choices = {name: _choices(info) for name, info in having.items()}
    defaults = {name: f"default {info.default}" for name, info in having.items()}
    said = "; ".join(filter(None, (_each(choices), _each(defaults))))
    option = typer.Option(
        f"--{key.replace('_', '-')}",
        help=f"{_each(texts)} ({said})",
        rich_help_panel=f"--method {', '.join(having)}",
    )
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type] # made at run time
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(key, keyword, default=None, annotation=annotation)


def _choices(info: Any) -> str:
    return " | ".join(get_args(info.annotation)) if get_origin(info.annotation) is Literal else ""


def _each(said: Mapping[str, str]) -> str:
    """Return what is said of all methods, once where it is the same, else with their names."""
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return ", ".join(f"{name}: {text}" for name, text in said.items())


def command(
    inputs: Annotated[
        list[str], typer.Argument(help="Files, folders (recursive) and quoted globs.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", "--out", help="Folder for the protected photos.")
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
            help="File of the budgets, for methods with an epsilon; default in the user's data folder."
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
        str | None,
        typer.Option(help="The judge's false-accept rate: 1e-2 (strict), 1e-3, 1e-4 (lax)."),
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="none (default), or profile: keep the colour profile.")
    ] = None,
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option(help="jpeg, png, webp, tiff, bmp, avif, heic; default as the input."),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(help="1..100, of lossy formats (default 95); not with png, tiff, bmp."),
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
    seed: Annotated[
        int | None, typer.Option(help="Repeatable results; not for secrets drawn for each photo.")
    ] = None,
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
        bool, typer.Option("--dry-run", help="Check what shows before the work, write nothing.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output.")
    ] = False,
    progress: Annotated[
        str,
        typer.Option(help="auto (a bar on a terminal), text, jsonl or none; on standard error."),
    ] = "auto",
) -> None:
    """Write a protected copy of each photo into a folder, with a record of every face.

    A photo is published only when every face in it was changed and checked; what is withheld is
    named, and the exit code says so. Output files are built from pixels: no metadata survives.

    Example: [bold]moretta anonymize photos --output protected --method pixelate --strength 0.7[/bold]
    """
    from moretta.cli.show import Display, summary_table
    from moretta.methods import from_words
    from moretta.methods import method as found
    from moretta.pipeline.custody import keyring
    from moretta.pipeline.options import Options, from_toml, normalised, options, weaker
    from moretta.pipeline.run import run
    from moretta.pipeline.sealing import check, check_places

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
    own = {key: value for key, value in _given.get().items() if value is not None}
    if own:
        name = merged.get("method", Options.model_fields["method"].default)
        own = from_words(found(name), own) if name in METHODS else own
        table = merged.get("settings", {})
        merged["settings"] = {**table, **own} if isinstance(table, dict) else table
    checked = options(merged)
    count = _jobs(jobs)
    if progress not in ("auto", "text", "jsonl", "none"):
        raise UsageError(f"--progress is {progress!r}", hint="auto, text, jsonl or none")
    sealing = key or to or passphrase or key_table
    ring = keyring(key=key, to=to or (), how=passphrase, table=key_table) if sealing else None
    check(checked, ring)
    check_places(ring, output, checked, boxes)
    for said in weaker(checked):
        print(f"moretta: warning: {said}", file=sys.stderr)  # noqa: T201
    if dry_run:
        from moretta.cli.dry import rehearse

        code = rehearse(
            inputs,
            output,
            checked,
            jobs=count,
            resume=resume,
            overwrite=overwrite,
            boxes=boxes,
            internal_record=internal_record,
            keyring=ring,
            as_json=json,
        )
        raise typer.Exit(code)
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
    summary_table(summary, as_json=json, spent_on=found(checked.method).spent)
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
