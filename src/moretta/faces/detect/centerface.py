"""CenterFace: heavier, unlike YuNet in design, so a second opinion that fails on other faces.

Source   Xu, Yan, Sun et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point",
         2019; MIT weights. Raw 0..255 RGB: dividing by 255 makes it blind.
Decoding one heat map at stride 4; size, offset and points at its peaks (y before x in the points).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moretta.faces.detect.search import Detector, Found, padded
from moretta.weights import load

if TYPE_CHECKING:
    from moretta.faces.detect.search import Look
    from moretta.records import Pixels


def build(device: str, threads: int) -> Look:
    """Return a function that looks at one (height, width, 3) RGB picture at its own scale."""
    session = load.open_onnx("centerface", device=device, threads=threads)
    names = ["537", "538", "539", "540"]

    def look(picture: Pixels, least_score: float) -> Found:
        heat, size, offset, marks = session.run(names, {"input.1": padded(picture, 32)})
        row, column = np.nonzero(heat[0, 0] >= least_score)
        height, width = 4 * np.exp(np.minimum(size[0, :, row, column].T, 8))
        left = (column + offset[0, 1, row, column] + 0.5) * 4 - width / 2
        top = (row + offset[0, 0, row, column] + 0.5) * 4 - height / 2
        mark = marks[0, :, row, column].reshape(-1, 5, 2)
        points = np.stack(
            [
                left[:, None] + mark[..., 1] * width[:, None],
                top[:, None] + mark[..., 0] * height[:, None],
            ],
            axis=2,
        )
        boxes = np.stack([left, top, left + width, top + height], axis=1)
        return Found(boxes, points, heat[0, 0, row, column])

    return look


DETECTOR = Detector(
    name="centerface",
    summary="CenterFace, MIT: about six times the cost, a second opinion",
    build=build,
    networks=("centerface",),
    least_score=0.35,
    largest=500,
)
