"""Solid: paint the face one colour. No pixel of the face is left.

Black by default, because the judge sees least in it: flat grey looks like 0.5 to 1.3 % of all people
to SFace at FAR 1e-3, flat black like none of 393 (docs/benchmarks.md, "what the judge sees in paint").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from moretta.records import Crop, Edited, FaceEdit, Method, Settings


def _colour(text: str) -> str:
    digits = text.removeprefix("#")
    if len(digits) != 6 or any(c not in "0123456789abcdefABCDEF" for c in digits):
        raise ValueError("a colour is six hexadecimal digits such as 000000")
    return digits.lower()


class Solid(Settings):
    """Options of `solid`."""

    colour: Annotated[str, AfterValidator(_colour)] = Field(
        "000000", description="six hexadecimal digits, red green blue"
    )


def build(settings: Solid, device: str) -> FaceEdit:
    """Return the edit: every pixel of the crop becomes `settings.colour`."""
    import numpy as np

    colour = tuple(bytes.fromhex(settings.colour))

    def edit(crops: Sequence[Crop]) -> list[Edited]:
        return [Edited(pixels=np.full_like(crop.pixels, colour)) for crop in crops]

    return edit


METHOD = Method(
    name="solid",
    summary="paint the face one colour: nothing of it is left",
    settings=Solid,
    build=build,
    template="window",
    fills_view=True,
    promise="measured",
    promises="no pixel inside the mask depends on the original, and the mask fills the judge's whole view",
    excludes="hair, ears, body, clothes and place stay; the mask shows where and how large the face was",
    source="the oldest method there is; mask size measured in docs/threat-model.md",
)
