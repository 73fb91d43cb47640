"""The composer's recipe: a smoke run on drawn faces, exact resume, and what a file keeps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from moretta.errors import UsageError, WeightsRejected
from moretta.faces import steady
from moretta.training import composer as recipe
from moretta.training import crops
from moretta.training.run import Average, Clock, load, reseed, save
from moretta.weights.backends import composer as open_composer

WIDE = Path(__file__).parents[3] / "shared" / "data" / "train"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[recipe.Trainer, Path]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("straight")
    trainer = recipe.run("smoke", data=None, out=out, minutes=5, steps=4)
    return trainer, out


def tmp_plain_mode(folder: Path) -> int:
    """Return the mode of any file that is written here: as the umask says."""
    (folder / "plain").touch()
    mode = (folder / "plain").stat().st_mode & 0o777
    (folder / "plain").unlink()
    return mode


def test_a_run_leaves_weights_that_open_and_draw(straight: tuple[recipe.Trainer, Path]):
    trainer, out = straight
    assert trainer.step == 4
    assert trainer.seen == 4 * 5
    assert [path.name for path in out.glob("sheet-*.png")] == ["sheet-00000020.png"]
    plain = tmp_plain_mode(out)
    modes = {path.name: path.stat().st_mode & 0o777 for path in out.iterdir()}
    written = ("smoke.safetensors", "smoke-start.safetensors", "state.pt", "sheet-00000020.png")
    assert modes == dict.fromkeys(written, plain)
    backend = open_composer(out / "smoke.safetensors")
    assert backend.side == 64
    (start, end, (pictures, *_)), *_ = backend.samples(3, 1)
    assert (start, end) == (0, 3)
    assert pictures.shape == (3, 3, 64, 64)
    assert float(pictures.std()) > 0.01
    averaged = trainer.averaged["composer"].state_dict()["first.weight"]
    opened = backend.composer.state_dict()["first.weight"]
    torch.testing.assert_close(opened, averaged, atol=2e-3, rtol=2e-3)


def test_resumed_equals_straight(straight: tuple[recipe.Trainer, Path], tmp_path: Path):
    trainer, _ = straight
    for _ in range(2):
        again = recipe.run(
            "smoke",
            data=None,
            out=tmp_path,
            minutes=5,
            steps=2,
            resume=(tmp_path / "state.pt").exists(),
        )
    assert again.step == trainer.step
    for name, network in trainer.networks.items():
        other = again.networks[name].state_dict()
        for key, value in network.state_dict().items():
            assert torch.equal(value, other[key]), f"{name}.{key}"


def test_training_learns(straight: tuple[recipe.Trainer, Path]):
    del straight  # one thread has been set
    trainer = recipe.Trainer(
        recipe.recipe("smoke"), crops.drawn(64, 16), None, device="cpu", seed=1
    )
    first = np.mean([trainer.train_step()["pixels"] for _ in range(3)])
    for _ in range(24):
        last = trainer.train_step()
    assert last["pixels"] < first
    assert all(np.isfinite(value) for value in last.values())


def test_weights_of_another_side_are_taken_over(straight: tuple[recipe.Trainer, Path]):
    from dataclasses import replace

    trainer, out = straight
    small = recipe.recipe("smoke")
    larger = replace(small, shape=replace(small.shape, side=96))
    other = recipe.Trainer(larger, crops.drawn(96, 8), None, device="cpu", seed=0)
    fresh = other.restart(out / "smoke-start.safetensors")
    assert fresh == []
    given = trainer.averaged["composer"].state_dict()["draws.0.weight"]
    torch.testing.assert_close(
        other.networks["composer"].state_dict()["draws.0.weight"], given, atol=2e-3, rtol=2e-3
    )
    assert other.networks["critic"].state_dict()["hidden.weight"].shape[1] == 24 * 6 * 6


def test_refusals_come_before_any_work(straight: tuple[recipe.Trainer, Path], tmp_path: Path):
    _, out = straight
    with pytest.raises(UsageError, match="holds a run already"):
        recipe.run("smoke", data=None, out=out, minutes=1)
    with pytest.raises(UsageError, match="holds no run to resume"):
        recipe.run("smoke", data=None, out=tmp_path, minutes=1, resume=True)
    with pytest.raises(UsageError, match="no configuration 'smok'"):
        recipe.run("smok", data=None, out=tmp_path, minutes=1)
    with pytest.raises(UsageError, match=r"wide\.csv cannot be read"):
        recipe.run("smoke", data=tmp_path, out=tmp_path / "x", minutes=1)
    with pytest.raises(UsageError, match="composer-96 needs --data"):
        recipe.run("composer-96", data=None, out=tmp_path / "x", minutes=1)
    (tmp_path / "file").write_text("mine")
    for taken in ("file", "file/run"):
        with pytest.raises(UsageError, match="is no folder"):
            recipe.run("smoke", data=None, out=tmp_path / taken, minutes=1)
    for start, fault in (("file", "no safetensors file"), ("missing", "No such file")):
        with pytest.raises(WeightsRejected, match=fault):
            recipe.run("smoke", data=None, out=tmp_path / "x", minutes=1, start=tmp_path / start)
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "other")
    with pytest.raises(UsageError, match="holds nothing that this configuration can begin from"):
        recipe.run("smoke", data=None, out=tmp_path / "x", minutes=1, start=tmp_path / "other")
    assert not (tmp_path / "x").exists()
    again = shutil.copytree(out, tmp_path / "again")
    with pytest.raises(UsageError, match="another configuration"):
        recipe.run("composer-64", data=tmp_path, out=again, minutes=1, resume=True)
    assert sorted(one.name for one in again.iterdir()) == sorted(one.name for one in out.iterdir())
    state = load(out / "state.pt", "cpu")
    trainer = recipe.Trainer(recipe.recipe("smoke"), crops.drawn(64, 4), None, device="cpu", seed=0)
    with pytest.raises(UsageError, match="another configuration"):
        trainer.resume({**state, "recipe": "{}"})
    (tmp_path / "state.pt").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be resumed"):
        load(tmp_path / "state.pt", "cpu")
    torch.save([1], tmp_path / "state.pt")
    with pytest.raises(UsageError, match="cannot be resumed"):
        load(tmp_path / "state.pt", "cpu")


@pytest.mark.parametrize("work", ["wide", "drawn", "steadied"])
def test_no_work_precedes_a_refusal(
    work: str,
    straight: tuple[recipe.Trainer, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    _, out = straight
    monkeypatch.setattr(crops, work, lambda *_, **__: pytest.fail("it worked"))
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "other")
    with pytest.raises(UsageError, match="holds nothing"):
        recipe.run("smoke", data=None, out=tmp_path / "x", minutes=1, start=tmp_path / "other")
    with pytest.raises(UsageError, match="another configuration"):
        recipe.run("composer-64", data=tmp_path, out=out, minutes=1, resume=True)


def test_what_does_not_fit_begins_anew(straight: tuple[recipe.Trainer, Path]):
    """A critic of other widths too: its last view cannot be stretched."""
    _, out = straight
    larger = recipe.recipe("composer-64")
    networks = recipe.networks_of(larger)
    states, fresh = recipe.fitting(out / "smoke-start.safetensors", networks, larger)
    assert "critic.hidden.weight" in fresh
    assert "composer.first.weight" in fresh
    assert not any(name.startswith("points.") for name in fresh)
    for name, network in networks.items():
        network.load_state_dict(states[name])


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the crops whose points are looked for; they are found a little beside."""
    seen: list[int] = []

    def moved(picture: np.ndarray, points: np.ndarray, look: object) -> np.ndarray:
        del look
        seen.append(len(picture))
        return points + 0.01

    monkeypatch.setattr(steady, "steadied", moved)
    return seen


def test_a_run_on_data_steadies_and_keeps_points_and_learns_from_tight_crops(
    looked: list[int],
    pack: Callable[..., Path],
    straight: tuple[recipe.Trainer, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    data = pack(tmp_path / "data", wide={"mine": 10, "lfw": 8}, tight=8)
    batches, draw = [], recipe.Trainer._draw

    def watched(self: recipe.Trainer, batch: recipe._Batch, rng: np.random.Generator):
        batches.append(batch)
        return draw(self, batch, rng)

    monkeypatch.setattr(recipe.Trainer, "_draw", watched)
    start = straight[1] / "smoke-start.safetensors"
    trainer = recipe.run("smoke", data=data, out=tmp_path / "run", minutes=5, steps=1, start=start)
    assert len(looked) == 18 + 8
    wide, tight = trainer.wide.crops, trainer.tight
    assert (len(wide), wide.held, len(tight), tight.held) == (18, 2, 8, 2)
    np.testing.assert_allclose(wide.points, crops.wide(data, 64).points + 0.01, atol=1e-6)
    (batch,) = batches
    assert (len(batch.pictures), batch.wide) == (5, 4)
    known = recipe._square(64, tight.known)[0]
    assert 0.55 < tight.known < 0.65
    assert torch.equal(batch.judged[-1], known)  # supervised where it holds something
    assert float(batch.hidden[-1].min()) == 1  # and nothing is read from round it
    assert float(batch.pictures[-1][:, known[0] == 0].abs().max()) < 0.01  # grey
    log = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert log == {"started from": start.name, "fresh": []}
    kept = {name: (tmp_path / "run" / f"points-{name}.npz") for name in ("wide", "tight")}
    before = {name: path.read_bytes() for name, path in kept.items()}
    again = recipe.run("smoke", data=data, out=tmp_path / "run", minutes=5, steps=1, resume=True)
    assert len(looked) == 18 + 8
    assert again.step == trainer.step + 1
    np.testing.assert_array_equal(again.wide.crops.points, wide.points)
    assert {name: path.read_bytes() for name, path in kept.items()} == before


def test_the_log_is_json_and_the_clock_ends(tmp_path: Path):
    clock = Clock(minutes=60, steps=2)
    assert [clock.goes_on() for _ in range(3)] == [True, True, False]
    assert not Clock(minutes=0).goes_on()
    assert not Clock(minutes=60, steps=0).goes_on()
    from moretta.training.run import note

    note(tmp_path / "log.jsonl", {"step": 1})
    note(tmp_path / "log.jsonl", {"step": 2})
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_a_call_of_steps_cools_by_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rates = []

    def step(self: recipe.Trainer, *, rate: float = 1.0) -> dict[str, float]:
        del self
        rates.append(rate)
        return {"loss": 1.0}

    monkeypatch.setattr(recipe.Trainer, "train_step", step)
    monkeypatch.setattr(recipe.Trainer, "export", lambda *_: None)
    recipe.run("smoke", data=None, out=tmp_path / "run", minutes=60, steps=5, cool=True)
    assert rates == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.1])
    recipe.run("smoke", data=None, out=tmp_path / "run", minutes=60, steps=2, resume=True)
    assert rates[5:] == [1.0, 1.0]


def test_the_average_follows():
    network, copy = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    average = Average({"a": network}, {"a": copy})
    assert torch.equal(copy.weight, network.weight)
    before = network.weight.detach().clone()
    torch.nn.init.constant_(network.weight, 1.0)
    average.follow(0.9)
    torch.testing.assert_close(copy.weight, before * 0.9 + 0.1)


def test_chance_of_a_step_comes_from_its_number(tmp_path: Path):
    a = reseed(1, 5).uniform(), float(torch.rand(1))
    assert (reseed(1, 5).uniform(), float(torch.rand(1))) == a
    assert (reseed(1, 6).uniform(), float(torch.rand(1))) != a
    save(tmp_path / "s.pt", {"x": torch.ones(2)})
    assert torch.equal(load(tmp_path / "s.pt", "cpu")["x"], torch.ones(2))
    assert not list(tmp_path.glob("*.part"))


def test_a_file_keeps_eight_bits_and_lets_gradients_through():
    pictures = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_(True)
    ways = set()
    for seed in range(40):
        seen = recipe.through_file(pictures, np.random.default_rng(seed))
        levels = (seen.detach() + 1) * 127.5
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
        ways.add(round(float((seen - pictures).detach().abs().mean()), 3))
    assert len(ways) > 3  # rounding alone, JPEG of several qualities, smaller sizes, noise
    seen.sum().backward()
    assert torch.equal(pictures.grad, torch.ones_like(pictures))


def test_jpeg_is_the_codecs_own():
    levels = torch.randint(0, 256, (3, 16, 16)).float()
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(levels.byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=75)
    expected = np.asarray(Image.open(file)).transpose(2, 0, 1)
    np.testing.assert_array_equal(recipe._jpeg(levels, 75).numpy(), expected)


def test_drawn_faces_have_people_and_points_where_eyes_are():
    made = crops.drawn(64, 12, seed=2)
    assert made.pixels.shape == (12, 64, 64, 3)
    assert len(set(made.people.tolist())) == 3
    again = crops.drawn(64, 12, seed=2)
    np.testing.assert_array_equal(made.pixels, again.pixels)
    mirrored = crops.mirrored(made.points)
    assert (mirrored[:, 0, 0] < mirrored[:, 1, 0]).all()
    np.testing.assert_allclose(crops.mirrored(mirrored), made.points, atol=1e-6)


@pytest.mark.skipif(not (WIDE / "wide.zip").exists(), reason="research data is not here")
def test_held_out_people_never_train():
    made = crops.wide(WIDE, 64, limit=900)
    assert made.held == 600
    trained, held = made.people[: made.trained], made.people[made.trained :]
    assert not set(trained[trained >= 0]) & set(held[held >= 0])
    assert ((made.points > 0) & (made.points < 1)).mean() > 0.99
    tight = crops.tight(WIDE, 96, limit=8)
    assert tight.pixels.shape == (8, 96, 96, 3)
    assert (tight.pixels[:, :15] == 128).all()
    assert 0.58 < tight.known < 0.6
