"""`moretta sample`: synthetic faces from the composer's prior, without any photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moretta.errors import count_of


def command(
    out: Annotated[Path, typer.Option("--output", "-o", "--out", help="Folder to write to.")],
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many faces.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Other faces for another seed.")] = 0,
    truncation: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="0: the mean scene, code and face of a kind; 1: as varied as photos."
        ),
    ] = 0.7,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """Draw synthetic faces: PNG files, and latents.safetensors with what drew them.

    The first faces of a larger --count are those of a smaller one.

    Example: [bold]moretta sample --count 16 --seed 1 --output faces[/bold]
    """
    import io
    from functools import partial

    from moretta.errors import UsageError
    from moretta.photos.files import write_whole
    from moretta.photos.manifest import make_folder

    try:
        import torch
        from PIL import Image
        from safetensors.torch import save
    except ImportError as error:
        raise UsageError("sample needs torch", hint="pip install 'moretta[generative]'") from error
    from moretta.networks.backend import pixels_of
    from moretta.networks.pool import crowds
    from moretta.weights.backends import composer, stand_ins

    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is no folder", hint="choose another --output")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty", hint="choose a new folder")
    backend = composer(device=device)
    make_folder(out, hint="choose another name")
    kept: dict[str, list[torch.Tensor]] = {
        "points": [],
        "rows": [],
        "identities": [],
        "codes": [],
    }
    digits = len(str(count - 1))
    with torch.inference_mode():
        alike = partial(crowds, *stand_ins())
        drawn = backend.samples(count, seed, truncation=truncation, crowds=alike)
        for start, end, parts in drawn:
            pictures = pixels_of(parts[0])
            for index, picture in zip(range(start, end), pictures, strict=True):
                file = io.BytesIO()
                Image.fromarray(picture).save(file, "PNG")
                write_whole(out / f"{index:0{digits}d}.png", file.getvalue(), durable=False)
            for name, part in zip(kept, parts[1:], strict=True):
                kept[name].append(part.cpu())
    latents = {name: torch.cat(parts).contiguous() for name, parts in kept.items()}
    about = {"seed": str(seed), "truncation": str(truncation), "count": str(count)}
    write_whole(out / "latents.safetensors", save(latents, about))
    print(f"{count_of(count, 'face')} and latents.safetensors: {out.resolve()}")  # noqa: T201
