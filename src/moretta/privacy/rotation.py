"""A rotation of the identity sphere from a 32-byte seed: iFADIT's pseudonym, and the way back.

Promise   from a seed that nobody knows a unit vector comes out spread evenly over the sphere, whatever
          it was (Haar); the seed turns it back to 1e-15. An error made in between is not enlarged.
Assumes   a fresh seed each face: a seed used again keeps every angle between its faces, and falls to
          about as many known pairs as the vectors are long (docs/ifadit.md).
Not here  where seeds come from (keys); what else a picture shows of a person. A rotation encrypts
          nothing but a direction.
Sources   facts of iFADIT 5.2; Mezzadri 2007, "How to generate random matrices from the classical
          compact groups" (QR with the signs of R's diagonal); FIPS 202 (SHAKE-256).
Checked   tests/privacy/test_rotation.py: published vector, Haar moments, every seed bit.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]  # (length, length)
    Vectors = npt.NDArray[np.float64]  # (n, length)

SEED_BYTES = 32
_LABEL = b"ifadit/rot/v1"


@functools.lru_cache(maxsize=64)
def rotation(seed: bytes, length: int) -> Matrix:
    """Return the Haar rotation (or reflection) of a seed: (length, length) float64, read-only.

    SHAKE-256 of label, length (u16, big-endian) and seed gives uniform numbers, Box-Muller makes them
    normal, QR with R's diagonal positive makes them orthogonal. Never write it anywhere: it is the key.
    Raises ValueError for a seed that is not 32 bytes, or a length outside 1..65,535.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed of {len(seed)} bytes, not {SEED_BYTES}")
    if not 1 <= length < 2**16:
        raise ValueError(f"a rotation in {length} dimensions")
    count = length * length
    drawn = count + count % 2  # normal numbers come in pairs
    stream = hashlib.shake_256(_LABEL + length.to_bytes(2, "big") + seed).digest(8 * drawn)
    whole = np.frombuffer(stream, ">u8") >> np.uint64(11)
    uniform = (whole.astype(np.float64) + 0.5) / 2.0**53
    radius, angle = np.sqrt(-2 * np.log(uniform[0::2])), 2 * np.pi * uniform[1::2]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]
    q, r = np.linalg.qr(normal.reshape(length, length))
    turned: Matrix = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    turned.flags.writeable = False
    return turned


def rotate(
    seed: bytes, vectors: npt.NDArray[np.floating[Any]], *, kept: Vectors | None = None
) -> Vectors:
    """Turn vectors (n, length) by the seed's rotation -> (n, length) float64 of the same lengths.

    kept: (k, length) orthonormal rows. What lies along them stays as it is, for all to read, and only
    the rest is turned, by the seed's rotation in length - k dimensions.
    """
    return _turned(seed, vectors, kept, back=False)


def rotate_back(
    seed: bytes, vectors: npt.NDArray[np.floating[Any]], *, kept: Vectors | None = None
) -> Vectors:
    """Undo `rotate` with the same seed and `kept`."""
    return _turned(seed, vectors, kept, back=True)


def _turned(
    seed: bytes, vectors: npt.NDArray[np.floating[Any]], kept: Vectors | None, *, back: bool
) -> Vectors:
    x = np.asarray(vectors, np.float64)
    if x.ndim != 2:
        raise ValueError(f"vectors of shape {x.shape}, not (n, length)")
    length = x.shape[1]
    if kept is None:
        turn = rotation(seed, length)
        return x @ (turn if back else turn.T)
    rest = complement(kept, length)
    turn = rotation(seed, len(rest))
    inside = x @ rest.T
    moved: Vectors = x + (inside @ (turn if back else turn.T) - inside) @ rest
    return moved


def complement(kept: Vectors, length: int) -> Vectors:
    """Return orthonormal rows (length - k, length) of all that is at right angles to `kept`.

    They come from Householder reflections of the rows in their order, so that the same `kept` gives
    the same rows on every machine to a few units of the last place.
    Raises ValueError when the rows of `kept` are not orthonormal.
    """
    k = len(kept)
    if kept.shape != (k, length) or not 0 < k < length:
        raise ValueError(f"directions of shape {kept.shape}, not (k, {length})")
    if not np.allclose(kept @ kept.T, np.eye(k), atol=1e-9):
        raise ValueError("the directions to keep are not orthonormal")
    q, _ = np.linalg.qr(kept.T, mode="complete")
    rows: Vectors = np.ascontiguousarray(q[:, k:].T)
    return rows
