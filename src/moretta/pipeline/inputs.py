"""Which files a run is about and what each output will be called, settled before any work starts."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moretta.errors import ManifestError, UsageError
from moretta.photos import PART
from moretta.photos.files import EXTENSION, SUFFIXES, sniff, write_whole
from moretta.photos.manifest import NAMES, OURS

#: Photos that we cannot read: they fail by name, so that nobody believes them protected.
UNSUPPORTED = frozenset(
    [
        ".jp2",
        ".j2k",
        ".jxl",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tga",
        ".psd",
        ".exr",
        ".hdr",
        ".ico",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".rw2",
        ".raf",
        ".raw",
        ".svg",
        ".pdf",
    ]
)


@dataclass(frozen=True, slots=True)
class Input:
    """One input file: a photo to protect, a fault to report, or something that is no photo."""

    path: Path
    name: str  # of the input, relative, with "/"
    output: str = ""  # name of the output, relative, with "/"
    fault: str = ""  # why it cannot be worked on
    photo: bool = True
    outside: bool = False  # a link in an input folder to what lies outside: left alone, no photo


def listed(
    inputs: Sequence[str | os.PathLike[str]],
    output: Path | None,
    *,
    container: str | None = None,
    rename: bool = False,
) -> list[Input]:
    """Return every input file with its output's name: files, folders (recursive) and globs.

    One folder is mirrored as it is; with several inputs each folder keeps its own name in front.
    output: None when nothing is written. container: the format asked for, or each input's own.
    rename: neutral names will be given, so no two outputs can meet.
    A link inside a folder is followed to what lies in one of the inputs, and nowhere else.
    Raises UsageError for inputs that do not exist and for an output inside an input.
    """
    sources = [path for given in inputs for path in _expanded(given)]
    places = [Path(os.path.realpath(source)) for source in sources]
    found: list[Input] = []
    for source in sources:
        if os.path.isdir(source):  # noqa: PTH112 - a circle of links is no error here
            if output is not None:
                _refuse_nested(source, output)
            prefix = f"{source.resolve().name}/" if len(sources) > 1 else ""
            found += _in_folder(source, prefix, places)
        else:
            found.append(_one(source, source.name))
    found = _unique(found)
    named = [
        replace(item, output=_output(item, container)) if item.photo else item for item in found
    ]
    return named if output is None or rename else _settled(named, output)


def renamed(items: Sequence[Input], folder: Path) -> list[Input]:
    """Give every photo a neutral name in random order, the same again when a run is resumed.

    The list of names links outputs to inputs: it lies in the folder only while the run is going on,
    for one reader. Raises ManifestError when it is damaged.
    """
    path = folder / NAMES
    photos = [item for item in items if item.photo]
    names: dict[str, str] = {}
    if path.exists():
        names = _kept(path)
    taken = set(names.values())
    free = [f"photo-{i:06d}" for i in range(1, len(photos) + len(taken) + 1)]
    free = [name for name in free if name not in taken][: len(photos)]
    secrets.SystemRandom().shuffle(free)
    for item in photos:
        if _key(item) not in names:
            names[_key(item)] = free.pop()
    write_whole(path, json.dumps(names).encode(), mode=0o600)
    return [
        replace(item, output=names[_key(item)] + _suffix(item.output)) if item.photo else item
        for item in items
    ]


def _kept(path: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    ours = False
    with contextlib.suppress(OSError, ValueError, TypeError):
        names = dict(json.loads(path.read_text(encoding="utf-8")))
        ours = all(re.fullmatch(r"photo-\d{6,}", name) for name in names.values())
        ours &= len(set(names.values())) == len(names)
    if not ours:
        raise ManifestError(
            f"{path} is damaged", hint="start anew with --overwrite, or choose another folder"
        )
    return names


def _key(item: Input) -> str:
    """What tells two inputs apart: two folders may hold photos of one name."""
    return os.path.abspath(item.path)  # noqa: PTH100 - links stay links


def _suffix(name: str) -> str:
    """Return a photo's suffix; what else follows a dot is part of a name and stays behind."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix in SUFFIXES else ""


def _expanded(given: str | os.PathLike[str]) -> Iterator[Path]:
    path = Path(given)
    if os.path.lexists(path):
        yield path
        return
    pattern = str(given)
    matches = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []  # noqa: PTH207
    if not matches:
        raise UsageError(f"there is no file or folder {given}", hint="check the name; quote globs")
    yield from (Path(match) for match in matches)


def _refuse_nested(source: Path, output: Path) -> None:
    inner, outer = output.resolve(), source.resolve()
    if inner == outer or outer in inner.parents:
        raise UsageError(
            f"the output {output} lies inside the input {source}",
            hint="choose an --output outside of it: outputs would become inputs of the next run",
        )


def _in_folder(folder: Path, prefix: str, places: Sequence[Path]) -> Iterator[Input]:
    """Yield every file below `folder`; links are followed within `places`, each folder entered once."""
    entered: set[tuple[int, int]] = set()

    def walk(here: Path, name: str) -> Iterator[Input]:
        try:
            state = here.stat()
            if (state.st_dev, state.st_ino) in entered:
                yield Input(here, name.rstrip("/"), fault="a link back to a folder already read")
                return
            entered.add((state.st_dev, state.st_ino))
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            yield Input(here, name.rstrip("/"), fault=f"folder cannot be read: {error.strerror}")
            return
        for entry in entries:
            path, label = Path(entry.path), name + entry.name
            if entry.is_symlink() and os.path.exists(path) and not _within(path, places):  # noqa: PTH110
                yield Input(path, label, photo=False, outside=True)
            elif os.path.isdir(path):  # noqa: PTH112 - `entry.is_dir` raises on a circle of links
                yield from walk(path, label + "/")
            else:
                yield _one(path, label)

    yield from walk(folder, prefix)


def _within(path: Path, places: Sequence[Path]) -> bool:
    real = Path(os.path.realpath(path))
    return any(place == real or place in real.parents for place in places)


def _one(path: Path, name: str) -> Input:
    """Return a file as an input; by its content, and where that cannot be read, by its suffix."""
    suffix = path.suffix.lower()
    try:
        if not path.is_file():
            if path.is_symlink():
                return Input(path, name, fault="a link that leads nowhere, or in a circle")
            return Input(path, name, photo=suffix in SUFFIXES, fault="not a regular file")
        with path.open("rb") as file:
            kind = sniff(file.read(64))
    except OSError as error:
        if suffix in SUFFIXES:
            return Input(
                path, name, fault=f"cannot be read: {error.strerror}; check its permissions"
            )
        return Input(path, name, photo=False)
    if kind is None and path.name.startswith("._"):  # what macOS leaves beside a photo
        return Input(path, name, photo=False)
    if kind is None and suffix in UNSUPPORTED:
        fault = f"{suffix[1:].upper()} is not supported; convert it to PNG or TIFF"
        return Input(path, name, fault=fault)
    return Input(path, name, output=kind or "", photo=bool(kind) or suffix in SUFFIXES)


def _output(item: Input, wanted: str | None) -> str:
    """Return the output's name: the input's, with another suffix where the format changes."""
    kind = wanted or item.output or ""  # `_one` leaves the sniffed format in `output`
    stem, dot, suffix = item.name.rpartition(".")
    if "/" in suffix or not dot or not stem or stem.endswith("/"):
        stem, suffix = item.name, ""
    if not kind or SUFFIXES.get("." + suffix.lower()) == kind:
        return item.name
    keep = stem if "." + suffix.lower() in SUFFIXES else item.name
    return keep + EXTENSION.get(kind, "")


def _unique(items: Iterable[Input]) -> list[Input]:
    """Return each file once, however often it was named."""
    seen: dict[Path, Input] = {}
    for item in items:
        seen.setdefault(Path(os.path.abspath(item.path)), item)  # noqa: PTH100 - links stay links
    return list(seen.values())


def _settled(items: Sequence[Input], output: Path) -> list[Input]:
    """Mark outputs that would meet in one name, or that would replace an input."""
    folded = Counter(item.output.casefold() for item in items if item.photo and not item.fault)
    inputs = {item.path.resolve() for item in items if not item.fault}
    settled = []
    for item in items:
        if item.photo and not item.fault:
            if folded[item.output.casefold()] > 1:
                item = replace(
                    item,
                    fault=f"another input would also be written as {item.output}; "
                    "use --rename, or separate runs",
                )
            elif (output / item.output).resolve() in inputs:
                item = replace(
                    item, fault="its output would replace an input; choose another --output"
                )
            elif item.output in OURS or Path(item.output).name.startswith(PART):
                item = replace(item, fault="its name is one of our own files; rename it")
        settled.append(item)
    return settled
