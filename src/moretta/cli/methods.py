"""`moretta methods`: what each method does, what it promises and what it does not."""

from __future__ import annotations

import json as jsons
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from moretta.records import Method


ENDS = (
    ("from", "minimum"),
    ("above", "exclusiveMinimum"),
    ("to", "maximum"),
    ("below", "exclusiveMaximum"),
)


def command(
    name: Annotated[
        str | None, typer.Argument(help="One method in full; all in short without it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Show the methods: settings, what each promises, what it does not, and its source.

    Example: [bold]moretta methods pixelate[/bold]
    """
    from moretta.methods import METHODS, method

    chosen = [method(one) for one in ([name] if name else METHODS)]
    if json:
        rows = [
            {
                "name": one.name,
                "summary": one.summary,
                "promise": one.promise,
                "promises": one.promises,
                "excludes": one.excludes,
                "source": one.source,
                "reversible": one.reversible,
                "strength": one.strength is not None,
                "mask_scale": one.mask_scale,
                "settings": one.settings.model_json_schema().get("properties", {}),
            }
            for one in chosen
        ]
        print(jsons.dumps(rows, ensure_ascii=False))  # noqa: T201
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if name is None:
        table = Table(box=None, pad_edge=False)
        for title in ("method", "what it does", "promise", "strength"):
            table.add_column(title)
        for one in chosen:
            scale = "0..1" if one.strength else ""
            table.add_row(one.name, one.summary, one.promise, scale)
        console.print(table)
        console.print("moretta methods NAME shows one in full", style="dim")
        return
    (one,) = chosen
    console.print(f"[bold]{one.name}[/bold]: {one.summary}")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    kind = {"proved": "proved", "measured": "measured, not proved", "none": "none"}[one.promise]
    table.add_row("promise", f"{kind}: {one.promises}")
    table.add_row("not promised", one.excludes)
    table.add_row("reversible", "with the key" if one.reversible else "no way back is kept")
    table.add_row("mask", f"ellipse of scale {one.mask_scale}, and the whole detected box")
    if one.strength:
        low, high = one.strength(0.0), one.strength(1.0)
        table.add_row(
            "--strength", ", ".join(f"{k} from {low[k]} (0) to {high[k]} (1)" for k in low)
        )
    for key, about in _settings(one):
        takes = "" if about["takes"] == "text" else f", takes {about['takes']}"
        text = f"{about['description']}; default {about['default']}{takes}"
        table.add_row(f"--{key.replace('_', '-')}", escape(text))
    table.add_row("source", one.source)
    console.print(table)
    if one.explain:
        console.print("\n" + one.explain(), highlight=False, markup=False)


def settings_table() -> str:
    """Return every method's settings as a Markdown table: it stands in docs/configuration.md."""
    from moretta.methods import METHODS, method

    rows = ["| method | setting | default | takes | what it is |", "|---|---|---|---|---|"]
    for name in METHODS:
        one = method(name)
        if one.strength:
            low, high = one.strength(0.0), one.strength(1.0)
            auto = "".join(f"; auto: {k} {v}" for k, v in (one.auto or {}).items())
            said = "; ".join(f"{k} from {low[k]:g} to {high[k]:g}" for k in low)
            takes = "0 to 1, or auto" if one.auto else "0 to 1"
            rows.append(f"| `{name}` | `strength` | | {takes} | in place of: {said}{auto} |")
        for key, about in _settings(one):
            cells = (f"`{name}`", f"`{key}`", *about.values())
            rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(rows)


def _settings(one: Method) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each option: its name; its default, what it takes and what it is, as text."""
    for key, about in one.settings.model_json_schema().get("properties", {}).items():
        default = about["default"]
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        if default == "" or isinstance(default, bool):
            shown = jsons.dumps(default)
        yield key, {"default": shown, "takes": _takes(about), "description": about["description"]}


def _takes(about: Mapping[str, Any]) -> str:
    """Return what a JSON schema accepts, in words."""
    if "anyOf" in about:
        return " or ".join(_takes(part) for part in about["anyOf"])
    if "const" in about:
        return str(about["const"])
    if "enum" in about:
        return " / ".join(about["enum"])  # some have a comma in them
    kind = {"boolean": "true, false", "string": "text"}.get(about["type"])
    if kind:
        return kind
    ends = " ".join(f"{word} {about[end]:g}" for word, end in ENDS if end in about)
    return f"whole numbers {ends}" if about["type"] == "integer" else ends
