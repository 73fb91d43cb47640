"""What the released files tell beside their pixels: metadata, and names of people in it.

No attack on pixels is needed where a file says who is on it. Reported, not scored.
Source  evaluation.md 6 (G12).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moretta.errors import count_of

if TYPE_CHECKING:
    from pathlib import Path

    from moretta.evaluation.pairs import Pair

HARMLESS = frozenset(  # what every encoder writes
    [
        "jfif",
        "jfif_version",
        "jfif_density",
        "jfif_unit",
        "dpi",
        "gamma",
        "progressive",
        "progression",
        "adobe",
        "adobe_transform",
        "srgb",
        "interlace",
        "transparency",
        "icc_profile",
        "compression",
        "bits",
        "chromaticity",
    ]
)
NAMED = "the person's name in the metadata of"  # how such a sentence begins
LEAST_NAME = 3  # letters of a label that are looked for: shorter ones are everywhere


def metadata(path: Path) -> dict[str, str]:
    """Return kind -> text of what the file carries beside pixels; empty when it cannot be opened."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            found: dict[Any, Any] = dict(file.info)
            exif = file.getexif()
            if len(exif):
                found["exif"] = " ".join(
                    str(value) for tags in (exif, exif.get_ifd(0x8769)) for value in tags.values()
                )
    except (OSError, ValueError, SyntaxError):
        return {}
    return {
        str(kind): value.decode("latin-1") if isinstance(value, bytes) else str(value)
        for kind, value in found.items()
        if str(kind).lower() not in HARMLESS
    }


def _names(person: str) -> set[str]:
    """Return what is looked for: the label, and the last part where it is of nested folders."""
    label = person.lower()
    return {label, label.rpartition("/")[2]}


def side_channels(pairs: Sequence[Pair]) -> list[str]:
    """Return one sentence for each kind of metadata in the released files, and for names in it."""
    kinds: Counter[str] = Counter()
    named = 0
    for pair in pairs:
        if pair.released is None:
            continue
        found = metadata(pair.released)
        kinds.update(found.keys())
        text = " ".join(found.values()).lower()
        named += any(len(name) >= LEAST_NAME and name in text for name in _names(pair.person))
    said = [f"{kind} data in {count_of(n, 'released file')}" for kind, n in sorted(kinds.items())]
    if named:
        said.append(f"{NAMED} {count_of(named, 'released file')}")
    return said
