"""`moretta-train`: the recipes that made the networks that ship, for one's own photos too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moretta.cli.usage import Commands
from moretta.errors import count_of

Written = Annotated[
    Path, typer.Option("--output", "-o", "--out", help="Safetensors file to write.")
]
Crops = Annotated[Path | None, typer.Option(help="Folder with wide.zip; painted faces without it.")]
app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root() -> None:
    """Train Moretta's networks: formats and advice are in docs/training.md.

    Example: [bold]moretta-train composer --config composer-128 --data crops --output run --minutes 60[/bold]
    """


@app.command()
def composer(
    out: Annotated[
        Path, typer.Option("--output", "-o", "--out", help="Folder for state, weights, sheets.")
    ],
    config: Annotated[str, typer.Option(help="smoke, composer-64, -96, -128 or -256.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with wide.zip; only smoke goes without.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0, help="How long this call trains.")] = 60,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of this call, instead of minutes.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output.")
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(help="Weights to begin from, of any side: NAME-start.safetensors."),
    ] = None,
    cool: Annotated[
        bool, typer.Option("--cool", help="Lower the learning rate to a tenth in this call.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="On the CPU.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of a new run.")] = 0,
) -> None:
    """Train the composer: surroundings, points, a code and an identity in, a face out.

    Example: [bold]moretta-train composer --config composer-128 --data crops --output run --minutes 60[/bold]
    """
    from moretta.errors import DeviceError, UsageError

    try:
        import torch
    except ImportError as error:
        raise UsageError("training needs torch", hint="pip install 'moretta[train]'") from error
    from moretta.training import composer as recipe

    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device is {device}", hint="cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device: this torch does not see one", hint="use --device cpu")
    torch.set_num_threads(threads)
    trainer = recipe.run(
        config,
        data=data,
        out=out,
        minutes=minutes,
        steps=steps,
        start=start,
        resume=resume,
        cool=cool,
        device=device,
        seed=seed,
    )
    seen, steps_done = count_of(trainer.seen, "crop"), count_of(trainer.step, "step")
    print(f"{seen} seen in {steps_done}; see {out.resolve()}")  # noqa: T201


@app.command()
def reader(
    out: Written,
    data: Crops = None,
    count: Annotated[int, typer.Option(min=300, help="Faces drawn.")] = 6000,
    minutes: Annotated[float, typer.Option(min=0, help="Drawing ends after these.")] = 12,
    seed: Annotated[int, typer.Option(min=0)] = 1,
) -> None:
    """Train the reader of neural recovery: again after every change of the composer.

    Example: [bold]moretta-train reader --data crops --output reader.safetensors[/bold]
    """
    _needs_torch()
    from moretta.training import reader as recipe

    told = recipe.run(data, out, count=count, minutes=minutes, seed=seed)
    drawn = count_of(int(told["drawn"]), "face")
    print(f"{drawn} drawn to train; cosine of what is read to what was drawn,")  # noqa: T201
    whose = _whose(int(told["held"]), "face")
    print(f"{whose}: {told['uncorrected']:.3f} uncorrected, {told['corrected']:.3f} corrected")  # noqa: T201
    print(f"put it at its place and its hash into catalogue.toml: {out.resolve()}")  # noqa: T201


@app.command()
def swapper(
    out: Written,
    data: Crops = None,
    minutes: Annotated[float, typer.Option(min=0, help="How long this call trains.")] = 12,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of this call, instead of minutes.")
    ] = None,
    count: Annotated[int, typer.Option(min=64, help="Crops to learn from.")] = 6000,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run of this --output.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Another composer's file than the bundled one.")
    ] = None,
    ranking: Annotated[Path | None, typer.Option(help="The ranking of --weights.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of a new run.")] = 0,
) -> None:
    """Train the swapper of styleid: again after every change of the composer or its ranking.

    Example: [bold]moretta-train swapper --data crops --output swapper.safetensors --minutes 12[/bold]
    """
    import hashlib

    from moretta.errors import UsageError

    _needs_torch()
    if out.suffix != ".safetensors":
        raise UsageError(f"--output is {out}", hint="a name that ends in .safetensors")
    for given in (weights, ranking):
        if given is not None and not given.is_file():
            raise UsageError(f"there is no file {given}", hint="check --weights and --ranking")
    from moretta.training import swapper as recipe

    told = recipe.run(
        data,
        out,
        minutes=minutes,
        steps=steps,
        count=count,
        seed=seed,
        resume=resume,
        weights=weights,
        ranking=ranking,
    )
    steps_done, whose = (
        count_of(int(told.pop("steps")), "step"),
        _whose(int(told.pop("held")), "crop"),
    )
    print(f"{steps_done}; cosines and attribute distance, {whose}:")  # noqa: T201
    for name, value in told.items():
        print(f"{name}: {value:.3f}")  # noqa: T201
    content = out.read_bytes()
    print("put it at its place, and its hash and size into catalogue.toml:")  # noqa: T201
    sha = hashlib.sha256(content).hexdigest()
    print(f"{out.resolve()}: {len(content):,} bytes, sha256 {sha}")  # noqa: T201


@app.command()
def flow(
    out: Written,
    minutes: Annotated[float, typer.Option(min=0, help="How long it trains.")] = 12,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps instead of minutes.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train the flow that `ifadit --pseudonym flow` is compared with; no photo is needed.

    Example: [bold]moretta-train flow --output flow.safetensors --steps 3000[/bold]
    """
    _needs_torch()
    from moretta.training import flow as recipe

    recipe.run(out, minutes=minutes, steps=steps, seed=seed)
    print(f"put it at its place and its hash into catalogue.toml: {out.resolve()}")  # noqa: T201


def _whose(held: int, what: str) -> str:
    """Say what figures are of: so many held out, or those that trained."""
    return (
        f"of {count_of(held, what)} held out" if held else f"of {what}s that trained, none held out"
    )


def _needs_torch() -> None:
    from importlib.util import find_spec

    from moretta.errors import UsageError

    if find_spec("torch") is None:
        raise UsageError("training needs torch", hint="pip install 'moretta[train]'")
    import torch

    torch.set_num_threads(1)


@app.command()
def features(
    data: Annotated[Path, typer.Option(help="Folder with faces-144.zip and wide.zip.")],
    out: Annotated[
        Path,
        typer.Option("--output", "-o", "--out", help="Folder for what is gathered, and weights."),
    ],
    minutes: Annotated[float, typer.Option(min=0, help="Of training, after gathering.")] = 10,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps instead of minutes.")] = None,
    tight: Annotated[int, typer.Option(min=8, help="Labelled crops to learn from.")] = 4000,
    wide: Annotated[int, typer.Option(min=8, help="Wide crops to learn from.")] = 1800,
    pairs: Annotated[int, typer.Option(min=8, help="Drawn pairs of two identities.")] = 350,
    seed: Annotated[int, typer.Option(min=0, help="Of a new run.")] = 0,
) -> None:
    """Train the attribute features of falco, and print agreement with held-out labels.

    Example: [bold]moretta-train features --data crops --output run --minutes 10[/bold]
    """
    from moretta.errors import UsageError

    try:
        from moretta.training import features as recipe
    except ImportError as error:
        raise UsageError("training needs torch", hint="pip install 'moretta[train]'") from error
    found = recipe.run(
        data, out, minutes=minutes, steps=steps, tight=tight, wide=wide, pairs=pairs, seed=seed
    )
    for name, value in found.items():
        print(f"{name}: {value:.3f}")  # noqa: T201
    print(f"{(out / 'features.safetensors').resolve()}")  # noqa: T201


def main() -> None:
    """Run the command; every fault is one clear line and a hint on standard error."""
    from moretta.cli.main import at_the_rim

    at_the_rim(app, "moretta-train")
