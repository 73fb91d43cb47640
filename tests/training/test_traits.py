import io
import zipfile

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from moretta.networks.identity import DIRECTIONS, MEAN, Identity
from moretta.networks.pool import random_identities
from moretta.networks.traits import TraitsHead
from moretta.training import traits
from moretta.training.traits import Labels
from moretta.weights import load

HEADER = "file,source,age,gender,group," + ",".join(f"p{i}" for i in range(10))
POINTS = [44.4, 40.6, 99.6, 40.6, 72.0, 73.6, 48.7, 97.2, 95.3, 97.2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder as ../shared/data/train has it: 24 drawn crops of nobody."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = [HEADER]
    with zipfile.ZipFile(folder / "faces-144.zip", "w") as archive:
        for at in range(24):
            coarse = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
            crop = io.BytesIO()
            coarse.resize((144, 144), Image.Resampling.BICUBIC).save(crop, "webp", lossless=True)
            archive.writestr(f"{at:05d}.webp", crop.getvalue())
            points = ",".join(str(each) for each in POINTS)
            lines.append(f"{at:05d}.webp,drawn,{at * 4},{at % 2},{at % 5},{points}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    whitening = {
        "mu": np.zeros(128, np.float32),
        "P": np.linalg.qr(rng.standard_normal((128, 48)))[0].astype(np.float32),
    }
    np.savez(folder / "white.npz", **whitening)
    return folder


def told(count: int, seed: int = 0):
    """Identities that say what they are: bands by one component, gender by another."""
    x = random_identities(count, seed)
    bands = np.digitize(x[:, 0] * 48**0.5, [-1.5, -0.5, 0.5, 1.5])
    return x, Labels(bands, (x[:, 1] > 0).astype(np.int64), np.arange(count) % 5)


def test_rows_are_read_as_they_stand(data):
    rows = traits.read_rows(data / "index.csv")
    assert len(rows) == 24
    assert rows[5].file == "00005.webp"
    assert (rows[5].band, rows[5].gender, rows[5].group) == (2, 1, 0)
    assert rows[5].points == tuple(POINTS)
    labels = traits.labels_of(rows)
    assert labels.bands.tolist()[:6] == [0, 0, 0, 0, 1, 2]
    assert labels[:3].groups.tolist() == [0, 1, 2]


def test_the_bundled_whitening_is_taken_over_when_none_is_given():
    bundled = load.tensors("identity")
    taken = traits.read_whitening(None)
    assert set(taken) == {MEAN, DIRECTIONS}
    assert all(np.array_equal(taken[name], bundled[name]) for name in taken)


def test_crops_are_embedded_at_their_points(data):
    rows = traits.read_rows(data / "index.csv")[:3]
    whitening = traits.read_whitening(data / "white.npz")
    identity = Identity.from_tensors(load.tensors("dlib"), whitening)
    found = traits.embed(data / "faces-144.zip", rows, identity)
    assert found.shape == (3, 48)
    with zipfile.ZipFile(data / "faces-144.zip") as archive:
        crop = Image.open(io.BytesIO(archive.read(rows[1].file))).convert("RGB")
    picture = torch.from_numpy(np.array(crop, np.float32)).permute(2, 0, 1)[None]
    expected = identity.of(picture, torch.tensor(POINTS).view(1, 5, 2))[0].numpy()
    np.testing.assert_allclose(found[1], expected, atol=2e-5)


def test_a_head_learns_what_the_identities_say():
    identities, labels = told(4000)
    tensors = traits.fit(identities, labels, seed=0, epochs=30, width=64)
    seen, truth = told(1500, seed=1)
    found = traits.figures(TraitsHead.from_tensors(tensors), seen, truth)
    assert found["gender"] > 0.92
    assert found["auc"] > 0.98
    assert found["within_one"] > 0.98
    assert found["band"] > 0.65
    assert found["ece_band"] < 0.1
    assert found["ece_gender"] < 0.1


def test_temperatures_make_an_overfitted_head_less_sure():
    """Labels drawn by lot: on the rows that trained it a head is surer than it may be."""
    identities, labels = told(600)
    lots = np.random.default_rng(0).permutation(600)
    labels = Labels(labels.bands[lots], labels.genders[lots], labels.groups)
    tensors = traits.fit(identities, labels, seed=0, epochs=60, width=64)
    found = traits.figures(TraitsHead.from_tensors(tensors), *_fresh_lots())
    assert found["ece_gender"] < 0.25
    assert found["auc"] == pytest.approx(0.5, abs=0.08)


def _fresh_lots():
    seen, truth = told(1000, seed=2)
    lots = np.random.default_rng(1).permutation(1000)
    return seen, Labels(truth.bands[lots], truth.genders[lots], truth.groups)


def test_the_same_seed_fits_the_same_head_and_torch_keeps_its_state():
    identities, labels = told(600)
    before = torch.get_rng_state()
    first, again, other = (
        traits.fit(identities, labels, seed=seed, epochs=2, width=8) for seed in (4, 4, 5)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_area_agrees_with_counting_pairs():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 8, 60) / 8, rng.random(60) < 0.4
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a in scores[positive]
        for b in scores[~positive]
    ]
    assert traits.area(scores, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(traits.area(scores, np.ones(60, bool)))


def test_the_command_writes_a_file_that_both_readers_open(data, tmp_path, capsys):
    out = tmp_path / "identity.safetensors"
    arguments = ["--data", str(data), "--out", str(out), "--whitening", str(data / "white.npz")]
    assert traits.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| all | 6 |" in printed
    written = load.tensors(out)
    assert set(written) >= {MEAN, DIRECTIONS}
    assert all(each.dtype == np.float32 for each in written.values())
    Identity.from_tensors(load.tensors("dlib"), written)
    TraitsHead.from_tensors(written)
    first = out.read_bytes()
    kept = tmp_path / "identities.npy"
    for _ in range(2):  # embedded again and kept, then read
        assert traits.main([*arguments, "--identities", str(kept)]) == 0
        assert out.read_bytes() == first
    np.save(kept, np.zeros((5, 48), np.float32))
    with pytest.raises(SystemExit):
        traits.main([*arguments, "--identities", str(kept)])
    assert "not 24 crops" in capsys.readouterr().err
