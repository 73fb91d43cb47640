"""What a tool left behind: which files, what is in them, which tags and planted secrets."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from hostile import PLANTED
from PIL import Image, ImageOps

_STRUCTURE = {"ExifTool", "System", "File", "Composite", "JFIF", "PNG"}


def described(path: Path, source: Path) -> str:
    """One written file in a few words, beside the photo that it came from."""
    size = path.stat().st_size
    if not size:
        return f"{path.name}: 0 bytes"
    try:
        with Image.open(path) as written:
            written.load()
            words = [str(written.format), written.mode, f"{written.width}x{written.height}"]
            if getattr(written, "n_frames", 1) > 1:
                words.append(f"{getattr(written, 'n_frames', 1)} frames")
            words.extend(_looks(written, source))
    except Exception as fault:  # noqa: BLE001, whatever a broken file raises
        return f"{path.name}: {size} bytes, unreadable ({type(fault).__name__})"
    return f"{path.name}: {' '.join(words)}"


def _looks(written: Image.Image, source: Path) -> list[str]:
    words = []
    with Image.open(source) as opened:
        opened.load()
        upright = ImageOps.exif_transpose(opened)
        if ImageOps.exif_transpose(written).size != upright.size:
            return ["SIDEWAYS or other size"]
        before = np.asarray(_grey8(upright), np.int16)
    after = np.asarray(_grey8(ImageOps.exif_transpose(written)), np.int16)
    words.append(f"{(np.abs(after - before) > 24).mean():.0%} changed")
    if "A" in written.getbands() and np.asarray(written.getchannel("A")).min() == 0:
        words.append("TRANSPARENT HOLE")
    return words


def _grey8(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture, np.uint32) >> 8).astype(np.uint8))
    return picture.convert("L")


def leftovers(path: Path) -> dict[str, Any]:
    """Tags beyond file structure (None without exiftool), secrets, embedded JPEGs, trailer."""
    content = path.read_bytes()
    end = content.rfind(b"\xff\xd9")
    return {
        "tags": _tags(path),
        "secrets": [
            kind
            for kind in ("ARTIST", "XMP", "COMMENT", "TRAILER")
            if f"{PLANTED}-{kind}".encode() in content
        ],
        "embedded_jpegs": content.count(b"\xff\xd8\xff") - 1,
        "trailing_bytes": len(content) - end - 2,
    }


def _tags(path: Path) -> list[str] | None:
    exiftool = shutil.which("exiftool")
    if exiftool is None:
        return None
    answer = subprocess.run(
        [exiftool, "-json", "-G1", "-a", "-u", str(path)],
        capture_output=True,
        check=False,
    )
    tags = json.loads(answer.stdout)[0]
    return sorted(
        tag
        for tag in tags
        if ":" in tag and (tag.split(":")[0] not in _STRUCTURE or tag == "File:Comment")
    )
