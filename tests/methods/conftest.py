"""One real face, cut as every method that draws on the composer gets it."""

from __future__ import annotations

import numpy as np
import pytest

from moretta.faces import crop as crops
from moretta.faces import mask as masks
from moretta.records import Crop
from moretta.weights.backends import MASK_SCALE, SIDE


@pytest.fixture(scope="module")
def face_crop(small: np.ndarray) -> Crop:
    from moretta.api import find_faces

    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    (face,) = find_faces(small)
    alpha, _ = masks.redraw(face, small.shape, scale=MASK_SCALE)
    return crops.align(small, face, alpha, template="wide", side=SIDE, seed=1)
