"""Pixelate: the face as a few flat cells, counted across the face and not in pixels.

Counting cells makes the strength independent of resolution: eight cells are eight cells in a
thumbnail and in a portrait. Each cell is the mean of the original, so pixelation hides less than it
seems to: a matcher trained on pixelated faces still recognises many (Newton et al. 2005, sect. 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from moretta.records import Crop, Edited, FaceEdit, Method, Settings


class Pixelate(Settings):
    """Options of `pixelate`."""

    cells: int = Field(5, ge=1, le=32, description="cells across the face, brow to chin")

    @property
    def weak(self) -> str:
        """Say so above the number of cells that was attacked and held."""
        if self.cells <= 5:
            return ""
        return (
            f"pixelate, cells {self.cells}: of 100 people an attacker who learns found 35 behind 12 cells, 4"
            " behind 5, and the judge does not see that (docs/benchmarks.md)"
        )


def build(settings: Pixelate, device: str) -> FaceEdit:
    """Return the edit: square cells of the window, each filled with its mean."""
    import cv2
    import numpy as np

    from moretta.faces.mask import tight_side

    def edit(crops: Sequence[Crop]) -> list[Edited]:
        return [Edited(pixels=pixelated(crop)) for crop in crops]

    def pixelated(crop: Crop) -> np.ndarray:
        height, width = crop.pixels.shape[:2]
        cell = max(tight_side(crop.face) / settings.cells, 1.0)
        size = max(round(width / cell), 1), max(round(height / cell), 1)
        small = cv2.resize(crop.pixels, size, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)

    return edit


def strength(value: float) -> dict[str, Any]:
    """Strength 0 is 12 cells, 1 is 2 cells, on a logarithmic scale."""
    return {"cells": round(12 * (2 / 12) ** value)}


METHOD = Method(
    name="pixelate",
    summary="the face as a few flat cells",
    settings=Pixelate,
    build=build,
    template="window",
    promise="measured",
    promises="only the mean colour of each cell is left of the face; the judge has compared the result",
    excludes="a matcher trained on pixelated faces does better than the judge; cell means are kept",
    source="Newton, Sweeney, Malin 2005, 'Preserving Privacy by De-identifying Face Images'",
    strength=strength,
)
