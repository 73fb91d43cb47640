"""The swapper's recipe on painted faces: it learns, repeats, goes on, and refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from moretta.errors import UsageError, WeightsRejected
from moretta.networks.swapper import locked_rows
from moretta.training import crops as sets
from moretta.training import run as runs
from moretta.training import swapper as recipe
from moretta.weights import backends, load


@pytest.fixture(autouse=True)
def few(monkeypatch):
    torch.set_num_threads(1)
    for name, value in (("BATCH", 3), ("HELD", 4), ("FITTED", 8)):
        monkeypatch.setattr(recipe, name, value)


@pytest.fixture(scope="module")
def course():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "FITTED", 8)
        torch.set_num_threads(1)
        return recipe.Course.of(backends.composer(), sets.drawn(backends.SIDE, 24))


def some(course, *, drawn: bool = False) -> recipe.Examples:
    return course.examples(np.arange(5), np.random.default_rng(0), drawn=drawn)


def test_a_run_in_two_calls_is_the_run_in_one(tmp_path):
    straight, parts, other = (tmp_path / f"{one}.safetensors" for one in "abc")
    recipe.run(None, straight, steps=2, seed=3)
    recipe.run(None, parts, steps=1, seed=3)
    halfway = parts.read_bytes()
    with pytest.raises(UsageError, match="holds a run already"):
        recipe.run(None, parts, steps=1, seed=3)
    with pytest.raises(UsageError, match="other weights, data or seed"):
        recipe.run(None, parts, steps=1, seed=4, resume=True)
    assert parts.read_bytes() == halfway
    recipe.run(None, parts, steps=1, seed=3, resume=True)
    assert parts.read_bytes() == straight.read_bytes() != halfway
    recipe.run(None, other, steps=1, seed=4)
    assert other.read_bytes() != halfway
    about = json.loads(load.metadata(straight)["about"])
    assert about["backend"] == load.entry("composer").sha256
    assert about["locked"] == list(locked_rows(backends.ranking()))
    assert about["steps"] == 2
    assert straight.stat().st_size < 3_000_000
    opened = backends.swapper(backends.composer(), backends.ranking(), straight)
    assert opened.locked == tuple(about["locked"])


def test_points_are_steadied_and_figures_are_of_the_held_out(monkeypatch, pack, tmp_path):
    """As every other recipe and the method do it: what is drawn hangs on the points."""
    given = []

    def held_still(crops: sets.Crops) -> sets.Crops:
        given.append(crops)
        return dataclasses.replace(crops, points=crops.points + 0.01)

    seen = []
    monkeypatch.setattr(sets, "steadied", held_still)
    monkeypatch.setattr(
        recipe.Trainer, "learn", lambda self: seen.append(self.course.crops) or {"a": 1}
    )
    monkeypatch.setattr(recipe, "figures", lambda *_: {})
    folder = pack(tmp_path / "data", wide={"mine": 8, "lfw": 8}, side=backends.SIDE)
    told = recipe.run(folder, tmp_path / "a.safetensors", steps=1)
    assert told == {"steps": 0.0, "held": 2.0}
    np.testing.assert_array_equal(seen[0].points, given[0].points + 0.01)


def test_what_was_trained_is_kept_though_the_figures_fail(monkeypatch, tmp_path):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe.Trainer, "learn", lambda self: setattr(self, "step", 7) or {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "figures", stopped)
        with pytest.raises(KeyboardInterrupt):
            recipe.run(None, tmp_path / "new" / "a.safetensors", steps=1)
    assert runs.load(tmp_path / "new" / "a.state", "cpu")["step"] == 7
    (tmp_path / "file").write_text("mine")
    for out, words in ((tmp_path, "is a folder"), (tmp_path / "file" / "a", "is no folder")):
        with pytest.raises(UsageError, match=words):
            recipe.run(None, out, steps=1)


def test_it_learns_and_nothing_else_does(course):
    frozen = [
        parameter
        for network in (course.backend.composer, course.backend.encoder, course.backend.identify)
        for parameter in network.parameters()
    ]
    before = [parameter.clone() for parameter in frozen]
    trainer = recipe.Trainer(course, (4, 5, 6), 1)
    examples = some(course)

    def told() -> dict[str, float]:
        with torch.no_grad():
            return {k: v.item() for k, v in course.losses(trainer.swapper, examples).items()}

    first = told()
    assert set(first) == set(recipe.WEIGHTS)
    assert all(np.isfinite(list(first.values())))
    optimiser = torch.optim.Adam(trainer.swapper.parameters(), lr=5e-3)
    for _ in range(8):
        optimiser.zero_grad()
        torch.stack(list(course.losses(trainer.swapper, examples).values())).sum().backward()
        optimiser.step()
    assert sum(told().values()) < sum(first.values()) - 0.02
    assert all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True))
    assert all(p.grad is None and not p.requires_grad for p in frozen)


def test_what_is_written_follows_what_is_trained(course):
    trainer = recipe.Trainer(course, (4, 5, 6), 1)
    trainer.learn()
    for name, value in trainer.swapper.state_dict().items():
        average = trainer.average.state_dict()[name]
        assert not torch.equal(average, torch.zeros_like(average)), name
        assert float((average - value).abs().max()) < 2 * recipe.RATE


def test_targets_are_strangers_and_some_have_codes_of_their_own(course):
    own, drawn = some(course), some(course, drawn=True)
    assert float((own.own * own.asked).sum(1).max()) < 0.35
    torch.testing.assert_close(own.asked.norm(dim=1), torch.ones(5))
    # row 0 comes from the attribute code alone
    assert torch.equal(own.sources[:, 0], own.targets[:, 0])
    moved = [not torch.equal(a, b) for a, b in zip(drawn.sources, drawn.targets, strict=True)]
    assert all(moved)
    lent = [
        not torch.equal(a, b) for a, b in zip(drawn.sources[:, 0], drawn.targets[:, 0], strict=True)
    ]
    assert lent == [True, False, False, False, True]


def test_the_figures_tell_what_the_ends_are(course):
    swapper = recipe.Trainer(course, (4, 5, 6), 1).average
    order = backends.ranking().spaces["channels"].order
    found = recipe.figures(course, swapper, order)
    for name in ("swapper", "locked rows", "whole"):
        assert {f"{name}, own", f"{name}, target", f"{name}, d_at"} <= set(found)
    assert found["whole, target"] > found["locked rows, target"]
    assert found["whole, own"] < found["locked rows, own"]
    assert 0.3 < found["mean gate"] < 0.7  # untrained
    assert 0.2 < found["ranked channels, d_at at the swapper's own"] < 2
    assert len(found) == 11


@pytest.fixture
def state(tmp_path):
    trained = tmp_path / "a.safetensors"
    recipe.run(None, trained, steps=1)
    return trained


def test_what_does_not_belong_is_refused(state, tmp_path, monkeypatch):
    from dataclasses import replace

    from safetensors.numpy import load_file, save_file

    backend, ranking = backends.composer(), backends.ranking()
    with pytest.raises(UsageError, match="there is no run to resume"):
        recipe.run(None, tmp_path / "new.safetensors", steps=1, resume=True)
    shutil.copy(state.with_suffix(".state"), tmp_path / "b.state")
    (tmp_path / "b.state").write_bytes(b"no")
    with pytest.raises(UsageError, match="cannot be resumed"):
        recipe.run(None, tmp_path / "b.safetensors", steps=1, resume=True)
    with pytest.raises(WeightsRejected, match="a swapper of other weights") as caught:
        backends.swapper(backend, replace(ranking, backend="0" * 64), state)
    assert "moretta-train swapper" in caught.value.hint
    with pytest.raises(WeightsRejected, match="not a swapper"):
        backends.swapper(backend, ranking, "identity")
    about = json.loads(load.metadata(state)["about"])
    tensors = load_file(state)
    save_file(tensors, tmp_path / "c", {"about": json.dumps(about | {"locked": [1, 2]})})
    with pytest.raises(WeightsRejected, match=r"locks the rows \[1, 2\], the ranking says \["):
        backends.swapper(backend, ranking, tmp_path / "c")
    tensors.pop("levels.0.own")
    save_file(tensors, tmp_path / "d", {"about": json.dumps(about)})
    with pytest.raises(WeightsRejected, match="not a swapper"):
        backends.swapper(backend, ranking, tmp_path / "d")
    monkeypatch.setattr(
        backends, "ranking", lambda *_, **__: (_ for _ in ()).throw(WeightsRejected("of others"))
    )
    with pytest.raises(WeightsRejected, match="of others"):
        recipe.run(None, tmp_path / "e.safetensors", steps=1)


def test_the_command_writes_a_file_and_says_what_the_catalogue_needs(tmp_path):
    from typer.testing import CliRunner

    from moretta.cli.train import app

    out = tmp_path / "swapper.safetensors"
    told = CliRunner().invoke(app, ["swapper", "--output", str(out), "--steps", "1"])
    assert told.exit_code == 0, told.output
    plain = told.output.replace("\n", "")
    assert "1 step; cosines and attribute distance, of crops that trained, none held out:" in plain
    assert hashlib.sha256(out.read_bytes()).hexdigest() in plain
    assert f"{out.stat().st_size:,} bytes" in told.output
    assert isinstance(runs.load(out.with_suffix(".state"), "cpu")["step"], int)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "a.txt"], "ends in .safetensors"),
        (["--output", "a.safetensors", "--weights", "nowhere"], "there is no file nowhere"),
        (["--output", "a.safetensors", "--ranking", "nowhere"], "there is no file nowhere"),
        (["--output", "a.safetensors", "--resume"], "no run to resume"),
    ],
)
def test_the_command_refuses_before_it_starts(tmp_path, monkeypatch, arguments, words):
    from typer.testing import CliRunner

    from moretta.cli.train import app

    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["swapper", *arguments])
    assert isinstance(told.exception, UsageError)
    assert words in f"{told.exception.fault} {told.exception.hint}"
    assert not list(tmp_path.iterdir())
