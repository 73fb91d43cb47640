"""Apparent age and gender, read from an identity: enough to choose a stand-in that fits.

Promise   probabilities, calibrated on people who did not train it (docs/networks.md).
Assumes   unit vectors of networks.identity; how people looked to those who labelled UTKFace.
Not here  a person's age or gender: a face does not hold them. No claim about anyone is made; a
          beard is kept off a child.
Source    trained by training/traits.py; the form is a perceptron with one hidden layer.
Checked   tests/networks/test_traits.py; tests/training/test_traits.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.networks.pool import BANDS, GENDERS, LENGTH, SEED, Match, random_identities

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

#: Names and shapes of its tensors; `width` is the number of hidden units.
TENSORS = (
    "traits.hidden.weight",
    "traits.hidden.bias",
    "traits.output.weight",
    "traits.output.bias",
)

_SAMPLE = 4096  # public identities over which a direction is averaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """How one face looks: the most probable band of age and gender, with their probabilities."""

    band: str  # one of BANDS
    gender: str  # one of GENDERS
    band_confidence: float
    gender_confidence: float


class TraitsHead:
    """Identities to probabilities; numpy alone, float64."""

    def __init__(self, hidden: tuple[Array, Array], output: tuple[Array, Array]) -> None:
        width = len(hidden[1])
        shapes = [each.shape for each in (*hidden, *output)]
        outputs = len(BANDS) + 1
        if shapes != [(width, LENGTH), (width,), (outputs, width), (outputs,)]:
            raise ValueError(f"a head of shapes {shapes}")
        self._hidden, self._output = hidden, output

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any]) -> TraitsHead:
        """Build it from `load.tensors("identity")`: entries named in TENSORS, others left alone.

        Raises KeyError and ValueError when entries are missing or have other shapes.
        """
        a, b, c, d = (np.asarray(tensors[name], dtype=np.float64) for name in TENSORS)
        return cls((a, b), (c, d))

    def probabilities(self, identities: npt.NDArray[np.floating[Any]]) -> tuple[Array, Array]:
        """(n, 48) unit vectors -> each band's probability (n, 5), and that of "female" (n,).

        Float64 throughout, so that labels of a pool do not hang on a machine's last bit.
        """
        x = np.asarray(identities, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != LENGTH:
            raise ValueError(f"identities of shape {x.shape}, not (n, {LENGTH})")
        # unit vectors have components near 1/7; the layers were trained on components near 1
        hidden = np.maximum(x * LENGTH**0.5 @ self._hidden[0].T + self._hidden[1], 0)
        logits = hidden @ self._output[0].T + self._output[1]
        bands = np.exp(logits[:, :-1] - logits[:, :-1].max(axis=1, keepdims=True))
        return bands / bands.sum(axis=1, keepdims=True), (1 + np.tanh(logits[:, -1] / 2)) / 2

    def directions(self, match: Match) -> Array:
        """Return where on the sphere the head looks for a trait: (k, 48) orthonormal rows.

        They are the head's mean gradients over public identities, made orthogonal in this order:
        "female" (match with gender), "child" and "senior" against the other bands (match with age).
        Two identities that agree along them look alike to the head in most cases, not in all.
        Raises ValueError for the match "none", which has no direction.
        """
        x = random_identities(_SAMPLE, SEED).astype(np.float64)
        active = (x * LENGTH**0.5 @ self._hidden[0].T + self._hidden[1] > 0).mean(0)
        gradients = (self._output[0] * active) @ self._hidden[0]
        bands = gradients[:-1] - gradients[:-1].mean(0)
        rows = [gradients[-1]] * ("gender" in match) + [bands[0], bands[-1]] * ("age" in match)
        if not rows:
            raise ValueError(f"match {match!r} has no direction")
        q, r = np.linalg.qr(np.stack(rows).T)
        directions: Array = np.ascontiguousarray((q * np.sign(np.diag(r))).T)
        return directions

    def read(self, identity: npt.NDArray[np.floating[Any]]) -> Traits:
        """One unit vector, (48,) -> how that face looks."""
        bands, female = self.probabilities(np.asarray(identity)[None])
        band, gender = int(bands[0].argmax()), int(female[0] >= 0.5)
        return Traits(
            band=BANDS[band],
            gender=GENDERS[gender],
            band_confidence=float(bands[0, band]),
            gender_confidence=float(female[0] if gender else 1 - female[0]),
        )
