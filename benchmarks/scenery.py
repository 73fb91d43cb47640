"""Backgrounds drawn by code: a wall, a floor, cloth and foliage-like texture, no photo involved."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def scenery(width: int, height: int, rng: np.random.Generator) -> Floats:
    """A smooth room or garden, (height, width, 3) BGR 0..255: gradient, panels, texture."""
    top, bottom = rng.uniform(60, 210, (2, 3)).astype(np.float32)
    slope = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    picture = np.broadcast_to(top * (1 - slope) + bottom * slope, (height, width, 3)).copy()
    for _ in range(int(rng.integers(4, 10))):
        _panel(picture, rng)
    horizon = int(height * rng.uniform(0.55, 0.8))
    picture[horizon:] *= rng.uniform(0.55, 0.9)
    for cells, depth in ((5, 26.0), (23, 14.0), (97, 8.0), (401, 5.0)):
        picture += clouds(width, height, cells, rng)[:, :, None] * depth
    return cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(2, 5))).astype(np.float32)


def clouds(width: int, height: int, cells: int, rng: np.random.Generator) -> Floats:
    """Value noise, about -2..2: a grid of random numbers `cells` wide, enlarged smoothly."""
    rows = max(2, cells * height // width)
    grid = rng.standard_normal((rows, cells)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def grain(picture: Floats, sigma: float, rng: np.random.Generator) -> Floats:
    """Add what a sensor adds."""
    noise: Floats = rng.standard_normal(picture.shape, dtype=np.float32)
    return picture + noise * np.float32(sigma)


def _panel(picture: Floats, rng: np.random.Generator) -> None:
    """A door, window, picture or curtain: one soft rectangle, sometimes striped."""
    height, width = picture.shape[:2]
    left, top = int(rng.integers(0, width * 3 // 4)), int(rng.integers(0, height // 2))
    right = min(width, left + int(rng.integers(width // 20, width // 3)))
    bottom = min(height, top + int(rng.integers(height // 10, height // 2)))
    colour = rng.uniform(30, 230, 3).astype(np.float32)
    area = picture[top:bottom, left:right]
    area += (colour - area) * np.float32(rng.uniform(0.3, 0.9))
    if rng.random() < 0.4:
        period_px = rng.uniform(20, 120)
        stripes = np.sin(np.arange(right - left, dtype=np.float32) * (2 * np.pi / period_px))
        area += (stripes * rng.uniform(4, 16)).astype(np.float32)[None, :, None]
