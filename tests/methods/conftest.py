"""One real face, cut as every method that draws on the composer gets it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from types import MappingProxyType

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


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Draw pools of synthetic faces with the bundled networks: (count) -> folder."""
    torch = pytest.importorskip("torch")
    from moretta.weights import backends, pools

    torch.set_num_threads(1)
    backend = backends.composer()
    features = backends.features("features", backend)
    root = tmp_path_factory.mktemp("stores")

    def drawn(count):
        folder = root / str(count)
        pools.build(folder, count, backend, features, backends.digests("features"))
        return folder

    return drawn


@pytest.fixture(scope="module")
def tiny_swapper(tmp_path_factory):
    """Put a swapper that was trained for three steps on painted faces in the catalogue's place."""
    torch = pytest.importorskip("torch")
    from moretta.training import swapper as recipe
    from moretta.weights import load

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("swapper")
    entry = load.entry("swapper")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BATCH", 3), ("HELD", 4), ("FITTED", 8)):
            patch.setattr(recipe, name, value)
        file = folder / entry.file
        recipe.run(None, file, steps=3)
        content = file.read_bytes()
        mine = replace(entry, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        entries = MappingProxyType({**load.catalogue(), "swapper": mine})
        patch.setattr(load, "catalogue", lambda: entries)
        patch.setenv(load.FOLDER_VARIABLE, str(folder))
        yield file
