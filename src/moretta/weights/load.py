"""The one door for weights: find a network's file, check it, open it.

Promise   a file opened by name is byte for byte the one in catalogue.toml; the bytes that were
          checked are the bytes that are used; nothing is fetched and nothing in a file is run.
Looked in the folder in the variable MORETTA_WEIGHTS, then the package, then the user's cache. The
          first file found counts: an altered one is refused, not passed over.
Not here  making the files: convert.py.
Checked   tests/weights/test_load.py.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from moretta.errors import DeviceError, WeightsRejected, count_of, nearest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnxruntime

FOLDER_VARIABLE = "MORETTA_WEIGHTS"

_DEVICES = ["cpu", "cuda", "auto"]
_MOST_HEADER = 4 << 20  # bytes of a safetensors header; 5,000 tensors need about 0.5 MiB
_MOST_TENSORS = 20_000
_MOST_NESTED = 16  # graphs within graphs in an ONNX file


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One network of catalogue.toml, whose head explains the fields."""

    name: str
    file: str
    sha256: str
    bytes: int
    licence: str
    used_for: Literal["detector", "judge", "loss", "method", "evaluation"]
    conversion: str
    origin: Mapping[str, Any]
    input: Mapping[str, Any] = field(default_factory=dict)
    session: Mapping[str, str] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    ships: bool = True


@functools.cache
def catalogue() -> Mapping[str, Entry]:
    """Return every network by name."""
    text = resources.files("moretta.weights").joinpath("catalogue.toml").read_text("utf-8")
    entries = {name: Entry(name=name, **table) for name, table in tomllib.loads(text).items()}
    return MappingProxyType(entries)


def entry(name: str) -> Entry:
    """Return one network's entry; an unknown name is refused with what was probably meant."""
    if name not in catalogue():
        raise WeightsRejected(f"no network {name}", hint=nearest(name, sorted(catalogue())))
    return catalogue()[name]


def locate(name: str) -> Path:
    """Return where the network's file lies. It is checked on first use and whenever it changed."""
    wanted = entry(name)
    path = _found(wanted)
    try:
        now = path.stat()
        _check_file(wanted.name, path, now.st_mtime_ns, now.st_size)
    except OSError as error:
        raise _unreadable(path, error) from error
    return path


def present(name: str) -> bool:
    """Whether a file of the network's name lies in one of the folders; it is not checked here."""
    wanted = entry(name)
    return any((folder / wanted.file).exists() for folder in folders())


def sha256(name_or_path: str | Path) -> str:
    """Return a file's sha256: the catalogue's for a name, counted for a path."""
    if isinstance(name_or_path, Path):
        return hashlib.sha256(_read(name_or_path)).hexdigest()
    return entry(name_or_path).sha256


def read_bytes(name: str) -> bytes:
    """Return the network's file; exactly these bytes were checked."""
    wanted = entry(name)
    path = _found(wanted)
    content = _read(path)
    _check(wanted, path, content)
    return content


def verify() -> list[tuple[Entry, bool, str]]:
    """Check every file afresh: its entry, whether it is in order, and if not, why.

    A network that does not ship is checked where somebody has put it, and otherwise left out.
    """
    checked = []
    for wanted in catalogue().values():
        if not present(wanted.name) and not wanted.ships:
            continue
        try:
            read_bytes(wanted.name)
        except WeightsRejected as error:
            checked.append((wanted, False, error.fault))
        else:
            checked.append((wanted, True, ""))
    return checked


def open_onnx(
    name_or_path: str | Path, *, device: str = "cpu", threads: int = 1
) -> onnxruntime.InferenceSession:
    """Open a network of the catalogue by its name (str), or a user's own by its Path.

    device: "cpu", "cuda" (refused when it is not really there) or "auto".
    A network for photos of any size hands its memory back after each run: 200 photos of up to
    2,880 px leave CenterFace at 0.2 GB instead of 1.9, for a third more time at those sizes.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # moretta says so too, but may be imported later
    content, label = _content(name_or_path)
    if _has_external_data(content, label):
        raise WeightsRejected(
            f"{label}: it refers to weights in other files",
            hint="save the network as one file: onnx.save(model, path)",
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # it would keep a plan for every size it meets
    if isinstance(name_or_path, str):
        for key, value in entry(name_or_path).session.items():
            options.add_session_config_entry(key, value)
    session = _session(content, label, options, device)
    if any(not isinstance(length, int) for length in session.get_inputs()[0].shape[1:]):
        shrinking = onnxruntime.RunOptions()
        shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        session.run = functools.partial(session.run, run_options=shrinking)
    return session


def tensors(name_or_path: str | Path) -> dict[str, npt.NDArray[np.generic]]:
    """Return the arrays of a safetensors file of the catalogue (str), or a user's own (Path)."""
    return described_tensors(name_or_path)[0]


def metadata(name_or_path: str | Path) -> dict[str, str]:
    """Return what a safetensors file says about itself: the words in its header."""
    content, label = _content(name_or_path)
    return _words(content, label)


def described_tensors(
    name_or_path: str | Path,
) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, str]]:
    """Return `tensors` and `metadata` of a file that is read and checked once."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content, label = _content(name_or_path)
    words = _words(content, label)
    try:
        return dict(load(content)), words
    except (SafetensorError, KeyError, TypeError, ValueError) as error:  # bounds, overlaps, types
        raise _damaged(label, str(error)) from error


def _words(content: bytes, label: str) -> dict[str, str]:
    _check_header(content, label)
    length = int.from_bytes(content[:8], "little")
    said = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    if not isinstance(said, dict):
        raise _damaged(label, "its header describes it in another form")
    return {str(key): str(value) for key, value in said.items()}


# ---- finding and checking --------------------------------------------------------------------


def folders() -> list[Path]:
    """Return the folders that are searched, in order."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    first = [Path(chosen).expanduser()] if chosen else []
    return [*first, _bundled(), cache() / "moretta" / "weights"]


def _bundled() -> Path:
    return Path(__file__).parent / "bundled"


def cache() -> Path:
    """Return the folder for what can be made again, of this user and every program."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local")).expanduser()
    if sys.platform == "darwin":
        return Path("~/Library/Caches").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _found(wanted: Entry) -> Path:
    for folder in folders():
        if (path := folder / wanted.file).exists():
            return path
    made = (
        f"from {wanted.origin['package']} by python -m moretta.weights.convert {wanted.name}"
        if "package" in wanted.origin
        else f"by {wanted.conversion.partition(':')[0]}"  # a recipe of ours
    )
    raise WeightsRejected(
        f"{wanted.file} is missing",
        hint=f"put it into {folders()[-1]} or a folder named by {FOLDER_VARIABLE}; it is made {made}",
    )


@functools.lru_cache(maxsize=256)
def _check_file(name: str, path: Path, changed_ns: int, size: int) -> None:
    _check(entry(name), path, _read(path))


def _check(wanted: Entry, path: Path, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != wanted.sha256:
        sizes = f"{len(content):,} of {count_of(wanted.bytes, 'byte')}"
        raise WeightsRejected(
            f"{path.name}: sha256 begins {found[:12]}, the catalogue says {wanted.sha256[:12]}"
            + (f" ({sizes})" if len(content) != wanted.bytes else ""),
            hint=f"remove {path} and install moretta again",
        )


def _content(name_or_path: str | Path) -> tuple[bytes, str]:
    if isinstance(name_or_path, Path):
        return _read(name_or_path), name_or_path.name
    return read_bytes(name_or_path), entry(name_or_path).file


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> WeightsRejected:
    return WeightsRejected(
        f"{path.name}: {error.strerror or error}", hint=f"check that {path} is a readable file"
    )


def _damaged(label: str, what: str) -> WeightsRejected:
    return WeightsRejected(
        f"{label}: {what}", hint="the file is another, or damaged: get or convert it again"
    )


# ---- safetensors -----------------------------------------------------------------------------


def _check_header(content: bytes, label: str) -> None:
    """Refuse headers that are made to be costly; the library checks each tensor's bounds."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise _damaged(
            label, f"no safetensors file, or cut short ({count_of(len(content), 'byte')})"
        )
    if length > _MOST_HEADER:
        raise _damaged(label, f"no safetensors file, or a header of {count_of(length, 'byte')}")
    try:
        header = json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise _damaged(label, "no safetensors file: its header is not JSON") from error
    if not isinstance(header, dict) or len(header) > _MOST_TENSORS:
        raise _damaged(label, "its header does not list tensors")


# ---- ONNX ------------------------------------------------------------------------------------

# Where tensors can stand in an ONNX file: message -> field number -> message (onnx.proto)
_ONNX: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor


def _has_external_data(content: bytes, label: str) -> bool:
    """Whether any tensor lies in another file, which onnxruntime would open wherever it points.

    Walks the protobuf itself: the package `onnx` is not needed to run networks.
    """
    if content[4:8] == b"ORTM":
        raise _damaged(label, "it is in onnxruntime's own format, which Moretta does not open")
    try:
        return _external(memoryview(content), "model", 0)
    except (IndexError, ValueError) as error:
        raise _damaged(label, "it is not an ONNX file") from error


def _external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _MOST_NESTED * 3:
        raise ValueError("graphs nested too deeply")
    for number, part in _fields(message):
        if kind == "tensor":
            if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and part != 0):
                return True
        elif number in _ONNX[kind]:
            if isinstance(part, int):
                raise ValueError("a number where a message belongs")
            if _external(part, _ONNX[kind][number], depth + 1):
                return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Each field's number with its bytes, or its value where it is a varint."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("an unknown kind of field")
        if length > len(message) - at:
            raise ValueError("a field beyond the end")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("an endless number")


def _session(
    content: bytes, label: str, options: onnxruntime.SessionOptions, device: str
) -> onnxruntime.InferenceSession:
    import onnxruntime

    if device not in _DEVICES:
        raise DeviceError(f"no device {device}", hint=nearest(device, _DEVICES))
    available = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    wants_cuda = device == "cuda" or (device == "auto" and available)
    if device == "cuda" and not available:
        raise _no_cuda("this onnxruntime was built without CUDA")
    providers = ["CUDAExecutionProvider"] if wants_cuda else []
    try:
        session = onnxruntime.InferenceSession(
            content, options, providers=[*providers, "CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's faults share no other base
        raise _damaged(label, f"onnxruntime refuses it: {error}") from error
    if device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise _no_cuda("onnxruntime fell back to the CPU")
    return session


def _no_cuda(why: str) -> DeviceError:
    return DeviceError(
        f"no CUDA device: {why}",
        hint="pip install 'moretta[gpu]' on a machine with an NVIDIA driver, or use device cpu",
    )
