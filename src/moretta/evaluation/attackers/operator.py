"""A3-op: blur undone by deconvolution, its width found on other people's photos.

Wiener's filter for Gaussian kernels of several widths and noise levels; the best on a few training
photos, by the squared error against their originals, is tried on the probes. So are runners-up
with other noise levels, because the best picture is not always the best known one, and
Richardson-Lucy at the best width, which keeps to positive pixels.
Sources  Wiener 1949; Richardson 1972, Lucy 1974.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Ints, cosine
from moretta.evaluation.attackers.restorer import ALIGNMENT, lazily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moretta.records import Pixels

WIDTHS = (0.012, 0.018, 0.026, 0.038, 0.055, 0.08, 0.11, 0.16, 0.22)  # sigma in sides of the crop
NOISE = (1e-4, 1e-3, 1e-2)
LEARNT_ON = 40  # photos
TRIED = 2  # settings that are given to the recogniser
STEPS = 30  # of Richardson-Lucy


def wiener(crops: Pixels, width: float, noise: float) -> Pixels:
    """Return the crops with a Gaussian blur undone; (n, side, side, 3).

    width: sigma in sides of the crop. The crop is mirrored at its edges, so that they do not ring.
    """
    return _filtered(_spectrum(crops), crops.shape[1], width, noise)


def _spectrum(crops: Pixels) -> Any:
    """(n, side, side, 3) -> (n, 3, 2 side, side + 1): of the crop between its mirror images."""
    from scipy.fft import rfft2

    pad = crops.shape[1] // 2
    flat = crops.transpose(0, 3, 1, 2).astype(np.float32)
    around = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    return rfft2(np.pad(flat, around, mode="symmetric"))


def _filtered(spectrum: Any, side: int, width: float, noise: float) -> Pixels:
    from scipy.fft import irfft2

    whole, pad = spectrum.shape[2], side // 2
    row, column = np.fft.fftfreq(whole)[:, None], np.fft.rfftfreq(whole)[None]
    response = np.exp(-2 * (np.pi * width * side) ** 2 * (row**2 + column**2))
    factor = (response / (response**2 + noise)).astype(np.float32)
    sharp = irfft2(spectrum * factor, s=(whole, whole))[..., pad : pad + side, pad : pad + side]
    inner: Pixels = np.clip(np.rint(sharp), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(inner)


def fitted(anon: Pixels, clear: Pixels) -> list[tuple[float, float, float]]:
    """Return (squared error in grey, width, noise) for every setting, best first."""
    found = []
    grey = clear.mean(3, keepdims=True)
    spectrum, side = _spectrum(anon.mean(3, keepdims=True)), anon.shape[1]
    for width in WIDTHS:
        for noise in NOISE:
            restored = _filtered(spectrum, side, width, noise).astype(np.float32)
            found.append((float(((restored - grey) ** 2).mean()), width, noise))
    return sorted(found)


def richardson_lucy(crops: Pixels, width: float, steps: int = STEPS) -> Pixels:
    """Return the crops with a Gaussian blur undone: x <- x * G(y / G(x)), (n, side, side, 3).

    width: sigma in sides of the crop.
    """
    import cv2

    def soft(x: Any) -> Any:
        return cv2.GaussianBlur(x, (0, 0), width * len(x), borderType=cv2.BORDER_REFLECT)

    rows = []
    for crop in crops:
        seen = crop.astype(np.float32) + 1
        sharp: Any = seen.copy()
        for _ in range(steps):
            sharp *= soft(seen / np.maximum(soft(sharp), 1e-3))
        rows.append(np.clip(np.rint(sharp - 1), 0, 255).astype(np.uint8))
    return np.stack(rows) if rows else crops


def candidates(case: Case, rows: Ints) -> Iterator[Candidate]:
    """Yield the untrained twin, then the best settings."""
    if case.clear_crops is None or case.anon_crops is None:
        raise ValueError("a restorer needs crops")
    for name, vectors in case.anon.items():
        yield Candidate(label=f"untrained, points from {name}", score=cosine(vectors, case.clear))
    released = case.anon_crops[ALIGNMENT]
    chosen = rows[:: max(1, len(rows) // LEARNT_ON)][:LEARNT_ON]
    settings = fitted(released[chosen], case.clear_crops[chosen])[:TRIED]
    for _, width, noise in settings:

        def restore(wanted: Ints, width: float = width, noise: float = noise) -> Pixels:
            return wiener(released[wanted], width, noise)

        label = f"Wiener, width {width:g} of the crop, noise {noise:g}"
        yield Candidate(label=label, score=lazily(case, restore), trained=True)
    best = settings[0][1]

    def undone(wanted: Ints) -> Pixels:
        return richardson_lucy(released[wanted], best)

    label = f"Richardson-Lucy, width {best:g} of the crop"
    yield Candidate(label=label, score=lazily(case, undone), trained=True)


OPERATOR = Attacker(
    name="A3-op",
    summary="blur undone by deconvolution",
    gallery="clear",
    candidates=candidates,
    trained=True,
    pixels=True,
)
