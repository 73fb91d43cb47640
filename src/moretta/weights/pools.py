"""Pools of synthetic faces: where they lie, and drawing them. torch is imported when one is drawn.

Promise   a pool is a function of its networks, seed and truncation: the first faces of a larger one
          are a smaller one, and a build that was stopped, at any moment, goes on where it was; one
          that would have grown leaves the smaller pool in use. Nothing is deleted, and no folder that
          holds anything else is taken for a pool.
          A pool is used only where its identities are, to the bit, those of its seed: they are public
          then, and hang on nobody's photo.
Looked in the folder given, else the folder in the variable MORETTA_POOLS, else the user's cache.
Checked   tests/weights/test_pools.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.errors import PoolRejected, UsageError, count_of
from moretta.networks import neighbours, pool
from moretta.weights import backends, load

if TYPE_CHECKING:
    import numpy.typing as npt

    from moretta.networks.backend import ComposerBackend
    from moretta.networks.features import Features
    from moretta.networks.traits import TraitsHead

FOLDER_VARIABLE = "MORETTA_POOLS"
SMALL = 500  # faces of the pool that is made at first use
SEED, TRUNCATION = neighbours.SEED, neighbours.TRUNCATION
SAVED = 16  # faces between two savings: those that ComposerBackend.samples draws at once
ELSEWHERE = "choose another folder: --output of moretta pool build, or the variable MORETTA_POOLS"
FEWEST = 2  # of each kind that a choice is made among: one would be no choice

PART = f"{neighbours.MANIFEST}.part"

Listener = Callable[[int, int], None]  # faces done, of how many


def folder_for(networks: Mapping[str, str]) -> Path:
    """Return where the pool of these networks (name -> sha256) lies unless another is named."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    place = Path(chosen).expanduser() if chosen else load.cache() / "moretta" / "pools"
    key = json.dumps([sorted(networks.items()), SEED, TRUNCATION])
    return place / hashlib.sha256(key.encode()).hexdigest()[:16]


def build(
    folder: Path,
    count: int,
    backend: ComposerBackend,
    features: Features,
    networks: Mapping[str, str],
    *,
    seed: int = SEED,
    truncation: float = TRUNCATION,
    listener: Listener | None = None,
) -> neighbours.Faces:
    """Draw a pool of `count` faces into `folder`, or what it lacks; a larger one is left as it is.

    Raises UsageError when the folder holds a pool of other networks, seed or truncation, or cannot be
    written.
    """
    import torch

    if count < 1:
        raise UsageError(f"a pool of {count_of(count, 'face')}", hint="--count is at least 1")
    about = {
        "schema": neighbours.SCHEMA,
        "networks": dict(networks),
        "seed": seed,
        "truncation": truncation,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done, held = _begun(folder, about)
        if done >= count:
            if 0 < held < count:  # as many as asked for are there, of a growth that was stopped
                _note(folder, {**neighbours.read_manifest(folder), "count": count})
            return sound(neighbours.opened(folder, networks))
        if listener:
            listener(done, count)
        drawn = backend.samples(count, seed, truncation=truncation, start=done - done % SAVED)
        arrays: dict[str, npt.NDArray[np.float32]] = {}
        with torch.inference_mode():
            for start, end, (pictures, points, rows, identities, _) in drawn:
                seen = features.of(pictures, points).vectors
                if not arrays:
                    slots, kept = _slots(rows)
                    about |= {"count": held or count, "slots": slots}
                    if not (folder / neighbours.MANIFEST).exists():
                        _note(folder, {**about, "done": 0})  # first: it says whose files these are
                    shapes = ((len(kept), rows.shape[2]), seen.shape[1:], identities.shape[1:])
                    arrays = {
                        name: _mapped(folder / f"{name}.npy", (count, *shape), done)
                        for name, shape in zip(neighbours.ARRAYS, shapes, strict=True)
                    }
                for name, part in zip(
                    neighbours.ARRAYS, (rows[:, kept], seen, identities), strict=True
                ):
                    arrays[name][start:end] = part.cpu().numpy()
                if end % SAVED == 0 or end == count:
                    for each in arrays.values():
                        each.flush()  # type: ignore[attr-defined]
                    about["count"] = count if end == count else held or count
                    _note(folder, {**about, "done": end})
                if listener:
                    listener(end, count)
    except OSError as error:
        raise UsageError(
            f"the pool {folder} cannot be written: {error.strerror or error}",
            hint=ELSEWHERE,
        ) from error
    return sound(neighbours.opened(folder, networks))


def existing(named: str, networks: Mapping[str, str]) -> neighbours.Faces | None:
    """Open the pool in the folder `named`; or, for "", the usual one; None where `ready` would draw it."""
    if named:
        return sound(neighbours.opened(Path(named).expanduser(), networks))
    folder = folder_for(networks)
    if (folder / neighbours.MANIFEST).exists():
        about = neighbours.read_manifest(folder)
        if about["done"] >= min(
            about["count"], SMALL
        ):  # what is unfinished beyond SMALL is refused
            return sound(neighbours.opened(folder, networks))
    return None


def sound(found: neighbours.Faces) -> neighbours.Faces:
    """Return the pool. Raises PoolRejected where its identities are not those of its seed."""
    seed = found.about.get("seed")
    if (
        not isinstance(seed, int)
        or found.identities.ndim != 2
        or not np.array_equal(
            found.identities,
            pool.random_identities(len(found), seed, found.identities.shape[1]),
        )
    ):
        raise PoolRejected(
            f"the pool {found.folder} is damaged: its identities are not those of its seed",
            hint="remove it; moretta pool build draws it again",
        )
    return found


def ready(
    named: str,
    backend: ComposerBackend,
    features: Features,
    networks: Mapping[str, str],
    *,
    listener: Listener | None = None,
) -> neighbours.Faces:
    """Open the pool in the folder `named`; or, for "", the usual one, a small one made if need be."""
    found = existing(named, networks)
    if found is not None:
        return found
    return build(folder_for(networks), SMALL, backend, features, networks, listener=listener)


def told(named: str) -> dict[str, str]:
    """Return what records say of the pool in the folder `named`: its manifest's hash, and no path.

    The manifest holds the networks, the seed, the truncation and the number of faces: all that a pool
    hangs on. Growth that is not done has no part in it. Raises PoolRejected when it cannot be read.
    """
    if not named:
        return {}
    folder = Path(named).expanduser()
    about = neighbours.read_manifest(folder)
    content = _written({**about, "done": min(about["done"], about["count"])})
    return {"pool": f"sha256 {hashlib.sha256(content).hexdigest()[:16]}"}


def stand_ins(named: str, match: pool.Match = "none") -> tuple[pool.Pool, TraitsHead]:
    """Return the identities of the pool in the folder `named`, in memory, and the head that labels them.

    match: what a face chosen from it will have in common with the old one. Raises PoolRejected for what
    is no pool or no whole one, for a pool of another recogniser or backend, for identities that are not
    those of its seed, and for fewer than FEWEST of a kind that `match` asks for.
    """
    from moretta.networks.traits import TraitsHead

    folder = Path(named).expanduser()
    wanted = sorted(backends.NETWORKS, key=lambda name: name == backends.COMPOSER)  # that one last
    found = neighbours.opened(folder, {name: load.entry(name).sha256 for name in wanted})
    if found.identities.shape[1:] != (pool.LENGTH,):
        raise PoolRejected(
            f"the pool {folder} has identities of another recogniser: shape {found.identities.shape},"
            f" not (n, {pool.LENGTH})",
            hint="moretta pool build draws one for this recogniser",
        )
    sound(found)
    head = TraitsHead.from_tensors(load.tensors("identity"))
    made = pool.labelled(found.identities, head)
    few, kind = pool.fewest(made, match)
    if few < FEWEST:
        raise PoolRejected(
            f"the pool {folder} has {few} of {count_of(len(made), 'face')}"
            + (f" that look {kind}, and --match {match} needs {FEWEST}" if kind else ": no choice"),
            hint=f"a larger --count: {neighbours.command(4 * len(made), found.about, folder)}; rare kinds"
            " come with many faces",
        )
    return made, head


def _begun(folder: Path, about: Mapping[str, Any]) -> tuple[int, int]:
    """How many faces of this pool are in the folder, and how many of them are a finished pool.

    Raises UsageError for another pool, and for a folder that holds anything else.
    """
    if not (folder / neighbours.MANIFEST).exists():
        if not all(_stopped_in_note(path, about) for path in folder.iterdir()):
            raise UsageError(f"{folder} is not empty and holds no pool", hint=ELSEWHERE)
        return 0, 0
    found = neighbours.read_manifest(folder)
    for key, value in about.items():
        if found.get(key) != value:
            raise UsageError(f"{folder} holds a pool of other {key}", hint=ELSEWHERE)
    return found["done"], found["count"] if found["done"] >= found["count"] else 0


def _stopped_in_note(path: Path, about: Mapping[str, Any]) -> bool:
    """Whether this is what `_note` leaves behind when it is killed as it writes a first manifest."""
    if path.name != PART or not path.is_file() or path.is_symlink():
        return False
    begins = _written(about).removesuffix(b"\n}")
    found = path.read_bytes()[: len(begins)]
    return begins.startswith(found)


def _slots(rows: Any) -> tuple[list[int], list[int]]:
    """Which kept row each row is, and which rows are kept, when faces repeat rows (a code in W)."""
    slots: list[int] = []
    kept: list[int] = []
    for row in range(rows.shape[1]):
        same = [i for i, one in enumerate(kept) if bool((rows[:, one] == rows[:, row]).all())]
        if not same:
            kept.append(row)
        slots.append(same[0] if same else len(kept) - 1)
    return slots, kept


def _mapped(path: Path, shape: tuple[int, ...], done: int) -> npt.NDArray[np.float32]:
    """Open an array for writing, as large as asked, with what is done already in it."""
    new: npt.NDArray[np.float32]
    if not done:
        return np.lib.format.open_memmap(path, "w+", np.float32, shape)
    try:  # "r+" would lengthen a file that was cut
        old = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError) as error:
        raise neighbours.damaged(path.parent) from error
    if old.shape[1:] != shape[1:] or len(old) < done:
        raise neighbours.damaged(path.parent)
    if old.shape != shape:
        part = path.with_suffix(".part")
        new = np.lib.format.open_memmap(part, "w+", np.float32, shape)
        new[:done] = old[:done]
        new.flush()
        del new
        part.replace(path)
    new = np.load(path, mmap_mode="r+", allow_pickle=False)
    return new


def _note(folder: Path, about: Mapping[str, Any]) -> None:
    part = folder / PART
    part.write_bytes(_written(about))
    part.replace(folder / neighbours.MANIFEST)


def _written(about: Mapping[str, Any]) -> bytes:
    return json.dumps(about, indent=1).encode()
