"""Public synthetic identities: nobody's vectors, drawn from a fixed seed. numpy alone, no torch.

Promise   the same vectors on every machine, from nothing but a seed.
Checked   tests/networks/test_pool.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Identities = npt.NDArray[np.float32]  # (n, 48), unit vectors

LENGTH = 48  # numbers of an identity: see networks.identity

_GRID = 2**20  # vectors are rounded to this, so that no machine's last bit shows


def random_identities(count: int, seed: int, length: int = LENGTH) -> Identities:
    """Draw `count` identities uniformly on the unit sphere -> (count, length) float32.

    The first rows of a larger draw are a smaller draw. Components are multiples of 2^-20, so
    norms are 1 within 2e-6 and the bits do not depend on how a machine adds up.

    >>> bool((random_identities(2, 7) == random_identities(5, 7)[:2]).all())
    True
    """
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal((count, length))
    unit = normal / np.sqrt((normal**2).sum(axis=1, keepdims=True))
    rounded: Identities = (np.rint(unit * _GRID) / _GRID).astype(np.float32)
    return rounded
