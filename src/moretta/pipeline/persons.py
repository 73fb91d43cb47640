"""Who shares one new face: one person's photos by folder, CSV file or grouping, or everybody in a run.

Promise   a person's new face comes from the run's secret and from what tells persons apart. The secret
          is drawn for each run, lies in the output folder only while the run goes on, and is destroyed
          at its end; so nothing links the faces of two runs but what was asked for: one --seed, one
          key with --scope subject, or one ledger, whose own secret makes a person of folders or a file
          the same one in every run. Persons, groups and identity seeds are written nowhere else.
Not here  the grouping itself (faces/group.py), and which face of a photo gets a seed (protect.py).
Format    docs/persons.md.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moretta.errors import ManifestError, UsageError, count_of
from moretta.faces.group import grouped
from moretta.photos.files import write_whole
from moretta.photos.manifest import PERSONS, Manifest
from moretta.pipeline.protect import Identities, derived
from moretta.records import Box

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from moretta.pipeline.inputs import Input
    from moretta.pipeline.options import Options

Kind = Literal["", "run", "folders", "csv", "group"]
BOX = ("left", "top", "right", "bottom")
HINT = "docs/persons.md shows the columns: photo, person, and face or left, top, right, bottom"


@dataclass(frozen=True, slots=True)
class Row:
    """One person in one photo: the largest face, or one by its number from 1, or one by its box."""

    person: str
    face: int | None = None
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run was told about persons."""

    kind: Kind = ""  # "": every face of every photo has an identity of its own
    rows: Mapping[str, tuple[Row, ...]] = field(
        default_factory=dict
    )  # name of the input -> persons
    checked: str = ""  # sha256 of what must not change before a resumed run is done

    def identities(self, name: str, secret: int) -> Identities:
        """Return the seeds for the faces of the input `name`; those of groups come later."""
        if self.kind == "run":
            return Identities(everyone=derived(secret, "\0run"))
        rows = [(row, identity_of(row.person, secret)) for row in self.rows.get(name, ())]
        return Identities(
            largest=next(
                (seed for row, seed in rows if row.face is None and row.box is None), None
            ),
            numbered={row.face - 1: seed for row, seed in rows if row.face is not None},
            boxed=tuple((row.box, seed) for row, seed in rows if row.box is not None),
        )


def planned(items: Sequence[Input], options: Options) -> Plan:
    """Return the plan for these inputs. Raises UsageError for a file or folders that name nobody."""
    if options.identity == "per-photo" and options.persons is None:
        return Plan()
    if options.identity == "per-run":
        return Plan("run")
    photos = [item for item in items if item.photo]
    if options.persons in (None, "group"):
        return Plan("group", checked=_digest_of(photos))
    if options.persons == "folders":
        return Plan("folders", _by_folder(photos))
    path = Path(str(options.persons))
    content = _content(path)
    rows = read_persons(content, str(path))
    _check_names(rows, photos)
    return Plan("csv", rows, hashlib.sha256(content).hexdigest())


def identity_of(person: str, secret: int) -> int:
    """Return the seed of the new identity of one person, by the name that folders or a file give."""
    return derived(secret, f"\0person\0{person}")


def by_group(
    vectors: Sequence[npt.NDArray[np.float32]], secret: int, *, least: float | None = None
) -> list[Identities]:
    """Return the seeds of every photo's faces, in the order of the photos.

    vectors: one array (faces, length) a photo, unit length. They are compared here and go no further.
    """
    import numpy as np

    photos = [i for i, found in enumerate(vectors) for _ in found]
    if not photos:
        return [Identities() for _ in vectors]
    joined = np.concatenate([found for found in vectors if len(found)])
    groups = grouped(joined, photos) if least is None else grouped(joined, photos, least=least)
    numbered: list[dict[int, int]] = [{} for _ in vectors]
    for photo, group in zip(photos, groups, strict=True):
        numbered[photo][len(numbered[photo])] = derived(secret, f"\0group\0{group}")
    return [Identities(numbered=one) for one in numbered]


def secret(plan: Plan, manifest: Manifest, seed: int | None) -> int:
    """Return the run's secret: the earlier run's when it goes on, else --seed, or a drawn one.

    It is kept in the folder until `forget`. Raises ManifestError when a run cannot go on with the
    persons it was begun with.
    """
    if not plan.kind:
        return 0
    path, done = manifest.folder / PERSONS, bool(manifest.done)
    kept = check(plan, manifest.folder, earlier=manifest.earlier, done=done, seed=seed)
    if kept is not None:
        return kept
    value = secrets.randbits(63) if seed is None else seed
    line = {"secret": value, "checked": plan.checked}
    write_whole(path, json.dumps(line).encode(), mode=0o600)
    return value


def check(plan: Plan, folder: Path, *, earlier: bool, done: bool, seed: int | None) -> int | None:
    """Return the earlier run's secret, None where there is none. Raises ManifestError as `secret`.

    earlier: a run was begun in the folder, and this one goes on with it. done: it has done photos.
    """
    path = folder / PERSONS
    if plan.kind and earlier and path.exists():
        return _kept(path, plan)
    if plan.kind and done and (seed is None or plan.kind not in ("run", "folders")):
        raise ManifestError(
            f"{folder} holds a finished run, and what its persons' new faces came from was destroyed",
            hint="choose a new folder; there the same persons get other new faces",
        )
    return None


def forget(folder: Path) -> None:
    """Destroy the run's secret."""
    (folder / PERSONS).unlink(missing_ok=True)


def read_persons(content: bytes, where: str) -> dict[str, tuple[Row, ...]]:
    """Return name of the photo -> its rows, from a CSV file's bytes.

    Raises UsageError naming the line that is wrong. where: what to call the file.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8: {error.reason}", hint=HINT) from error
    first = text.partition("\n")[0]
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = [str(name).strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        _check_columns(columns, where)
        rows: dict[str, list[Row]] = {}
        for line in reader:
            label = f"{where}: line {reader.line_num}"
            if None in line:
                raise _wrong(label, "more fields than columns")
            cells = {key: (value or "").strip() for key, value in line.items()}
            if any(cells.values()):
                name = line["photo"] or ""
                _add(rows.setdefault(name, []), _row(cells, label), name, label)
    except csv.Error as error:
        raise _wrong(f"{where}: line {reader.line_num}", f"not CSV ({error})") from error
    if not rows:
        raise _wrong(where, "it names nobody")
    return {name: tuple(found) for name, found in rows.items()}


def _check_columns(columns: Sequence[str], where: str) -> None:
    known = ("photo", "person", "face", *BOX)
    for name in ("photo", "person"):
        if name not in columns:
            raise _wrong(where, f"there is no column «{name}»")
    for name, count in Counter(columns).items():
        if name not in known:
            raise _wrong(where, f"there is no column {name!r} in this format")
        if count > 1:
            raise _wrong(where, f"the column «{name}» stands twice")
    if set(columns) & set(BOX) not in (set(), set(BOX)):
        raise _wrong(where, "a box has the columns left, top, right, bottom, all four")


def _row(cells: Mapping[str, str], where: str) -> Row:
    for name in ("photo", "person"):
        if not cells[name]:
            raise _wrong(where, f"«{name}» is empty")
    face, box = cells.get("face", ""), [cells.get(name, "") for name in BOX]
    if face and any(box):
        raise _wrong(where, "give a face's number or its box, not both")
    if face:
        if not face.isdecimal() or not 1 <= len(face) <= 9 or int(face) < 1:
            raise _wrong(where, f"face is {face!r}; faces are counted from 1")
        return Row(cells["person"], face=int(face))
    if any(box):
        try:
            left, top, right, bottom = (float(value) for value in box)
        except ValueError:
            raise _wrong(where, "a box is four numbers: left, top, right, bottom") from None
        if not -1e9 < left < right < 1e9 or not -1e9 < top < bottom < 1e9:
            raise _wrong(where, "the box is empty")
        return Row(cells["person"], box=Box(left, top, right, bottom))
    return Row(cells["person"])


def _add(rows: list[Row], row: Row, name: str, where: str) -> None:
    for have in rows:
        if (have.face, have.box) == (row.face, row.box):
            raise _wrong(where, f"this face of {name} stands twice")
        if None in ((have.face or have.box), (row.face or row.box)):
            raise _wrong(where, f"{name} has several rows, and one does not say which face it is")
    rows.append(row)


def _check_names(rows: Mapping[str, Any], photos: Sequence[Input]) -> None:
    count = Counter(item.name for item in photos)
    unknown = sorted(name for name in rows if not count[name])
    if unknown:
        raise UsageError(
            f"--persons names {count_of(len(unknown), 'photo')} not among the inputs, such as {unknown[0]}",
            hint="names are relative to the input folder, as `moretta detect --json` writes them",
        )
    for name in rows:
        if count[name] > 1:
            raise UsageError(
                f"--persons names {name}, and {count[name]} inputs have that name",
                hint="give the inputs in separate runs",
            )


def _by_folder(photos: Sequence[Input]) -> dict[str, tuple[Row, ...]]:
    rows: dict[str, tuple[Row, ...]] = {
        item.name: (Row(folder),) for item in photos if (folder := item.name.rpartition("/")[0])
    }
    if photos and not rows:
        raise UsageError(
            "--persons folders, and no photo lies in a folder that could name a person",
            hint="give the folder that holds one folder a person, not the photos themselves",
        )
    return rows


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--persons names {path}, which cannot be read: {error.strerror}",
            hint="folders, group, or the name of a CSV file; see docs/persons.md",
        ) from error


def _digest_of(photos: Sequence[Input]) -> str:
    """Return what tells whether the photos are those of the run's beginning: groups hang on all."""
    lines = []
    for item in photos:
        try:
            state = item.path.stat()
            lines.append((item.name, state.st_size, state.st_mtime_ns))
        except OSError:
            lines.append((item.name, -1, -1))
    return hashlib.sha256(json.dumps(sorted(lines)).encode()).hexdigest()


def _kept(path: Path, plan: Plan) -> int:
    try:
        line = json.loads(path.read_text(encoding="utf-8"))
        value, checked = int(line["secret"]), line["checked"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{path} is damaged", hint="start anew with --overwrite, or choose another folder"
        ) from error
    if checked != plan.checked:
        what = "photos" if plan.kind == "group" else "file of persons"
        raise ManifestError(
            f"the {what} changed since the run in {path.parent} was begun, so persons would get a "
            "second new face",
            hint="start anew with --overwrite, or choose another folder",
        )
    return value


def _wrong(where: str, what: str) -> UsageError:
    return UsageError(f"{where}: {what}", hint=HINT)
