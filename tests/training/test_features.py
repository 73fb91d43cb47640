"""The recipe of attribute features: what it gathers, that it resumes, learns and writes."""

from __future__ import annotations

import io
import shutil
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from moretta.errors import UsageError
from moretta.networks.features import FeatureHead
from moretta.networks.recogniser import CHIP_POINTS
from moretta.training import crops, features
from moretta.training.features import Trainer, offsets, ratio
from moretta.weights import load

TIGHT = [44.4, 40.6, 99.6, 40.6, 72.0, 73.6, 48.7, 97.2, 95.3, 97.2]


def archive(folder, name, table, header, side, points, count):
    rng = np.random.default_rng(len(name))
    lines = [header + "," + ",".join(f"p{i}" for i in range(10))]
    with zipfile.ZipFile(folder / name, "w") as file:
        for at in range(count):
            coarse = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
            crop = io.BytesIO()
            coarse.resize((side, side), Image.Resampling.BICUBIC).save(crop, "png")
            file.writestr(f"{at}.png", crop.getvalue())
            said = {"index.csv": f"{at}.png,drawn,{at * 4},{at % 2},{at % 5}"}
            said["wide.csv"] = f"{at}.png,celeba,0,{side}"
            lines.append(said[table] + "," + ",".join(f"{each:.2f}" for each in points))
    (folder / table).write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    archive(folder, "faces-144.zip", "index.csv", "file,source,age,gender,group", 144, TIGHT, 24)
    wide = (crops.WIDE * 96).ravel().tolist()
    archive(folder, "wide.zip", "wide.csv", "file,source,person,side", 96, wide, 12)
    return folder


def test_a_small_run_gathers_resumes_and_writes(data, tmp_path, monkeypatch):
    from safetensors.numpy import load_file

    sizes = {"tight": 10, "wide": 8, "pairs": 8}
    found = features.run(data, tmp_path, minutes=1, steps=2, **sizes)
    assert found["n labelled"] == 6
    tensors = load_file(tmp_path / "features.safetensors")
    assert {k: v.shape for k, v in tensors.items()} == {
        k: tuple(v.shape) for k, v in FeatureHead().state_dict().items()
    }
    places = np.load(tmp_path / "places.npy")
    assert np.isfinite(places).all()
    assert len({each.tobytes() for each in places[-16:]}) == 16
    calls = []
    monkeypatch.setattr(features, "_keep", lambda *given: calls.append(given))
    again = features.run(data, tmp_path, minutes=1, steps=2, **sizes)
    assert not calls
    assert again == found


def test_what_was_gathered_of_other_crops_is_made_anew(data, tmp_path, monkeypatch):
    """With as many crops in all as before, so that the arrays would fit."""
    looked, keep = [], features._keep
    monkeypatch.setattr(features, "_keep", lambda *given: looked.append(1) or keep(*given))

    def gathered(folder, **sizes):
        looked.clear()
        return features.gather(folder, tmp_path / "out", **sizes, seed=0)

    first = gathered(data, tight=10, wide=8, pairs=8)
    assert looked
    other = gathered(data, tight=8, wide=8, pairs=9)
    assert looked
    assert len(first.places) == len(other.places)
    gathered(data, tight=8, wide=8, pairs=9)
    assert not looked
    turned = shutil.copytree(data, tmp_path / "turned")
    head, *rows = (turned / "index.csv").read_text().splitlines()
    (turned / "index.csv").write_text("\n".join([head, *rows[::-1]]) + "\n")
    gathered(turned, tight=8, wide=8, pairs=9)
    assert looked

    def other_dlib(name):
        return replace(load.entry(name), sha256="0" * 64) if name == "dlib" else load.entry(name)

    with monkeypatch.context() as patch:
        patch.setattr(features, "load", SimpleNamespace(entry=other_dlib))
        gathered(turned, tight=8, wide=8, pairs=9)
        assert looked
    (tmp_path / "out" / "codes.npy").unlink()
    gathered(turned, tight=8, wide=8, pairs=9)
    assert looked
    (tmp_path / "out" / "gathered.txt").write_text("torn")
    gathered(turned, tight=8, wide=8, pairs=9)
    assert looked


def test_held_out_rows_train_nothing(data, tmp_path):
    examples = features.gather(data, tmp_path, tight=10, wide=8, pairs=8, seed=0)
    train, held = (set(examples.rows(held=each).tolist()) for each in (False, True))
    assert not train & held
    assert train | held == set(range(examples.tight[0] + examples.wide[0]))
    firsts = [set(examples.pairs(held=each).tolist()) for each in (False, True)]
    assert not firsts[0] & firsts[1]
    assert len(firsts[0] | firsts[1]) == 8


def test_missing_data_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"index.csv is missing"):
        features.run(tmp_path, tmp_path / "out", minutes=0)
    assert not (tmp_path / "out").exists()


def test_labels_and_output_are_looked_at_before_the_work(data, pack, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is no folder"):
        features.run(data, tmp_path / "file", minutes=0)
    folder = pack(tmp_path / "bare", wide={"mine": 8}, tight=8)
    with pytest.raises(UsageError, match="no rows with the columns file, age, gender, group"):
        features.run(folder, tmp_path / "out", minutes=0)
    folder = pack(tmp_path / "few", wide={"mine": 8}, tight=3, labels=True)
    with pytest.raises(UsageError, match="3 rows: too few"):
        features.run(folder, tmp_path / "out", minutes=0)
    folder = pack(tmp_path / "said", wide={"mine": 8}, tight=8, labels=True)
    whole = (folder / "index.csv").read_text()
    for right, wrong in (("drawn,7,1,1,", "drawn,,1,1,"), ("drawn,7,1,1,", "drawn,7,1,5,")):
        (folder / "index.csv").write_text(whole.replace(right, wrong))
        with pytest.raises(UsageError, match=r"00001\.png has no age, gender"):
            features.run(folder, tmp_path / "out", minutes=0)
    assert not (tmp_path / "out").exists()


def test_offsets_do_not_hang_on_place_size_or_turn():
    points = torch.tensor(CHIP_POINTS)[None] / 150 * 0.4 + 0.2
    assert float(offsets(points).abs().max()) < 1e-4
    moved = points.clone()
    moved[0, 2, 0] += 0.02
    turned = moved @ torch.tensor([[0.8, 0.6], [-0.6, 0.8]]) * 0.7 + 0.1
    torch.testing.assert_close(offsets(moved), offsets(turned), rtol=0, atol=1e-4)
    assert float(offsets(moved).abs().max()) > 0.1


def test_ratio_is_zero_for_twins_and_about_one_for_strangers():
    torch.manual_seed(0)
    one = torch.randn(64, 10)
    assert float(ratio(one.repeat_interleave(2, 0))) == 0
    assert float(ratio(torch.randn(128, 10))) == pytest.approx(1, abs=0.1)


def test_labels_unknown_do_not_count():
    torch.manual_seed(0)
    batch = {
        "places": torch.randn(3, 64, 896),
        "patches": torch.zeros(3, 64, 108),
        "points": torch.zeros(3, 10),
        "codes": torch.zeros(3, 64),
        "labels": torch.full((3, 3), -1),
    }
    trainer = Trainer().eval()
    assert "band" not in trainer.losses(batch)
    batch["labels"][0] = torch.tensor([2, 1, 0])
    assert trainer.losses(batch)["band"].item() > 0
