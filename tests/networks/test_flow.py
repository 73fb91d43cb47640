"""The baseline flow: a way there and back, keys that matter, and every number moved by the key."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zuko")

from moretta.networks.flow import KEY, Flow, key_of
from moretta.networks.pool import random_identities
from moretta.weights import load


@pytest.fixture(scope="module")
def flow() -> Flow:
    torch.set_num_threads(1)
    return Flow.from_tensors(load.tensors("flow"))


def keys(count: int, *, cone: bool = False) -> torch.Tensor:
    secrets = [hashlib.sha256(f"flow {i}".encode()).digest() for i in range(count)]
    return torch.from_numpy(np.stack([key_of(one, cone=cone) for one in secrets]))


def test_the_chain_itself_is_undone_to_rounding(flow):
    x = torch.from_numpy(random_identities(50, 1))
    with torch.no_grad():
        raw = flow.raw(x, keys(50))
        back = flow.chain(keys(50)).transform.inv(raw)
    np.testing.assert_allclose(back.numpy(), x.numpy() * 48**0.5, atol=1e-4)


def test_without_its_norm_it_comes_back_nearly(flow):
    x = torch.from_numpy(random_identities(200, 1))
    with torch.no_grad():
        pseudonyms = flow(x, keys(200))
        back, wrong = flow.back(pseudonyms, keys(200)), flow.back(pseudonyms, keys(200).roll(1, 0))
    np.testing.assert_allclose(pseudonyms.norm(dim=1), 1, atol=1e-5)
    assert float((back * x).sum(1).mean()) > 0.9
    assert float((wrong * x).sum(1).mean()) < 0.6
    assert float((pseudonyms * x).sum(1).mean()) < 0.6


def test_every_number_is_moved_by_the_key(flow):
    """Defect D7 of the published flow: 32 of its 512 numbers are not."""
    x = torch.from_numpy(random_identities(1, 2)).expand(64, -1)
    with torch.no_grad():
        moved = flow.raw(x, keys(64))
    assert float(moved.std(0).min()) > 0.05


def test_keys_are_drawn_from_secrets_and_the_cone_is_the_published_one():
    gaussian, cone = keys(300).numpy(), keys(300, cone=True).numpy()
    assert gaussian.shape == (300, KEY)
    for each in (gaussian, cone):
        np.testing.assert_allclose((each**2).mean(1), 1, rtol=1e-5)
    upper = np.triu_indices(300, 1)
    assert abs(float((gaussian @ gaussian.T)[upper].mean()) / KEY) < 0.02
    assert float((cone @ cone.T)[upper].mean()) / KEY == pytest.approx(0.964, abs=0.01)
    assert (key_of(bytes(32)) == key_of(bytes(32))).all()


def test_another_form_of_weights_is_refused():
    with pytest.raises(RuntimeError):
        Flow.from_tensors({"chain": np.zeros(3)})
