"""The flow's recipe: every term falls, and the same seed gives the same flow."""

from __future__ import annotations

import errno

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zuko")

from moretta.errors import DiskFull, UsageError
from moretta.networks.flow import KEY, Flow
from moretta.training import flow as recipe
from moretta.weights import load


def drawn(count: int = 128):
    torch.manual_seed(7)
    keys = torch.randn(count, KEY)
    identities = torch.nn.functional.normalize(torch.randn(count, 48), dim=1)
    return identities, keys / keys.square().mean(1, keepdim=True).sqrt()


def losses(flow: Flow) -> dict[str, float]:
    with torch.no_grad():
        torch.manual_seed(8)
        return {name: float(term) for name, term in recipe.loss(flow, *drawn()).items()}


def test_training_lowers_what_it_is_for(tmp_path):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    before = losses(Flow().eval())
    made = recipe.run(tmp_path / "flow.safetensors", steps=30, seed=0)
    after = losses(made)
    assert after["privacy"] < before["privacy"]
    assert after["wrong"] < before["wrong"]
    again = losses(Flow.from_tensors(load.tensors(tmp_path / "flow.safetensors")))
    assert again == pytest.approx(after)


def test_the_same_seed_gives_the_same_file(tmp_path):
    for name in ("a", "b"):
        recipe.run(tmp_path / name, steps=2, seed=1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "loss", lambda *_: pytest.fail("it trained"))
    (tmp_path / "file").write_text("mine")
    for out, words in ((tmp_path, "is a folder"), (tmp_path / "file" / "flow", "is no folder")):
        with pytest.raises(UsageError, match=words):
            recipe.run(out, steps=1)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_file_is_written_whole_or_left_as_it_was(tmp_path, monkeypatch):
    out = tmp_path / "flow.safetensors"
    out.write_bytes(b"earlier")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFull):
        recipe.run(out, steps=1)
    assert out.read_bytes() == b"earlier"
    assert [one.name for one in tmp_path.iterdir()] == ["flow.safetensors"]


def full(_handle):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_command_writes_a_flow(tmp_path):
    from typer.testing import CliRunner

    from moretta.cli.train import app

    out = tmp_path / "flow.safetensors"
    told = CliRunner().invoke(app, ["flow", "--out", str(out), "--steps", "2"])
    assert told.exit_code == 0, told.output
    Flow.from_tensors(load.tensors(out))
