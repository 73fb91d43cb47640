"""Two folders and who is on each photo. The one file of this room that reads photos and labels.

Any tool's output will do: a released photo belongs to the original with the same path, whatever its
suffix, and `_anonymized` at the end of the name (as deface writes it) is understood.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.errors import PhotoError, UsageError, count_of, one_line
from moretta.photos.files import SUFFIXES, read_photo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moretta.records import Pixels

ENDINGS = ("", "_anonymized", "_anonymised")
FOLDERS = "folders"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One original, who is on it, and what was released of it."""

    name: str  # of the original, relative, with "/"
    person: str
    original: Path
    released: Path | None  # None: the tool wrote nothing for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """All pairs with a person, and what was left out, by reason."""

    pairs: tuple[Pair, ...]
    excluded: Mapping[str, int]
    strangers: int  # released photos without an original
    reserved: frozenset[str] = frozenset()  # people whom the anonymiser learnt from (part B)


def paired(original: Path, anonymised: Path, identities: str | Path = FOLDERS) -> Pairing:
    """Return every original with a person, with its released photo.

    identities: "folders" (the folder that holds a photo is the person) or a CSV file with the columns
    file and person, and perhaps part (B for people whom the anonymiser learnt from).
    Raises UsageError for folders that do not mirror each other and labels that cannot be read.
    """
    originals, released = _photos(original), _photos(anonymised)
    if not originals:
        raise UsageError(f"no photos in {original}", hint="name the folder of the originals")
    if not released:
        raise UsageError(f"no photos in {anonymised}", hint="name the folder of the tool's output")
    if original.resolve() == anonymised.resolve():
        raise UsageError(
            "original and anonymised are the same folder", hint="the second is the tool's output"
        )
    people, reserved, unknown = _people(originals, identities, original)
    by_stem = _by_stem(released, anonymised)
    pairs, excluded = [], Counter({"label_without_photo": unknown} if unknown else {})
    used: set[str] = set()
    for name in sorted(originals):
        match = _match(name, by_stem)
        used |= {match} if match else set()
        if name not in people:
            excluded["no_label"] += 1
            continue
        path = anonymised / match if match else None
        pairs.append(Pair(name=name, person=people[name], original=original / name, released=path))
    if not used:
        raise UsageError(
            f"the folders do not mirror each other: no photo in {anonymised} has the path of one "
            f"in {original}, such as {one_line(min(originals))}",
            hint="both need the same tree; suffixes may differ",
        )
    return Pairing(
        pairs=tuple(pairs),
        excluded=dict(excluded),
        strangers=len(released) - len(used),
        reserved=reserved,
    )


def photos_of(original: Path, identities: str | Path = FOLDERS) -> dict[str, int]:
    """Return person -> photos, by names alone and without part B. Raises UsageError as `paired`."""
    people, reserved, _ = _people(_photos(original), identities, original)
    return dict(Counter(person for person in people.values() if person not in reserved))


def read_pixels(path: Path) -> Pixels | None:
    """Return the photo's (height, width, 3) RGB, or None when it cannot be read whole."""
    try:
        return read_photo(path).pixels
    except PhotoError:
        return None


def _photos(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="check the name")
    found = []
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            path = Path(here) / name
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                found.append(path.relative_to(folder).as_posix())
    return found


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _by_stem(released: list[str], folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in released:
        found.setdefault(_stem(name), []).append(name)
    return found


def _match(name: str, by_stem: Mapping[str, list[str]]) -> str | None:
    for ending in ENDINGS:
        offered = by_stem.get(_stem(name) + ending, [])
        if name in offered:
            return name
        if len(offered) > 1:
            raise UsageError(
                f"{one_line(name)} has {len(offered)} released photos: {', '.join(offered[:3])}",
                hint="keep one of them",
            )
        if offered:
            return offered[0]
    return None


def _people(
    originals: list[str], identities: str | Path, folder: Path
) -> tuple[dict[str, str], frozenset[str], int]:
    """Return photo -> person, the people of part B, and how many labels have no photo."""
    if str(identities) == FOLDERS:
        people = {name: str(PurePosixPath(name).parent) for name in originals if "/" in name}
        if not people:
            raise UsageError(
                f"no photo of {folder} lies in a folder of its own person",
                hint="--identities FILE.csv with the columns file and person",
            )
        return people, frozenset(), 0
    rows = _rows(Path(identities))
    known, people, reserved, unknown = set(originals), {}, set(), 0
    for number, row in enumerate(rows, 2):
        name, person = (row.get("file") or "").strip(), (row.get("person") or "").strip()
        if not name or not person:
            raise UsageError(
                f"{identities}: line {number} has no file or no person",
                hint="every line names a photo, relative to the originals, and a person",
            )
        if people.get(name, person) != person:
            raise UsageError(
                f"{identities}: line {number}: {one_line(name)} has two people",
                hint="one line a photo",
            )
        unknown += name not in known
        if name in known:
            people[name] = person
            reserved |= {person} if (row.get("part") or "").strip() == "B" else set()
    if not people:
        raise UsageError(
            f"{identities}: none of its {count_of(len(rows), 'file')} is in {folder}",
            hint="paths are relative to the folder of the originals",
        )
    return people, frozenset(reserved), unknown


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            rows: list[dict[str, Any]] = list(table)
            columns = table.fieldnames or []
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", hint="check --identities"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} cannot be read as labels: it is not text in UTF-8", hint="a CSV file in UTF-8"
        ) from error
    except csv.Error as error:
        raise UsageError(
            f"{path} cannot be read as labels: {error}", hint="a CSV file in UTF-8"
        ) from error
    if not {"file", "person"} <= set(columns):
        raise UsageError(
            f"{path} has the columns {', '.join(columns) or 'none'}",
            hint="the first line is: file,person",
        )
    return rows


def perceptual_hash(photo: Pixels) -> int:
    """Return 64 bits that near-duplicates share: signs of the lowest DCT coefficients at 32 px."""
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(photo), cv2.COLOR_RGB2GRAY)
    small: Any = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int("".join("1" if bit else "0" for bit in bits), 2)
