"""`moretta pool`: synthetic faces, drawn once, among which FALCO looks for neighbours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Self

import typer

from moretta.errors import count_of

app = typer.Typer(no_args_is_help=True, help="Draw synthetic faces to choose new ones from.")


@app.command("build")
def build(
    count: Annotated[int, typer.Option(min=1, max=10_000_000, help="Faces in the pool.")] = 60_000,
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", "--out", help="Folder; the user's cache without it."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Other faces for another seed.")] = 1,
    truncation: Annotated[
        float, typer.Option(min=0, max=1, help="0: the mean scene; 1: as varied as photos.")
    ] = 0.7,
    features: Annotated[str, typer.Option(help="features (bundled) or farl.")] = "features",
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """Draw a pool of synthetic faces, or go on with one: nothing that is done is drawn again.

    Example: [bold]moretta pool build --count 60000[/bold]
    """
    from moretta.errors import UsageError, nearest

    if features not in ("features", "farl"):
        raise UsageError(
            f"--features is {features!r}", hint=nearest(features, ["features", "farl"])
        )
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError("a pool needs torch", hint="pip install 'moretta[generative]'") from error
    from moretta.weights import backends, pools

    if out is None and (seed, truncation) != (pools.SEED, pools.TRUNCATION):
        raise UsageError(
            "--seed and --truncation make another pool than the usual one",
            hint="give it an --output",
        )
    networks = backends.digests(features)
    backend = backends.composer(device=device)
    folder = out or pools.folder_for(networks)
    with Bar() as bar:
        pool = pools.build(
            folder,
            count,
            backend,
            backends.features(features, backend),
            networks,
            seed=seed,
            truncation=truncation,
            listener=bar,
        )
    held = count_of(len(pool), "synthetic face")
    more = f", more than the {count:,} asked for; none is removed" if len(pool) > count else ""
    print(f"{held}{more}: {folder.resolve()}")  # noqa: T201


class Bar:
    """A bar on a terminal, a line now and then elsewhere; on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._last = 0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            self._bar = Progress(
                "faces",
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.__enter__()
            self._task = self._bar.add_task("faces", total=None)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)

    def __call__(self, done: int, count: int) -> None:
        """Show how far it is."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=count)
        elif done * 20 // count > self._last * 20 // count:
            print(f"{done:,} of {count_of(count, 'face')}", file=sys.stderr, flush=True)  # noqa: T201
        self._last = done
