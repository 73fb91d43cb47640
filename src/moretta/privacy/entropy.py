"""Randomness as an argument: the operating system's, or one that can be repeated and protects nobody."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


class Entropy:
    """The operating system's random source. numpy's generators can be predicted from their output."""

    secure = True

    def raw(self, count: int) -> bytes:
        """Return `count` random bytes."""
        return os.urandom(count)

    def uniform(self, *shape: int) -> Array:
        """Draw from (0, 1], multiples of 2^-53, from 64-bit words."""
        words = np.frombuffer(self.raw(8 * int(np.prod(shape))), np.uint64).reshape(shape)
        return ((words >> np.uint64(11)) + np.float64(1)) * 2.0**-53

    def normal(self, *shape: int) -> Array:
        """Draw from the standard normal law by Box and Muller's two uniforms for two normals."""
        count = int(np.prod(shape))
        half = -(-count // 2)
        radius = np.sqrt(-2 * np.log(self.uniform(half)))
        angle = 2 * np.pi * self.uniform(half)
        both: Array = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return both[:count].reshape(shape)

    def randbelow(self, bound: int) -> int:
        """Draw a whole number of any size from 0..bound - 1, exactly even, by rejection."""
        if bound < 1:
            raise ValueError(f"a number below {bound}")
        bits = (bound - 1).bit_length()
        count = -(-bits // 8)
        while True:
            drawn = int.from_bytes(self.raw(count), "big") >> (8 * count - bits)
            if drawn < bound:
                return drawn


class Predictable(Entropy):
    """Numbers that follow from a seed: whoever knows or guesses it takes the noise off again.

    For tests. Releases made with it say so, and their epsilon is infinite.
    """

    secure = False

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def raw(self, count: int) -> bytes:
        """Return `count` bytes that follow from the seed."""
        return self._generator.bytes(count)
