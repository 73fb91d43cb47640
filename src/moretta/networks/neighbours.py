"""Synthetic faces on disk, and the search for those whose attributes are nearest. numpy alone.

A pool is a folder: `rows.npy` (n, slots, latent), `vectors.npy` (n, length) and `identities.npy`
(n, length), float32 memory maps, and `manifest.json`, which says what they were drawn with, how many
there are (`count`) and how many are drawn (`done`: fewer in an unfinished pool, more in one that was
stopped as it grew). Rows that are equal in every face are kept once: `slots` says which kept row each row of W+ is.

Promise   the same answer as comparing with every member; among equals the lowest number comes first.
          An approximate index answers only above APPROXIMATE members, and only where faiss is installed.
Not here  drawing the faces: weights/pools.py.
Sources   Barattin et al. 2023 (FALCO): nearest neighbour among 60,000 in FaRL's space.
Checked   tests/networks/test_neighbours.py.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from moretta.errors import PoolRejected, count_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Whole = npt.NDArray[np.int64]

MANIFEST = "manifest.json"
ARRAYS = ("rows", "vectors", "identities")
SCHEMA = 1
SEED, TRUNCATION = 1, 0.7  # the prior's draw: Barattin et al. 2023 draw 60,000 at truncation 0.7
APPROXIMATE = 500_000  # members from which an approximate index pays
Metric = Literal["cosine", "euclidean"]

SAME_DIGITS = 9  # decimals of a cosine or a distance, beyond which none is nearer than another

_BLOCK = 20_000  # members compared at once


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """A finished pool. Arrays are read-only maps of files."""

    folder: Path
    rows: Floats  # (n, slots, latent)
    vectors: Floats  # (n, length)
    identities: Floats  # (n, length), unit vectors
    slots: Whole  # (rows of W+,), places in the second axis of `rows`
    about: Mapping[str, Any]  # the manifest

    def __len__(self) -> int:
        return len(self.vectors)

    def latents(self, members: Whole) -> Floats:
        """Return members' rows of W+: (k,) -> (k, rows, latent)."""
        latents: Floats = np.asarray(self.rows[members])[:, self.slots]
        return latents

    def nearest(self, wanted: Floats, count: int, metric: Metric = "cosine") -> Whole:
        """Return the `count` members nearest to each of (k, length), nearest first: (k, count).

        Raises ValueError for more than there are, and for vectors that are not finite.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"{count} neighbours in a pool of {len(self)}")
        if not np.isfinite(wanted).all():
            raise ValueError("features that are not finite")
        if len(self) >= APPROXIMATE and find_spec("faiss"):
            return approximately(self.vectors, wanted, count, metric)
        return exactly(self.vectors, wanted, count, metric)


def exactly(members: Floats, wanted: Floats, count: int, metric: Metric) -> Whole:
    """Compare with every member, a block at a time -> (k, count), nearest first, ties by number.

    What differs by less than the last of SAME_DIGITS is a tie: some processors multiply equal rows to unequal last digits.
    """
    best = np.zeros((len(wanted), 0))
    places = np.zeros((len(wanted), 0), np.int64)
    asked = _unit(wanted) if metric == "cosine" else wanted.astype(np.float64)
    for start in range(0, len(members), _BLOCK):
        block = np.asarray(members[start : start + _BLOCK])
        if metric == "cosine":
            near = asked @ _unit(block).T
        else:
            block = block.astype(np.float64)
            near = 2 * asked @ block.T - (block**2).sum(1)
        best = np.concatenate([best, np.round(near, SAME_DIGITS)], 1)
        numbers = np.arange(start, start + len(block))
        places = np.concatenate([places, np.broadcast_to(numbers, near.shape)], 1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :count]
        best = np.take_along_axis(best, order, 1)
        places = np.take_along_axis(places, order, 1)
    return places


def approximately(members: Floats, wanted: Floats, count: int, metric: Metric) -> Whole:
    """Answer by a graph of neighbours (HNSW of faiss); built anew for each call on these members."""
    import faiss

    data = _unit(members) if metric == "cosine" else np.asarray(members)
    asked = _unit(wanted) if metric == "cosine" else wanted
    key = (id(members), metric)
    if _index.get("key") != key:
        made = faiss.IndexHNSWFlat(data.shape[1], 32)
        made.add(np.ascontiguousarray(data, np.float32))
        _index.update(key=key, index=made)
    index: Any = _index["index"]
    index.hnsw.efSearch = max(64, 4 * count)
    found: Whole = index.search(np.ascontiguousarray(asked, np.float32), count)[1]
    return found


_index: dict[str, Any] = {}


def _unit(vectors: Floats) -> npt.NDArray[np.float64]:
    exact = np.asarray(vectors, np.float64)
    unit: npt.NDArray[np.float64] = exact / np.maximum(
        np.linalg.norm(exact, axis=1, keepdims=True), 1e-12
    )
    return unit


# ---- files -----------------------------------------------------------------------------------


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what a pool says about itself. Raises PoolRejected when that cannot be read."""
    try:
        about = json.loads((folder / MANIFEST).read_text("utf-8"))
        whole = about["schema"] == SCHEMA and all(
            isinstance(about[key], int) for key in ("count", "done")
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoolRejected(
            f"{folder} is no pool: {MANIFEST} cannot be read",
            hint="moretta pool build makes one",
        ) from error
    if not whole:
        raise PoolRejected(
            f"{folder} is a pool of another version of Moretta", hint="build it anew elsewhere"
        )
    found: dict[str, Any] = about
    return found


def opened(folder: Path, made_with: Mapping[str, str]) -> Faces:
    """Open a finished pool. Raises PoolRejected when it is not whole, or was drawn with other networks.

    made_with: name -> sha256 of the networks that will use it; the pool must have been made with them.
    """
    about = read_manifest(folder)
    for name, digest in made_with.items():
        theirs = about.get("networks", {}).get(name)
        if theirs != digest:
            said = f"{theirs[:12]} of {name}" if isinstance(theirs, str) else f"no {name}"
            raise PoolRejected(
                f"the pool {folder} was drawn with {said}, this is {digest[:12]}",
                hint="faces of other networks do not fit: moretta pool build draws a new pool",
            )
    if about["done"] < about["count"]:
        raise PoolRejected(
            f"the pool {folder} is unfinished: {about['done']} of "
            f"{count_of(about['count'], 'face')}",
            hint=f"{command(about['count'], about, folder)} goes on with it",
        )
    try:
        rows, vectors, identities = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS
        )
        slots = np.array(about["slots"], np.int64)
        count = about["count"]  # arrays may be longer: a build that would have gone further stopped
        rows, vectors, identities = rows[:count], vectors[:count], identities[:count]
        sound = len(rows) == len(vectors) == len(identities) == count > 0
        sound &= slots.ndim == 1 and slots.min() >= 0 and slots.max() < rows.shape[1]
    except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
        raise damaged(folder) from error
    if not sound:
        raise damaged(folder)
    return Faces(folder, rows, vectors, identities, slots, about)


def command(count: int, about: Mapping[str, Any], folder: Path | None = None) -> str:
    """Return the command that draws `count` faces of this pool. folder: None for the usual one.

    >>> command(96, {"networks": {"farl": "0"}, "seed": 3}, Path("my pool"))
    "moretta pool build --count 96 --features farl --seed 3 --output 'my pool'"
    """
    words = ["moretta", "pool", "build", "--count", str(count)]
    if "farl" in about.get("networks", {}):
        words += ["--features", "farl"]
    for name, usual in (("seed", SEED), ("truncation", TRUNCATION)):
        if about.get(name, usual) != usual:
            words += [f"--{name}", str(about[name])]
    if folder is not None:
        words += ["--output", str(folder)]
    return shlex.join(words)


def damaged(folder: Path) -> PoolRejected:
    """Return what is raised for a pool whose files are not what its manifest says."""
    return PoolRejected(
        f"the pool {folder} is damaged", hint="remove it; moretta pool build draws it again"
    )
