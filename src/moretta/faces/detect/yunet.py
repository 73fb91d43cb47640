"""YuNet: small, fast, sees faces of 10 to 300 px at the scale it is given.

Source   Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector", 2023; MIT weights.
Decoding the published anchor-free heads: score = sqrt(class x objectness), strides 8, 16, 32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moretta.faces.detect.search import Detector, Found, padded
from moretta.weights import load

if TYPE_CHECKING:
    from moretta.faces.detect.search import Look
    from moretta.records import Pixels

STRIDES = (8, 16, 32)


def build(device: str, threads: int) -> Look:
    """Return a function that looks at one (height, width, 3) RGB picture at its own scale."""
    session = load.open_onnx("yunet", device=device, threads=threads)
    names = [f"{head}_{stride}" for stride in STRIDES for head in ("cls", "obj", "bbox", "kps")]

    def look(picture: Pixels, least_score: float) -> Found:
        batch = padded(picture[..., ::-1], 32)
        outputs = iter(session.run(names, {"input": batch}))
        found = []
        for stride in STRIDES:
            columns = batch.shape[3] // stride
            classes, objects, boxes, points = (next(outputs)[0] for _ in range(4))
            score = np.sqrt(np.clip(classes[:, 0], 0, 1) * np.clip(objects[:, 0], 0, 1))
            kept = np.flatnonzero(score >= least_score)
            cell = np.stack([kept % columns, kept // columns], axis=1)
            centre = (cell + boxes[kept, :2]) * stride
            half = np.exp(np.minimum(boxes[kept, 2:], 10)) * stride / 2
            marks = (points[kept].reshape(-1, 5, 2) + cell[:, None]) * stride
            found.append(Found(np.hstack([centre - half, centre + half]), marks, score[kept]))
        return Found.joined(found)

    return look


DETECTOR = Detector(
    name="yunet",
    summary="YuNet, MIT: fast, five points, the default",
    build=build,
    networks=("yunet",),
    least_score=0.5,
    largest=250,
    unsure_from=0.2,  # of what CenterFace alone finds in LFW, from 0.45 on, YuNet gives all this much
    quick=True,
    sure_if_larger=0.75,  # enlarged photos: false alarms up to 0.73, faces from 0.83
)
