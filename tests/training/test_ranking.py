"""`moretta styleid rank` on a tiny composer: the file, going on after an interruption, bad input."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from dataclasses import asdict

from torch.nn import functional

from moretta.errors import UsageError
from moretta.networks.attributes import AttributeEncoder
from moretta.networks.composer import Composer, Shape
from moretta.networks.identity import Identity
from moretta.networks.prior import fit
from moretta.training import ranking as recipe
from moretta.weights import backends, load

SHAPE = Shape(side=64, widths=(8, 8, 12, 16), attributes=6, finish=4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    parts = {"composer": Composer(SHAPE), "attributes": AttributeEncoder(SHAPE.attributes)}
    tensors = {
        f"{part}.{key}": value.detach().clone()
        for part, network in parts.items()
        for key, value in network.state_dict().items()
    }
    codes, points = torch.randn(40, 6) * 0.3, torch.rand(40, 5, 2) * 0.2 + 0.4
    tensors |= fit(codes, points, torch.rand(40, 4, 64, 64))
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_file(tensors, path, {"shape": json.dumps(asdict(SHAPE))})
    return path


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(recipe, "CHECKED", 6)
    monkeypatch.setattr(recipe, "CHECKED_PAIRS", 2)
    project = torch.randn(3 * 64, 48, generator=torch.Generator().manual_seed(5))

    def of(self, pictures, points):
        """A quick stand-in for dlib's network."""
        small = functional.adaptive_avg_pool2d(pictures / 127.5 - 1, 8)
        return functional.normalize(small.flatten(1) @ project, dim=1)

    monkeypatch.setattr(Identity, "of", of)


def test_a_ranking_is_made_interrupted_resumed_and_opened(weights, tmp_path):
    told = {"weights": weights, "pairs": 8, "projections": 2, "second": None}
    straight = recipe.run(tmp_path / "a.safetensors", **told)

    class Enough(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("groups, one by one: 5"):
            raise Enough

    out = tmp_path / "b.safetensors"
    with pytest.raises(Enough):
        recipe.run(out, **told, tell=stop)
    assert not out.exists()
    assert out.with_suffix(".part.npz").exists()
    with pytest.raises(UsageError, match="other weights or settings"):
        recipe.run(out, **{**told, "projections": 3})
    lines: list[str] = []
    resumed = recipe.run(out, **told, tell=lines.append)
    assert not any(line.startswith("rows") for line in lines)  # done already
    assert not out.with_suffix(".part.npz").exists()
    for name, one in straight.spaces.items():
        np.testing.assert_allclose(one.did, resumed.spaces[name].did, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(one.dat, resumed.spaces[name].dat, rtol=1e-4, atol=1e-6)
    opened = backends.ranking(out, backend=load.sha256(weights))
    assert opened.names == straight.names
    assert "dlib" in opened.thresholds
    text = recipe.report(resumed)
    for word in ("| row | Did |", "| eyes |", "| halves |", "shortcut, D"):
        assert word in text
    with pytest.raises(Exception, match="a ranking of other weights"):
        backends.ranking(out)


def test_too_few_pairs_and_people_are_refused(weights, tmp_path):
    with pytest.raises(UsageError, match="3 pairs cannot be halved"):
        recipe.run(tmp_path / "a.safetensors", weights=weights, pairs=3)
    with pytest.raises(UsageError, match="cannot be read"):
        recipe.run(tmp_path / "a.safetensors", weights=weights, data=tmp_path)
    recipe.Kept(tmp_path / "c.part.npz", "key").save(now=True)
    whole = (tmp_path / "c.part.npz").read_bytes()
    np.save(tmp_path / "other.npy", np.zeros(3))
    for torn in (b"", b"no", whole[: len(whole) // 2], (tmp_path / "other.npy").read_bytes()):
        (tmp_path / "c.part.npz").write_bytes(torn)
        with pytest.raises(UsageError, match="cannot be resumed"):
            recipe.run(tmp_path / "c.safetensors", weights=weights)


def test_memory_is_in_mebibytes_where_the_system_counts_it(monkeypatch):
    counted = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=1 << 30))
    monkeypatch.setitem(sys.modules, "resource", counted)
    for system, most in (("linux", 1 << 20), ("darwin", 1 << 10)):
        monkeypatch.setattr(sys, "platform", system)
        assert recipe.most_memory() == most
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert recipe.most_memory() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "a.txt"], "ends in .safetensors"),
        (["--out", "nowhere/a.safetensors"], "there is no folder nowhere"),
        (["--out", "a.safetensors", "--how", "guess"], "--how is guess"),
        (["--out", "a.safetensors", "--data", "nowhere"], "there is no nowhere"),
        (["--out", "a.safetensors", "--second", "sfase"], "--second is sfase"),
    ],
)
def test_the_command_refuses_before_it_starts(moretta, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = moretta("styleid", "rank", *arguments)
    assert code == 2
    assert words in err + out
    assert not list(tmp_path.iterdir())
