"""The record of a run: one JSON line a photo, and one file with the run's settings.

Promise   a line is written only after the photo it speaks of stands whole in the folder, so a run
          killed at any byte can go on: what has a line is done, everything else is done again. After
          a power cut a line may be there and its photo not: the sizes are compared on resume.
Not here  input names that `--rename` hides, embeddings, hashes of inputs: a hash of the input is a
          linking key (whoever holds the original can confirm it) and stands in the internal record.
Format    docs/manifest.md; meanings are only ever added to.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from moretta.errors import DiskFull, ManifestError, PhotoError, UsageError, count_of
from moretta.photos import PART

if TYPE_CHECKING:
    from moretta.records import PhotoRecord

SCHEMA = 1
MANIFEST = "manifest.jsonl"
RUN = "run.json"
LOCK = ".moretta.lock"
SIDECAR = ".ifad"  # behind the name of a photo: its sealed original
NAMES = ".moretta-names.json"
PERSONS = ".moretta-persons.json"
FIXED_TIME = 315532800.0  # 1 January 1980: what --rename gives every file
#: Figures of methods that compare the new face with the old one.
BETWEEN = ("cosine", "target", "attribute distance", "dlib", "share")
OURS = (MANIFEST, RUN, LOCK, NAMES, PERSONS)
#: What lies in the place of a photo's sidecar: the one that its line names, nothing, what is no whole
#: sidecar, or the whole sidecar of something else.
Beside = Literal["whole", "missing", "cut", "other"]


def as_line(record: PhotoRecord) -> dict[str, Any]:
    """Return one photo's record as it stands in the manifest: JSON types only, infinity as "inf".

    A manifest is published. What was measured between the new face and the old one stays out of it:
    each such number is one linear equation for the old face's vector, and a few releases of one
    photo solve it (docs/threat-model.md). The record in memory has them.
    """
    line: dict[str, Any] = {"schema": SCHEMA, **asdict(record)}
    for face in line["faces"]:
        audit = face["audit"]
        covered = audit.get("covered", {})
        for part in (audit, covered):
            part.pop("cosine", None)
        if "redrawn" in audit:
            audit["redrawn"] = len(audit["redrawn"])
        for figures in (face["figures"], covered.get("figures", {})):
            for name in BETWEEN:
                figures.pop(name, None)
    return _plain(line)  # type: ignore[no-any-return]


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a folder's manifest; a torn last line is left out.

    Raises ManifestError when a line other than the last is damaged, or comes from a newer version.
    """
    path = folder / MANIFEST
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    lines = []
    for number, row in enumerate(whole.splitlines(), 1):
        try:
            line = json.loads(row)
            schema = line["schema"]
            line["name"], line["decision"]
            newer = schema > SCHEMA
        except (ValueError, TypeError, KeyError) as error:
            raise ManifestError(
                f"{path}: line {number} is damaged",
                hint="start again into a new folder",
            ) from error
        if newer:
            raise ManifestError(
                f"{path}: written by a newer version (schema {schema}, this one knows {SCHEMA})",
                hint="update moretta",
            )
        lines.append(line)
    return lines


class Manifest:
    """The manifest of one output folder, held open and locked while a run writes into it."""

    def __init__(
        self,
        folder: Path,
        *,
        done: Mapping[str, dict[str, Any]],
        foreign: Collection[str] = (),
        since: float | None = None,
        again: Collection[str] = (),
        bare: Collection[str] = (),
    ) -> None:
        self.folder = folder
        self.done = dict(done)
        self.again = frozenset(again)  # had a line, and their file or sidecar is not whole
        self.bare = frozenset(bare)  # done, and their sidecar was taken away since
        self.earlier = since is not None  # a run began here before, and this one goes on with it
        self._foreign = frozenset(foreign)
        self._since = since
        self._file = (folder / MANIFEST).open("ab", buffering=0)

    def append(self, record: PhotoRecord) -> None:
        """Write one photo's line; the operating system has it when this returns.

        Raises DiskFull; the torn line is taken back.
        """
        line = as_line(record)
        row = _row(line)
        start = self._file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(row)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise DiskFull(
                f"{self.folder / MANIFEST}: {error.strerror or error}",
                hint="free some room, then run the same command with --resume",
            ) from error
        self.done[record.name] = line

    def may_write(self, name: str) -> bool:
        """Whether an output of this name would replace nothing but what an earlier run left.

        A file without a line is ours if a run was killed between the two: then it is younger than
        the run, or has the one time that `--rename` gives. What failed has a line and no output, so a
        file of its name is somebody else's, and so is one that was edited since.
        """
        path = self.folder / name
        if not os.path.lexists(path):
            return True
        if self._since is None or name in self._foreign or not path.is_file():
            return False
        stamp = path.stat().st_mtime
        return stamp >= self._since or stamp == FIXED_TIME

    def others(self) -> int:
        """How many files lie in the folder that are not ours, as `may_write` tells them apart."""
        sealed = (name for name, line in self.done.items() if line.get("sidecar_sha256"))
        mine = {*self.done, *(name + SIDECAR for name in sealed)}
        return sum(
            name not in mine and not self.may_write(name) for name in not_of_a_run(self.folder)
        )

    def close(self) -> None:
        """Bring everything to the disk, the photos too, and let go of the file."""
        if hasattr(os, "sync"):
            os.sync()
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())
        with contextlib.suppress(OSError):
            self._file.close()


@contextlib.contextmanager
def opened(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool,
    beside: Callable[[Path, Mapping[str, Any]], Beside],
) -> Iterator[Manifest]:
    """Lock the folder, settle what an earlier run left, and yield the manifest to write to.

    resume: keep what has a line; settings must be the same. overwrite: remove what the earlier run
    published, then start anew. Neither, with an earlier run there: UsageError. beside: what lies in the
    place of the sidecar of a photo whose line names one.
    """
    make_folder(folder)
    with _locked(folder):
        earlier = (folder / MANIFEST).exists() or (folder / RUN).exists()
        lines = examined(folder, settings, resume=resume, overwrite=overwrite)
        since = _begun(folder) if earlier else None
        _sweep(folder)
        edited: set[str] = set()
        again: set[str] = set()
        bare: set[str] = set()
        if earlier:
            if overwrite:
                edited = _forget(folder, lines, beside)
            else:
                again, bare = _fallen(folder, lines, beside)
                lines = [line for line in lines if line["name"] not in again]
                _settle(folder, lines)
        if since is None or overwrite:
            _write_run(folder, settings)
        failed = {line["name"] for line in lines if line["decision"] == "failed"}
        kept = [] if overwrite else [line for line in lines if line["decision"] != "failed"]
        done = {line["name"]: line for line in kept}
        manifest = Manifest(
            folder, done=done, foreign=failed | edited, since=since, again=again, bare=bare
        )
        try:
            yield manifest
        finally:
            manifest.close()


def examined(
    folder: Path, settings: Mapping[str, Any], *, resume: bool, overwrite: bool
) -> list[dict[str, Any]]:
    """Return the lines of an earlier run in the folder; nothing is written. Arguments as of `opened`.

    Raises UsageError and ManifestError when `opened` would not go on with that run, or over it.
    """
    if not (resume or overwrite):
        refuse_earlier(folder)
    if not (folder / MANIFEST).exists() and not (folder / RUN).exists():
        return []
    _begun(folder)
    if not overwrite:
        _same_settings(folder, settings)
    return read_lines(folder)


def stands(folder: Path, line: Mapping[str, Any]) -> bool:
    """Whether a photo with this line is as done as the line says: published, it is there in its size."""
    if line["decision"] != "published":
        return True
    path = inside(folder, line["name"])
    size = path.stat().st_size if path.is_file() else -1
    return size >= 0 and size == line.get("output_bytes", size)


def refuse_earlier(folder: Path) -> None:
    """Raise UsageError when a run was begun in the folder, ManifestError when it is not ours."""
    if (folder / MANIFEST).exists() or (folder / RUN).exists():
        _begun(folder)
        raise UsageError(
            f"{folder} holds an earlier run",
            hint="--resume goes on with it, --overwrite starts anew, or choose another folder",
        )


def settings_of(folder: Path) -> dict[str, Any]:
    """Return what an earlier run in the folder was told. Raises ManifestError."""
    path = folder / RUN
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{path} is missing, damaged, or not ours", hint="choose another folder"
        ) from error


def not_of_a_run(folder: Path) -> Iterator[str]:
    """Yield the names, as a manifest has them, of all files below a folder but a run's own records."""
    for place, _, files in os.walk(folder):
        within = Path(place).relative_to(folder)
        for file in files:
            name = (within / file).as_posix()
            if name not in OURS and not file.startswith(PART):
                yield name


def inside(folder: Path, name: str) -> Path:
    """Return folder/name. Raises ManifestError if the name would lead out of the folder."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise ManifestError(
            f"{folder / MANIFEST}: the name {name!r} leads out of the folder",
            hint="this manifest was not written by moretta; choose another folder",
        )
    path = folder.joinpath(*pure.parts)
    if (
        folder.resolve() not in path.parent.resolve().parents
        and path.parent.resolve() != folder.resolve()
    ):
        raise PhotoError(
            "its place in the output folder is a link that leads out of it", hint="remove the link"
        )
    return path


def make_folder(folder: Path, *, hint: str = "choose another --output") -> None:
    """Make a folder to write to. Raises UsageError when its place is taken or out of reach."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}", hint=hint) from error


def check_place(folder: Path, *, hint: str = "choose another --output") -> None:
    """Raise UsageError where `make_folder` would, or where nothing could be written; make nothing."""
    above = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not above.is_dir():
        fault = errno.EEXIST if above == folder else errno.ENOTDIR
    elif not os.access(above, os.W_OK | os.X_OK):
        fault = errno.EACCES
    else:
        return
    what = "cannot be written to" if above == folder and above.is_dir() else "cannot be made"
    raise UsageError(f"{folder} {what}: {os.strerror(fault)}", hint=hint)


@contextlib.contextmanager
def folder_for(output: Path) -> Iterator[None]:
    """Make a folder, and take it back at the end, with those above it, if nothing was written into it.

    Raises UsageError as `make_folder`. A folder that was there stays.
    """
    made = [path for path in (output, *output.absolute().parents) if not path.exists()]
    make_folder(output)
    try:
        yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it holds something
                path.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system frees it when the process dies, however it dies."""
    file = _lock(folder)
    while file is None:
        file = _lock(folder)
    with file:
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def _lock(folder: Path) -> BinaryIO | None:
    """Return the locked file; None when a run that ended meanwhile took it away: nobody else sees it."""
    path = folder / LOCK
    try:
        file = path.open("ab")
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written to: {error.strerror}", hint="choose another --output"
        ) from error
    try:
        import fcntl
    except ImportError:  # Windows: no lock, one run at a time is the user's care
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
    except FileNotFoundError:
        pass
    except OSError as error:
        file.close()
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise UsageError(
            f"another run is writing into {folder}",
            hint="wait for it, or choose another folder",
        ) from error
    file.close()
    return None


def _sweep(folder: Path) -> None:
    """Remove half-written files that a killed run left behind."""
    for part in folder.rglob(PART + "*"):
        if not part.is_dir():
            part.unlink(missing_ok=True)


def _begun(folder: Path) -> float:
    """Return when the earlier run began. Raises ManifestError when the files are not a run's of ours."""
    try:
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
        run["schema"], run["settings"]
        return (folder / RUN).stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{folder / RUN} is missing, damaged, or not ours", hint="choose another folder"
        ) from error


def _forget(
    folder: Path,
    lines: Sequence[Mapping[str, Any]],
    beside: Callable[[Path, Mapping[str, Any]], Beside],
) -> set[str]:
    """Remove what an earlier run published here, so that nothing stays without a record.

    Returns the names of those that are not as they were published, and of sidecars of other photos or
    runs: somebody's work, left alone.
    """
    from moretta.photos.files import sha256_of

    edited = set()
    for line in lines:
        path = inside(folder, line["name"])
        if line["decision"] != "published" or not path.is_file():
            continue
        if sha256_of(path) == line["output_sha256"]:
            if line.get("sidecar_bytes"):
                found = beside(path, line)
                if found == "whole":
                    path.with_name(path.name + SIDECAR).unlink()
                elif found == "other":
                    edited.add(line["name"] + SIDECAR)
            path.unlink()
        else:
            edited.add(line["name"])
    for name in (MANIFEST, RUN, NAMES, PERSONS):
        (folder / name).unlink(missing_ok=True)
    return edited


def _same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    earlier = settings_of(folder)
    now = _plain(dict(settings))
    changed = sorted(k for k in {*earlier, *now} if earlier.get(k) != now.get(k))
    if changed:
        was = ", ".join(f"{k} was {earlier.get(k)!r}, is {now.get(k)!r}" for k in changed)
        raise ManifestError(
            f"{folder} was begun with other settings: {was}",
            hint="resume with the same settings, or start anew with --overwrite",
        )


def _write_run(folder: Path, settings: Mapping[str, Any]) -> None:
    from moretta.photos.files import write_whole

    text = json.dumps(
        {"schema": SCHEMA, "settings": _plain(dict(settings))}, indent=1, sort_keys=True
    )
    write_whole(folder / RUN, text.encode() + b"\n")


def _fallen(
    folder: Path,
    lines: Sequence[Mapping[str, Any]],
    beside: Callable[[Path, Mapping[str, Any]], Beside],
) -> tuple[set[str], set[str]]:
    """Return the names of photos that are not there whole any more, and of those without their sidecar.

    A power cut can take a file back that has a line. A sidecar that is gone was moved away, as
    docs/keys.md asks for: its photo may be published, and is not drawn a second time.
    Raises ManifestError where other photos' sidecars lie: doing these photos again would destroy them.
    """
    again, bare, others = set(), set(), []
    for line in lines:
        if line["decision"] != "published":
            continue
        name = line["name"]
        if not stands(folder, line):
            again.add(name)
        elif line.get("sidecar_bytes"):
            found = beside(inside(folder, name), line)
            if found == "missing":
                bare.add(name)
            elif found == "cut":
                again.add(name)
            elif found == "other":
                others.append(name + SIDECAR)
    if others:
        raise ManifestError(
            f"{folder}: {count_of(len(others), 'sidecar')} of other photos or runs, such as {others[0]}",
            hint="put them back beside their own photos, or move them away: these photos stay as they are",
        )
    return again, bare


def _settle(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Drop torn and failed lines from the file: they are done again."""
    from moretta.photos.files import write_whole

    rows = [_row(line) for line in lines if line["decision"] != "failed"]
    write_whole(folder / MANIFEST, b"".join(rows))


def _row(line: Mapping[str, Any]) -> bytes:
    """Return a line as UTF-8; a name that is no Unicode (bytes on the disk) as JSON escapes."""
    try:
        return json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(line, allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return round(value, 6) or float(f"{value:.3g}")  # what is small is not nothing
    return value
