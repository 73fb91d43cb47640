"""A7: was this face anonymised at all? Informational, unless a tool claims that nobody can tell.

Logistic regression on the recogniser's vector and on statistics of fine residuals, learnt on part T,
measured on part E. Both sides are encoded as the same JPEG first, or one would detect the codec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.evaluation.verification import area

if TYPE_CHECKING:
    import numpy.typing as npt

    from moretta.records import Pixels

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

QUALITY = 90
_LEVELS = 2  # residuals are clipped to -2..2
_RINGS = 12


def equalised(crops: Pixels) -> Pixels:
    """Return the crops after one JPEG of the same quality."""
    import cv2

    rows: Any = []
    for crop in crops:
        _, code = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        decoded: Any = cv2.imdecode(code, cv2.IMREAD_COLOR)
        rows.append(decoded[..., ::-1])
    even: Pixels = np.stack(rows)
    return even


def residual_features(crops: Pixels) -> Floats:
    """Return co-occurrences of clipped high-pass residuals, and energy by ring of the spectrum.

    crops: (n, side, side, 3). Returns (n, features).
    """
    grey = crops.astype(np.float64).mean(3)
    high = grey[:, 1:-1, 1:-1] * 4 - (
        grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    )
    level = np.clip(np.rint(high / 4), -_LEVELS, _LEVELS).astype(int) + _LEVELS
    base = 2 * _LEVELS + 1
    pairs = level[:, :, :-1] * base + level[:, :, 1:]
    together = np.stack([np.bincount(p.ravel(), minlength=base**2) for p in pairs])
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2(grey), axes=(1, 2))) ** 2
    side = grey.shape[1]
    y, x = np.mgrid[0:side, 0:side] - side // 2
    ring = np.minimum((np.hypot(x, y) / (side / 2) * _RINGS).astype(int), _RINGS - 1)
    energy = np.stack(
        [np.bincount(ring.ravel(), weights=s.ravel(), minlength=_RINGS) for s in spectrum]
    )
    features: Floats = np.hstack(
        [together / pairs[0].size, np.log(energy / np.bincount(ring.ravel()) + 1)]
    )
    return features


def told_apart(clear: Floats, anon: Floats, train: Ints, test: Ints) -> float:
    """Return the AUC on `test` of telling released faces from clear ones, learnt on `train`.

    clear, anon: (n, features) of the same faces.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(np.concatenate([clear[train], anon[train]]))
    model = LogisticRegression(C=0.1, max_iter=500)
    labels = np.repeat([0, 1], len(train))
    model.fit(scale.transform(np.concatenate([clear[train], anon[train]])), labels)
    return area(
        model.decision_function(scale.transform(anon[test])),
        model.decision_function(scale.transform(clear[test])),
    )
