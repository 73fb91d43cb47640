"""The reader's recipe: nothing is trained but the map, and the channel is a real one."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from moretta.errors import UsageError
from moretta.networks.reader import SEEN, Reader
from moretta.training import crops as sources
from moretta.training import reader as recipe
from moretta.training.reader import Pairs, channel, fit
from moretta.weights import load
from moretta.weights.backends import composer


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(recipe, "LEAST", 16)


@pytest.fixture(scope="module")
def backend():
    torch.set_num_threads(1)
    return composer()


def test_it_finds_a_linear_truth_in_held_out_pairs():
    rng = torch.Generator().manual_seed(0)
    truth = torch.randn(SEEN, 48, generator=rng)
    seen = torch.randn(900, SEEN, generator=rng) * 3 + 1
    drawn = torch.nn.functional.normalize(seen @ truth, dim=1)
    trained, held = Pairs(drawn, seen, 300).parts()
    assert (len(trained.drawn), len(held.drawn)) == (600, 300)
    read = Reader.from_tensors(fit(trained))(held.seen)
    assert float((read * held.drawn).sum(1).mean()) > 0.97


def test_no_gradient_reaches_the_pseudonymiser(backend, tmp_path):
    """Facts 5.4: a network that learns through both sides hides the original in its pictures."""
    networks = (backend.composer, backend.encoder, backend.identify)
    before = [p.clone() for one in networks for p in one.parameters()]
    recipe.run(None, tmp_path / "reader.safetensors", count=32, backend=backend)
    for one in networks:
        for parameter in one.parameters():
            assert parameter.grad is None
            assert not parameter.requires_grad
    after = [p for one in networks for p in one.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_same_seed_writes_the_same_file_and_names_its_composer(backend, tmp_path):
    for name in ("a", "b"):
        recipe.run(None, tmp_path / name, count=32, seed=3, backend=backend)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert load.metadata(tmp_path / "a")["composer"] == load.entry("composer").sha256
    recipe.run(None, tmp_path / "c", count=32, seed=4, backend=backend)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_held_out_people_are_drawn_into_and_stand_at_the_end(backend):
    from dataclasses import replace

    painted = replace(sources.drawn(backend.side, 40), held=10)
    made = recipe.pairs(backend, painted, seed=0, count=32, held=16)
    assert made.held == 16
    assert made.drawn.shape == (48, 48)
    trained, held = made.parts()
    assert len(trained.seen) == 32
    assert not set(map(tuple, held.drawn.tolist())) & set(map(tuple, trained.drawn.tolist()))


def test_the_channel_is_the_codec_itself_bit_for_bit():
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    kinds = set()
    for seed in range(40):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        out = channel(pixels, rng)
        assert out.dtype == np.uint8
        assert out.shape == pixels.shape
        lot = again.uniform()
        kinds.add(
            "none" if lot < 0.3 else "jpeg" if lot < 0.7 else "size" if lot < 0.85 else "noise"
        )
        if lot < 0.3:
            assert out is pixels
        elif lot < 0.7:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=int(again.integers(50, 96)))
            np.testing.assert_array_equal(out, np.asarray(Image.open(file)))
        elif lot >= 0.85:
            assert np.abs(out.astype(int) - pixels).max() <= 2
    assert len(kinds) == 4


def test_the_command_tells_what_it_did(tmp_path):
    from typer.testing import CliRunner

    from moretta.cli.train import app

    out = tmp_path / "reader.safetensors"
    told = CliRunner().invoke(
        app, ["reader", "--out", str(out), "--count", "300", "--minutes", "0.02"]
    )
    assert told.exit_code == 0, told.output
    said = re.search(
        r"(\d+) faces drawn to train; .*\nof faces that trained, none held out: "
        r"(-?0\.\d+) uncorrected, ([01]\.\d+) corrected\n",
        told.output,
    )
    assert said, told.output
    assert int(said[1]) >= 16
    assert float(said[3]) > max(float(said[2]), 0.5)  # of the pairs that it was fitted to
    assert all(torch.isfinite(torch.as_tensor(one)).all() for one in load.tensors(out).values())


def test_people_of_source_lfw_are_held_out_and_counted(backend, pack, tmp_path):
    for wide, held in (({"mine": 4, "lfw": 8}, 8), ({"mine": 12}, 0)):
        folder = pack(tmp_path / str(held), wide=wide, side=backend.side)
        told = recipe.run(folder, tmp_path / "out", count=16, held=8, backend=backend)
        assert (told["drawn"], told["held"]) == (16, held)
    from moretta.cli.train import _whose

    assert _whose(8, "face") == "of 8 faces held out"
    assert _whose(0, "crop") == "of crops that trained, none held out"


@pytest.mark.parametrize(("minutes", "drawn"), [(0, 16), (0.0001, 16)])
def test_too_few_faces_write_nothing(backend, monkeypatch, pack, tmp_path, minutes, drawn):
    """Held-out faces are drawn first: such a file was fitted to nothing, and held NaN."""
    monkeypatch.setattr(recipe, "LEAST", drawn + 1)
    with pytest.raises(
        UsageError, match=f"{drawn} faces drawn to train in {minutes:g} min"
    ) as caught:
        recipe.run(None, tmp_path / "out", count=300, minutes=minutes, backend=backend)
    assert caught.value.hint == "give more --minutes"
    folder = pack(tmp_path / "data", wide={"lfw": 8}, side=backend.side)
    with pytest.raises(UsageError, match="0 faces drawn to train"):
        recipe.run(folder, tmp_path / "out", count=300, minutes=minutes, backend=backend)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_is_refused_before_drawing(backend, monkeypatch, tmp_path):
    monkeypatch.setattr(recipe, "pairs", lambda *_, **__: pytest.fail("it drew"))
    with pytest.raises(UsageError, match="is a folder"):
        recipe.run(None, tmp_path, count=32, backend=backend)
