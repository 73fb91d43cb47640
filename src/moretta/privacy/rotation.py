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
#: Correlation between a number along a kept direction before and after: 1.7 bits a direction.
KEPT_AS_IS = 0.95
_BY_KEY = (1 - KEPT_AS_IS**2) ** 0.5
_LABEL, _MATCHED = b"ifadit/rot/v1", b"ifadit/match/v1"


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

    kept: (k, length) orthonormal rows along which a vector stays roughly as it is: see `matched`.
    """
    return _checked(vectors) @ _turn(seed, vectors, kept).T


def rotate_back(
    seed: bytes, vectors: npt.NDArray[np.floating[Any]], *, kept: Vectors | None = None
) -> Vectors:
    """Undo `rotate` with the same seed and `kept`."""
    return _checked(vectors) @ _turn(seed, vectors, kept)


def matched(seed: bytes, kept: Vectors) -> Matrix:
    """Return a rotation that leaves vectors roughly as they are along `kept`: (length, length).

    With T the kept directions and their complement turned by Haar rotations Q1 and Q2 of the seed, it
    is Q2 S Q1, where S turns each direction of T by the angle arccos(KEPT_AS_IS) into a direction of
    its own of the complement. So without the seed the number along each kept direction is
    KEPT_AS_IS * its own + sqrt(1 - KEPT_AS_IS^2) * the vector's number along a direction that is
    spread evenly over the complement, and nothing else can be told of the vector. For vectors spread
    evenly over the sphere that is a Gaussian channel in good approximation, of
    log2(1 / (1 - KEPT_AS_IS^2)) / 2 bits a direction.
    Raises ValueError when the rows of `kept` are not orthonormal, or more than fit.
    """
    k, length = len(kept), kept.shape[-1]
    basis = np.vstack([kept, complement(kept)])
    if 2 * k > length:
        raise ValueError(f"{k} of {length} directions cannot be kept")
    mixed, before, after = np.eye(length), np.eye(length), np.eye(length)
    one, two = np.arange(k), np.arange(k, 2 * k)
    mixed[one, one] = mixed[two, two] = KEPT_AS_IS
    mixed[one, two], mixed[two, one] = _BY_KEY, -_BY_KEY
    for turn, which in ((before, b"\1"), (after, b"\2")):
        own = hashlib.shake_256(_MATCHED + which + seed).digest(SEED_BYTES)
        turn[k:, k:] = rotation(own, length - k)
    whole: Matrix = basis.T @ after @ mixed @ before @ basis
    return whole


def complement(kept: Vectors) -> Vectors:
    """Return orthonormal rows (length - k, length) of all that is at right angles to `kept`.

    They come from Householder reflections of the rows in their order, so that the same `kept` gives
    the same rows on every machine to a few units of the last place.
    Raises ValueError when the rows of `kept` are not orthonormal.
    """
    k = len(kept)
    if not np.allclose(kept @ kept.T, np.eye(k), atol=1e-9):
        raise ValueError("the directions to keep are not orthonormal")
    q, _ = np.linalg.qr(kept.T, mode="complete")
    rows: Vectors = np.ascontiguousarray(q[:, k:].T)
    return rows


def _turn(seed: bytes, vectors: npt.NDArray[Any], kept: Vectors | None) -> Matrix:
    length = vectors.shape[-1]
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed of {len(seed)} bytes, not {SEED_BYTES}")
    if kept is None:
        return rotation(seed, length)
    if kept.ndim != 2 or kept.shape[1] != length:
        raise ValueError(f"directions of shape {kept.shape}, not (k, {length})")
    return matched(seed, kept)


def _checked(vectors: npt.NDArray[np.floating[Any]]) -> Vectors:
    x = np.asarray(vectors, np.float64)
    if x.ndim != 2:
        raise ValueError(f"vectors of shape {x.shape}, not (n, length)")
    return x
