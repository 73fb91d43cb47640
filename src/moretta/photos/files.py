"""Photos in files: read whole or refused, written whole or not at all.

Promise   `write_whole` leaves either the old file or the whole new one, and no remains.
Not here  what the bytes mean (decode.py, encode.py).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from moretta.errors import DiskFull, PhotoError
from moretta.photos import PART
from moretta.photos.decode import decode
from moretta.photos.encode import encode_photo
from moretta.photos.photo import EXTENSION, SUFFIXES, Metadata, Photo, sniff

__all__ = [
    "EXTENSION",
    "SUFFIXES",
    "Photo",
    "encode_photo",
    "read_photo",
    "sha256_of",
    "sniff",
    "whole_file",
    "write_whole",
]

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def read_photo(path: Path, *, metadata: Metadata = "none", max_pixels: int = 250_000_000) -> Photo:
    """Return the photo in `path`, upright.

    metadata: "none" converts to sRGB, "profile" keeps the colours and their profile.
    Raises PhotoError for everything that is not one whole picture of at most `max_pixels`.
    """
    data = _read_bytes(path, max_bytes=16 * max_pixels + (64 << 20))
    photo = decode(data, name=path.name, metadata=metadata, max_pixels=max_pixels)
    claimed = SUFFIXES.get(path.suffix.lower())
    if claimed is None or claimed == photo.format:
        return photo
    note = f"the name says {claimed.upper()}, the content is {photo.format.upper()}"
    return replace(photo, notes=(note, *photo.notes))


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal, in constant memory. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(
    path: Path,
    data: bytes,
    *,
    mtime: float | None = None,
    durable: bool = True,
    mode: int = 0o666,
) -> None:
    """Write `data` so that `path` holds all of it or is left as it was.

    mtime: seconds since 1970 to be stamped on the file, or None for now. durable: wait until the disk
    has it, so that a power cut cannot take it back; without, only the process's own death is survived.
    mode: permissions, before the umask.
    Raises DiskFull if there is no room, PhotoError for other faults of the disk.
    """
    with whole_file(path, mtime=mtime, durable=durable, mode=mode) as written:
        written.write(data)


@contextlib.contextmanager
def whole_file(
    path: Path,
    *,
    mtime: float | None = None,
    durable: bool = True,
    mode: int = 0o666,
    part_of: str = PART,
) -> Iterator[io.BufferedRandom]:
    """Yield a file to write and read; at the end `path` holds all of it, or is left as it was.

    part_of: how its name begins until then. Otherwise as `write_whole`; whatever else is raised inside passes on, and nothing remains.
    """
    part = path.with_name(f"{part_of}{secrets.token_hex(8)}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(part, flags, mode), "w+b") as written:
            yield written
            written.flush()
            if mtime is not None:
                os.utime(part, (mtime, mtime))
            if durable:
                os.fsync(written.fileno())
        part.replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as fault:
        _forget(part)
        raise _write_fault(path, fault) from fault
    except BaseException:
        _forget(part)
        raise


def _write_fault(path: Path, fault: OSError) -> PhotoError:
    words = fault.strerror or str(fault)
    if fault.errno in _FULL:
        return DiskFull(f"{path.name}: {words}", hint="make room, then go on with --resume")
    return PhotoError(
        f"{path.name} cannot be written: {words}", hint="is the folder there, and yours?"
    )


def _forget(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError:  # the fault that brought us here matters more
        return


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_bytes(path: Path, *, max_bytes: int) -> bytes:
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        if path.is_dir():
            raise PhotoError(f"{path.name}: is a folder", hint="name a photo")
        handle = os.open(path, flags)  # a pipe must not make us wait
        with os.fdopen(handle, "rb") as opened:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise PhotoError(f"{path.name}: is not a regular file", hint="name a photo")
            if about.st_size > max_bytes:
                raise PhotoError(
                    f"{path.name}: {about.st_size} bytes are too many for a photo",
                    hint="raise --max-pixels if it is one",
                )
            return opened.read()
    except FileNotFoundError as fault:
        raise PhotoError(f"{path.name}: no such file", hint="was it moved or deleted?") from fault
    except PermissionError as fault:
        raise PhotoError(f"{path.name}: may not be read", hint="check its permissions") from fault
    except OSError as fault:
        words = fault.strerror or str(fault)
        raise PhotoError(f"{path.name}: {words}", hint="check the disk") from fault
