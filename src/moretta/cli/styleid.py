"""`moretta styleid`: rank the numbers of a network's code by the identity they carry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def root() -> None:
    """Rank the numbers of a network's code by the identity they carry; see docs/styleid.md."""


@app.command()
def rank(
    out: Annotated[
        Path, typer.Option("--output", "-o", "--out", help="File to write: NAME.safetensors.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with wide.zip (docs/training.md); synthetic faces without it."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Another composer's file than the bundled one.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=8, help="Pairs of different people.")] = 48,
    projections: Annotated[
        int, typer.Option(min=1, help="Random directions a pair, of the shortcut.")
    ] = 8,
    how: Annotated[
        str, typer.Option(help="Single channels: sketch (the shortcut) or exact (hours).")
    ] = "sketch",
    second: Annotated[
        str,
        typer.Option(help="Recogniser the agreement is measured with, or none. It orders nothing."),
    ] = "sface",
    seed: Annotated[int, typer.Option(min=0, help="Other pairs for another seed.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
) -> None:
    """Measure how much identity and how much else each part of the code moves.

    For channels of S, numbers, half rows and rows of W+, and regions of the picture. An interrupted
    call goes on where it was. The file belongs to the weights it was measured on.

    Example: [bold]moretta styleid rank --data crops --output ranking.safetensors[/bold]
    """
    import sys

    from moretta.errors import UsageError, nearest

    if how not in ("sketch", "exact"):
        raise UsageError(f"--how is {how}", hint="sketch or exact")
    if out.suffix != ".safetensors":
        raise UsageError(f"--output is {out}", hint="a name that ends in .safetensors")
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}", hint="make it first")
    for given in (data, weights):
        if given is not None and not given.exists():
            raise UsageError(f"there is no {given}", hint="check --data and --weights")
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError("ranking needs torch", hint="pip install 'moretta[generative]'") from error
    from moretta.faces.recognise import KNOWN
    from moretta.training import ranking
    from moretta.weights import load

    if second != "none" and second not in KNOWN:
        raise UsageError(f"--second is {second}", hint=nearest(second, [*KNOWN, "none"]))

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    made = ranking.run(
        out,
        data=data,
        weights=weights,
        pairs=pairs,
        projections=projections,
        how="exact" if how == "exact" else "sketch",
        seed=seed,
        device=device,
        second=None if second == "none" else second,
        tell=tell,
    )
    print(ranking.report(made))  # noqa: T201
    print(f"{out.resolve()}: {out.stat().st_size:,} bytes, sha256 {load.sha256(out)}")  # noqa: T201
