"""Recognisers that measure, and the cache of their vectors.

A vector is kept under the hash of exactly what the network saw: the crop's bytes and shape, the
network's own hash, and whether the mirror image was added. Never under a path or a time.
Vectors are kept before normalisation: their length says how sure the network was.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from moretta.errors import WeightsRejected
from moretta.faces.recognise import KNOWN, Recogniser
from moretta.photos.files import write_whole
from moretta.weights import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from moretta.records import Pixels

    Floats = npt.NDArray[np.float64]

RECOGNISERS = ("sface", "facenet", "dlib")
BATCH = 16


class Embedder(Protocol):
    """A recogniser: crops on its own template in, vectors out."""

    name: str
    template: str
    side: int
    sha256: str

    def raw(self, crops: Pixels) -> npt.NDArray[np.float32]:
        """(n, side, side, 3) RGB 0..255 -> (n, length), not normalised."""
        ...


@dataclass(slots=True)
class _Onnx:
    name: str
    template: str
    side: int
    sha256: str
    network: Recogniser

    def raw(self, crops: Pixels) -> npt.NDArray[np.float32]:
        return self.network.raw(crops)


@dataclass(slots=True)
class _Dlib:
    name: str
    template: str
    side: int
    sha256: str
    network: Any

    def raw(self, crops: Pixels) -> npt.NDArray[np.float32]:
        import torch

        chips = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).float()
        with torch.inference_mode():
            vectors: npt.NDArray[np.float32] = self.network.embed(chips).numpy()
        return vectors

    def stages(self, crops: Pixels) -> Floats:
        """Return the means over positions of three stages, side by side: (n, 224), for KID."""
        import torch

        rows = []
        for start in range(0, len(crops), BATCH):
            part = np.ascontiguousarray(crops[start : start + BATCH].transpose(0, 3, 1, 2))
            with torch.inference_mode():
                _, maps = self.network.embed(torch.from_numpy(part).float(), features=True)
            rows.append(np.hstack([each.mean((2, 3)).numpy() for each in maps]))
        return np.concatenate(rows).astype(np.float64) if rows else np.zeros((0, 224))


def embedder(name: str, *, threads: int = 1, device: str = "cpu") -> Embedder:
    """Return a recogniser by its name in the catalogue.

    Raises WeightsRejected when its file, or torch for dlib's network, is not there.
    """
    sha256 = load.entry(name).sha256
    if name != "dlib":
        wanted = KNOWN[name]
        network = Recogniser(name, threads=threads, device=device)
        return _Onnx(name, wanted.template, wanted.side, sha256, network)
    try:
        from moretta.networks.recogniser import CHIP_SIDE, DlibResNet
    except ImportError as error:
        raise WeightsRejected(
            "dlib's network needs torch", hint='pip install "moretta[generative]"'
        ) from error
    return _Dlib(name, "dlib", CHIP_SIDE, sha256, DlibResNet.from_tensors(load.tensors("dlib")))


def unit(vectors: npt.NDArray[Any]) -> Floats:
    """Return the rows at length 1, in float64; a row of zeros stays one."""
    exact = np.asarray(vectors, np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    rows: Floats = exact / np.maximum(length, 1e-12)
    return rows


class Cache:
    """Arrays of float32 under content hashes, one file a kind; written whole or not at all.

    folder: None keeps everything in memory only. A file that cannot be read is made anew, and named
    in `damaged`.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._shards: dict[str, dict[bytes, npt.NDArray[np.float32]]] = {}
        self._fresh: set[str] = set()
        self.damaged: list[str] = []

    def get(self, kind: str, keys: Sequence[bytes]) -> list[npt.NDArray[np.float32] | None]:
        """Return what is kept under each key."""
        shard = self._shard(kind)
        return [shard.get(key) for key in keys]

    def put(self, kind: str, key: bytes, value: npt.NDArray[Any]) -> None:
        """Keep one array."""
        self._shard(kind)[key] = np.asarray(value, np.float32)
        self._fresh.add(kind)

    def save(self) -> None:
        """Write every kind that grew."""
        if self._folder is not None and self._fresh:
            self._folder.mkdir(parents=True, exist_ok=True)
            for kind in sorted(self._fresh):
                write_whole(self._folder / f"{kind}.npz", _packed(self._shards[kind]))
        self._fresh.clear()

    def _shard(self, kind: str) -> dict[bytes, npt.NDArray[np.float32]]:
        if kind not in self._shards:
            self._shards[kind] = self._read(kind)
        return self._shards[kind]

    def _read(self, kind: str) -> dict[bytes, npt.NDArray[np.float32]]:
        path = self._folder / f"{kind}.npz" if self._folder else None
        if path is None or not path.exists():
            return {}
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                keys, sizes, values = stored["keys"], stored["sizes"], stored["values"]
                digest = stored["digest"].tobytes()
            if _digest(keys, sizes, values) != digest or sizes.sum() != len(values):
                raise ValueError("its own hash does not fit")  # noqa: TRY301
            parts = np.split(values, np.cumsum(sizes)[:-1]) if len(sizes) else []
            return {key.tobytes(): part for key, part in zip(keys, parts, strict=True)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            self.damaged.append(path.name)
            return {}


def _packed(shard: dict[bytes, npt.NDArray[np.float32]]) -> bytes:
    order = sorted(shard)
    keys = np.frombuffer(b"".join(order), np.uint8).reshape(-1, 32)
    sizes = np.array([shard[key].size for key in order], np.int64)
    values = np.concatenate([shard[key].ravel() for key in order])
    file = io.BytesIO()
    digest = np.frombuffer(_digest(keys, sizes, values), np.uint8)
    np.savez(file, keys=keys, sizes=sizes, values=values, digest=digest)
    return file.getvalue()


def _digest(*arrays: npt.NDArray[Any]) -> bytes:
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.digest()


def vectors(
    network: Embedder, crops: Pixels, *, cache: Cache | None = None, flip: bool = False
) -> Floats:
    """Return one unit vector a crop, (n, length) float64; with `flip`, of the picture and its mirror.

    crops: (n, side, side, 3) RGB on the network's template.
    """
    kept = cache if cache is not None else Cache(None)
    kind = f"{network.name}-{network.sha256[:12]}{'-flip' if flip else ''}"
    keys = [hashlib.sha256(crop.tobytes() + repr(crop.shape).encode()).digest() for crop in crops]
    have = kept.get(kind, keys)
    missing = [i for i, value in enumerate(have) if value is None]
    first: dict[bytes, int] = {}
    for i in missing:
        first.setdefault(keys[i], i)
    todo = list(first.values())
    for start in range(0, len(todo), BATCH):
        chosen = todo[start : start + BATCH]
        made = network.raw(crops[chosen])
        if flip:
            made = made + network.raw(np.ascontiguousarray(crops[chosen][:, :, ::-1]))
        for i, row in zip(chosen, made, strict=True):
            kept.put(kind, keys[i], row)
    rows = [row for row in kept.get(kind, keys) if row is not None]
    return unit(np.stack(rows)) if rows else np.zeros((0, 1))
