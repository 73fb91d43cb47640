"""`moretta demo`: the whole way on a photo that ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from moretta.records import Pixels


def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", "--out", help="Folder to write to.")
    ] = Path("moretta-demo"),
    method: Annotated[
        str | None, typer.Option(help="One method; all of them side by side without it.")
    ] = None,
) -> None:
    """Protect a public-domain photo (NASA's portrait of Eileen Collins) and show before and after.

    Example: [bold]moretta demo --output look[/bold]
    """
    import cv2
    import numpy as np

    from moretta.api import Anonymizer
    from moretta.cli.show import Display
    from moretta.methods import METHODS, missing, settings
    from moretta.methods import method as by_name
    from moretta.photos.files import write_whole
    from moretta.photos.manifest import make_folder
    from moretta.pipeline.custody import fleeting

    make_folder(output, hint="choose another name")
    before = photo()
    pictures, labels = [before], ["original"]
    for name in [method] if method else METHODS:
        if not method and (lacking := missing(by_name(name))):
            print(f"{name}: left out, it needs {' and '.join(lacking)}")  # noqa: T201
            continue
        chosen = by_name(name)
        if chosen.prepare:  # what is drawn once for all runs takes a while, and says so
            with Display("auto") as display:
                chosen.prepare(settings(chosen), "auto", 1, display.drawing)
        keyed = chosen.keyed
        ring = fleeting() if keyed else None  # nobody will ask for this face again
        maker = Anonymizer(name, seed=None if keyed else 0)
        after, record = maker.image(before, keyring=ring)
        face = record.faces[0]
        cosine, known = face.audit["cosine"], face.audit["threshold"]
        judged = (
            "nothing is left in the judge's view"
            if cosine is None
            else f"the judge's cosine with the original: {cosine:.2f} (known above {known:.2f})"
        )
        print(f"{name}: {record.decision}, {record.reason}; {judged}")  # noqa: T201
        pictures.append(after)
        labels.append(name)
    sheet = []
    for picture, label in zip(pictures, labels, strict=True):
        strip = np.full((36, picture.shape[1], 3), 255, np.uint8)
        cv2.putText(
            strip, label, (8, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (30, 30, 30), 1, cv2.LINE_AA
        )
        sheet.append(np.vstack([strip, picture]))
    target = output / "before-after.png"
    write_whole(target, bytes(cv2.imencode(".png", np.hstack(sheet)[..., ::-1])[1]))
    print(f"before and after: {target.resolve()}")  # noqa: T201


def photo() -> Pixels:
    """Return the demo photo, (512, 512, 3) RGB: Eileen Collins, NASA, public domain."""
    import io
    from importlib.resources import files

    import numpy as np
    from PIL import Image

    content = files("moretta.cli").joinpath("astronaut.jpg").read_bytes()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
