"""The reader: a plain linear map, made for the composer that ships."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from moretta.networks.reader import BIAS, SEEN, WEIGHT, Reader, seen_in
from moretta.weights import load
from moretta.weights.backends import composer


def test_it_agrees_with_a_plain_sum_and_gives_unit_vectors():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((48, SEEN)).astype(np.float32)
    bias = rng.standard_normal(48).astype(np.float32)
    seen = rng.standard_normal((3, SEEN)).astype(np.float32)
    read = Reader.from_tensors({WEIGHT: weight, BIAS: bias})(torch.from_numpy(seen)).numpy()
    expected = seen.astype(float) @ weight.T + bias
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(read, expected, atol=1e-5)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="a reader of shapes"):
        Reader.from_tensors({WEIGHT: np.zeros((48, 10)), BIAS: np.zeros(48)})
    with pytest.raises(KeyError):
        Reader.from_tensors({WEIGHT: np.zeros((48, SEEN))})


def test_the_bundled_reader_was_made_for_the_bundled_composer():
    """After every change of the composer: moretta-train reader (docs/ifadit.md)."""
    assert load.metadata("reader")["composer"] == load.entry("composer").sha256


def test_it_reads_what_was_drawn_better_than_dlib_alone():
    """On faces that the prior draws, no photo needed: 24 of them."""
    torch.set_num_threads(1)
    backend = composer()
    reader = Reader.from_tensors(load.tensors("reader"))
    plain, read = [], []
    codes, points, scenes = backend.prior.sample(24, 3)
    from moretta.networks.pool import random_identities

    identities = torch.from_numpy(random_identities(24, 3))
    with torch.inference_mode():
        contexts = backend.prior.contexts(scenes, backend.composer.mask)
        faces = backend.draw(contexts, points, backend.rows(identities, codes))
        mask = backend.composer.mask
        pictures = (contexts[:, :3] + faces * mask).clamp(-1, 1)
        seen = seen_in(backend, pictures, points)
        assert seen.shape == (24, SEEN)
        plain = (backend.identity(pictures, points) * identities).sum(1).mean()
        read = (reader(seen) * identities).sum(1).mean()
    assert float(plain) > 0.5
    assert float(read) > float(plain)
