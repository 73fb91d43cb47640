"""`moretta detect`: where the faces are, as JSON in upright pixels and as overlay pictures."""

from __future__ import annotations

import json as jsons
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from moretta.errors import PhotoError, UsageError, count_of, one_line


def command(
    inputs: Annotated[
        list[str], typer.Argument(help="Files, folders (recursive) and quoted globs.")
    ],
    json: Annotated[
        Path | None,
        typer.Option(help="Write JSON lines here; without it they go to standard output."),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures with the boxes drawn in: faces are bare."),
    ] = None,
    detector: Annotated[
        str, typer.Option(help="NAME[,NAME]: yunet, centerface; finds are joined.")
    ] = "yunet",
    threshold: Annotated[float | None, typer.Option(help="0..1, least score of a find.")] = None,
    min_face: Annotated[float, typer.Option(help="Smaller faces are not looked for, in px.")] = 12,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="All turns, twice the size.")
    ] = False,
    max_pixels: Annotated[int, typer.Option(help="Larger photos are refused.")] = 250_000_000,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; never downgraded.")] = "auto",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the list and the overlays of an earlier call."),
    ] = False,
) -> None:
    """List the faces of each photo; edit the list by hand and give it to `anonymize --boxes`.

    Example: [bold]moretta detect photos --json boxes.jsonl --overlay look[/bold]
    """
    from moretta.photos.files import read_photo, write_whole
    from moretta.photos.manifest import make_folder
    from moretta.pipeline.boxes import as_line
    from moretta.pipeline.inputs import listed
    from moretta.pipeline.options import options
    from moretta.pipeline.protect import Protector

    checked = options(
        {
            "detector": detector,
            "threshold": threshold,
            "min_face": min_face,
            "thorough": thorough,
            "max_pixels": max_pixels,
            "device": device,
        }
    )
    if json is not None:
        _refuse_photo(json)
        _refuse_existing(json, overwrite=overwrite)
    items = [item for item in listed(inputs, overlay) if item.photo]
    own = {item.path.resolve() for item in items if not item.fault}
    overlays = {item.name: overlay / (item.name + ".png") for item in items} if overlay else {}
    for target in overlays.values():
        _refuse_existing(target, overwrite=overwrite and target.resolve() not in own)
    for folder in (json.parent if json else None, overlay):
        if folder is not None:
            make_folder(folder, hint="choose another name")
    protector = Protector(checked)
    lines, faults, empty = [], 0, 0
    for item in items:
        try:
            photo = read_photo(item.path, max_pixels=max_pixels) if not item.fault else None
            fault = item.fault
        except PhotoError as error:
            fault = error.fault.removeprefix(f"{one_line(item.path.name)}: ")
            photo, fault = None, f"{fault}; {error.hint}" if error.hint else fault
        if photo is None:
            faults += 1
            print(f"moretta: {one_line(item.name)}: failed: {fault}", file=sys.stderr)  # noqa: T201
            continue
        faces = protector.find(photo.pixels, looks=photo.looks())
        empty += not faces
        height, width = photo.pixels.shape[:2]
        line = jsons.dumps(as_line(item.name, width, height, faces))
        lines.append(line)
        if json is None:
            print(line)  # noqa: T201
        if overlay is not None:
            target = overlays[item.name]
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, _drawn(photo.pixels, faces))
    if json is not None:
        write_whole(json, "".join(line + "\n" for line in lines).encode())
        print(f"{count_of(len(lines), 'photo')}, {empty} without a face, {faults} not read: {json}")  # noqa: T201
    raise typer.Exit(4 if faults else 3 if empty else 0)


def _refuse_existing(path: Path, *, overwrite: bool) -> None:
    """A list edited by hand, or a photo, must not be lost to a second call."""
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path} is there already", hint="choose another name, or --overwrite")


def _refuse_photo(path: Path) -> None:
    """`detect --json *.jpg` would write over the first photo: `--json` takes a name here."""
    from moretta.photos.files import sniff

    if path.is_dir():
        raise UsageError(f"--json names {path}, which is a folder", hint="name a file")
    if path.is_file():
        with path.open("rb") as file:
            if sniff(file.read(64)):
                raise UsageError(
                    f"--json names {path}, which is a photo", hint="name the file for the boxes"
                )


def _drawn(pixels, faces) -> bytes:  # type: ignore[no-untyped-def]
    """Return a PNG of the photo with boxes, points and scores drawn in."""
    import cv2

    canvas = pixels[..., ::-1].copy()
    line = max(1, round(max(canvas.shape[:2]) / 600))
    for face in faces:
        box = [round(v) for v in (face.box.left, face.box.top, face.box.right, face.box.bottom)]
        cv2.rectangle(canvas, box[:2], box[2:], (0, 220, 0), line)
        for x, y in face.points:
            cv2.circle(canvas, (int(x), int(y)), line, (0, 160, 255), -1)
        label = f"{face.detector} {face.score:.2f}"
        place = (box[0], max(box[1] - 3 * line, 10))
        cv2.putText(canvas, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line, (0, 220, 0), line)
    return bytes(cv2.imencode(".png", canvas)[1])
