"""falco: targets, neighbours, uniqueness, what is copied, and everything that is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moretta.errors import UsageError, WeightsRejected
from moretta.methods import falco, method, settings
from moretta.pipeline.options import options
from moretta.pipeline.protect import Picture, Protector

torch = pytest.importorskip("torch")


def built(**given):
    return method("falco").build(settings(method("falco"), given), "cpu")


def test_it_comes_near_its_target_and_strength_is_that_target(face_crop):
    chosen = method("falco")
    ends = []
    for strength in (0.2, 1.0):
        given = settings(chosen, {"steps": 20}, strength=strength)
        (done,) = chosen.build(given, "cpu")([face_crop])
        assert done.figures["target"] == pytest.approx(1 - strength)
        ends.append(done.figures["cosine"])
        start = built(steps=0, target=1 - strength)([face_crop])[0].figures["cosine"]
        assert abs(done.figures["cosine"] - (1 - strength)) <= abs(start - (1 - strength)) + 1e-3
    assert ends[0] > ends[1] + 0.1


def test_impostor_targets_are_strangers_and_shared_by_a_shared_identity(face_crop):
    many = [replace(face_crop, seed=seed) for seed in range(40)]
    drawn = [one.figures["target"] for one in built(steps=0, unique="no")(many)]
    assert len(set(drawn)) == 40
    assert max(map(abs, drawn)) <= falco.FARTHEST
    assert np.std(drawn) == pytest.approx(falco.IMPOSTOR[1], rel=0.35)
    same = [replace(face_crop, seed=seed, identity=9) for seed in (1, 2)]
    one, other = built(steps=0)(same)
    assert one.figures["target"] == other.figures["target"]


def test_unique_gives_each_face_a_neighbour_of_its_own_until_none_is_left(face_crop):
    """40 faces are in the pool; the same picture 42 times wants the same ones."""
    many = [replace(face_crop, seed=seed) for seed in range(42)]
    edit = built(steps=0, neighbours=1, target=0.0)
    done = edit(many)
    seen = {one.pixels.tobytes() for one in done if not one.fault}
    assert len(seen) == 40
    faults = [one for one in done if one.fault]
    assert len(faults) == 2
    assert all("no synthetic face is left" in one.fault and not one.pixels.any() for one in faults)
    again = edit(many[:3])
    for one, other in zip(again, done, strict=False):  # sums of another batch round otherwise
        assert int(np.abs(one.pixels.astype(int) - other.pixels).max()) <= 1
    shared = built(steps=0, neighbours=1, target=0.0, unique="no")(many[:5])
    assert len({one.pixels.tobytes() for one in shared}) == 1


def test_the_shared_identity_is_one_neighbour_and_other_identities_have_others(face_crop):
    edit = built(steps=0, target=0.0)
    faces = edit([replace(face_crop, seed=s, identity=i) for s, i in ((1, 7), (2, 7), (3, 8))])
    pixels = [one.pixels.astype(int) for one in faces]
    assert np.abs(pixels[0] - pixels[1]).max() == 0
    assert np.abs(pixels[0] - pixels[2]).mean() > 0.5


def test_a_pool_too_small_for_all_photos_is_refused_before_work_starts(tmp_path, small):
    from PIL import Image

    from moretta.pipeline.run import run

    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(41):
        Image.fromarray(small[:32, :32]).save(folder / f"{i}.png")
    with pytest.raises(
        UsageError, match="41 photos need a synthetic face each, and the pool has 40"
    ):
        run([folder], tmp_path / "out", options({"method": "falco"}))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="keeps faces apart within one process"):
        run([folder / "1.png"], tmp_path / "out", options({"method": "falco"}), jobs=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["1.5", "-2", "nan", "stranger"])
def test_a_target_out_of_range_is_refused(value):
    with pytest.raises(UsageError, match="target"):
        options({"method": "falco", "settings": {"target": value}})


def test_a_pool_of_other_networks_is_refused(tmp_path, pools):
    import json
    import shutil

    from moretta.networks.neighbours import MANIFEST

    built(steps=0)
    (usual,) = [one for one in pools.iterdir() if (one / MANIFEST).exists()]
    copy = tmp_path / "pool"
    shutil.copytree(usual, copy)
    built(steps=0, pool=str(copy))
    about = json.loads((copy / MANIFEST).read_text())
    about["networks"]["composer"] = "0" * 64
    (copy / MANIFEST).write_text(json.dumps(about))
    with pytest.raises(UsageError, match="was drawn with 000000000000 of composer"):
        Protector(options({"method": "falco", "settings": {"pool": str(copy)}}))
    with pytest.raises(UsageError, match="is no pool"):
        Protector(options({"method": "falco", "settings": {"pool": str(tmp_path / "none")}}))


def test_features_of_farl_are_refused_without_its_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(WeightsRejected, match="FaRL's official weights do not ship"):
        built(features="farl")


def test_a_face_whose_loss_is_not_finite_is_covered_and_the_others_are_not(small, monkeypatch):
    from moretta.networks import optimise

    moved = optimise.move

    def spoilt(task, *networks, **given):
        truth = task.truth.clone()
        truth[0] = torch.nan
        return moved(replace(task, truth=truth), *networks, **given)

    protector = Protector(options({"method": "falco", "settings": {"steps": 2}, "seed": 3}))
    monkeypatch.setattr(optimise, "move", spoilt)
    protector._edit = method("falco").build(protector.settings, "cpu")
    first, second = protector.protect(
        [Picture(pixels=small), Picture(pixels=small[:, ::-1].copy())]
    )
    assert [one.method for one in first.faces] == ["solid"]
    assert "not finite" in first.faces[0].audit["covered"]["fault"]
    assert [one.method for one in second.faces] == ["falco"]
    assert second.decision == first.decision == "published"


def test_the_old_face_reaches_nothing_outside_the_mask_and_compat_stretches(face_crop):
    from moretta.networks.composer import ellipse

    outside = ellipse(96)[0, 0].numpy() == 0
    (usual,) = built(steps=0)([face_crop])
    np.testing.assert_array_equal(usual.pixels[outside], face_crop.pixels[outside])
    picture = torch.rand(2, 3, 4, 4) * 0.5
    wide = falco.stretched(picture)
    assert float(wide.amin()) == -1
    assert float(wide.amax()) == pytest.approx(1)
    (compat,) = built(steps=3, compat=True)([face_crop])
    assert compat.pixels.min() == 0
    assert compat.pixels.max() == 255
    assert compat.figures["steps"] == 3


def test_resampled_rows_are_no_longer_the_photos_own(face_crop, monkeypatch):
    from moretta.networks import optimise

    kept = []
    moved = optimise.move

    def watched(task, *networks, **given):
        kept.append(task)
        return moved(task, *networks, **given)

    monkeypatch.setattr(optimise, "move", watched)
    for resample in ("no", "yes"):
        built(steps=0, resample=resample)([face_crop])
    plain, other = (task.rows[0] for task in kept)
    copied = [row for row in range(9) if row not in kept[0].moved]
    assert copied
    assert not torch.equal(plain[copied], other[copied])
    torch.testing.assert_close(plain[list(kept[0].moved)], other[list(kept[0].moved)])
