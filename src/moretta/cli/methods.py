"""`moretta methods`: what each method does, what it promises and what it does not."""

from __future__ import annotations

import json as jsons
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer


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
    for key, info in one.settings.model_fields.items():
        limits = "".join(f", {sign} {end:g}" for sign, end in _range(info.metadata))
        table.add_row(
            f"--{key.replace('_', '-')}", f"{info.description}; default {info.default}{limits}"
        )
    table.add_row("source", one.source)
    console.print(table)
    if one.explain:
        console.print("\n" + one.explain(), highlight=False, markup=False)


def _range(metadata: Sequence[Any]) -> Iterator[tuple[str, float]]:
    """Yield the bounds of a setting: (words, number)."""
    for sign, words in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below")):
        for mark in metadata:
            if getattr(mark, sign, None) is not None:
                yield words, getattr(mark, sign)
