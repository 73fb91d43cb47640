"""iFADIT's conditional coupling flow, done again as a baseline: never the product.

A chain of additive couplings takes an identity and a key to another identity, and back. The published
one is affine, uses hard permutations and leaves 32 of 512 numbers to no key (facts of iFADIT, D7);
here masks alternate, so that every number is moved twice or more.

Assumes   unit vectors of networks.identity. Directions only: the norm that the chain gives is dropped,
          so that the way back is exact only as far as training has kept the norm.
Not here  secrecy: it is smooth in its key, and a gradient finds a key from a pair
          (benchmarks/ifadit.py measures that). Rotation is what `ifadit` uses.
Sources   Yuan et al. 2025; Dinh et al. 2015, "NICE"; zuko.
Checked   tests/networks/test_flow.py.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from moretta.networks.pool import LENGTH

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

BLOCKS = 6
HIDDEN = (96, 96)
KEY = 48  # numbers of a key
_LABEL = b"ifadit/flow key/v1"


class Flow(nn.Module):
    """Identities (n, 48) and keys (n, 48) to identities (n, 48), unit vectors."""

    def __init__(self) -> None:
        super().__init__()
        import zuko

        self.chain = zuko.flows.NICE(LENGTH, KEY, transforms=BLOCKS, hidden_features=HIDDEN)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any]) -> Flow:
        """Build it from `load.tensors("flow")`, frozen, in eval mode.

        Raises RuntimeError when tensors are missing or have other shapes.
        """
        made = cls()
        made.load_state_dict(
            {key: torch.as_tensor(value).float() for key, value in tensors.items()}
        )
        return made.requires_grad_(False).eval()

    def raw(self, identities: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Return what the chain gives before its norm is dropped; components about 1."""
        moved: torch.Tensor = self.chain(keys).transform(identities * LENGTH**0.5)
        return moved

    def forward(self, identities: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Take identities to pseudonyms."""
        return functional.normalize(self.raw(identities, keys), dim=1)

    def back(self, pseudonyms: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Take pseudonyms to identities, with the norm that training has aimed at."""
        moved: torch.Tensor = self.chain(keys).transform.inv(pseudonyms * LENGTH**0.5)
        return functional.normalize(moved, dim=1)


def key_of(secret: bytes, *, cone: bool = False) -> npt.NDArray[np.float32]:
    """Return the key of a secret, (48,) float32 with a mean square of 1.

    cone: as the published code draws them, evenly from 0.5 to 1, so that all keys look alike
    (facts of iFADIT, 1.7, D6); otherwise normal, as ours are trained.
    """
    stream = hashlib.shake_256(_LABEL + secret).digest(32)
    rng = np.random.default_rng(int.from_bytes(stream, "big"))
    key = rng.uniform(0.5, 1.0, KEY) if cone else rng.standard_normal(KEY)
    scaled: npt.NDArray[np.float32] = (key / np.sqrt((key**2).mean())).astype(np.float32)
    return scaled
