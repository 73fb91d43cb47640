"""falco: targets, neighbours, uniqueness, what is copied, and everything that is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moretta.errors import NO_LEDGER, LedgerError, UsageError, WeightsRejected
from moretta.methods import falco, method, settings
from moretta.pipeline import budget
from moretta.pipeline.options import options
from moretta.pipeline.protect import Picture, Protector
from moretta.privacy.ledger import Ledger
from moretta.weights.backends import SIDE

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def own_ledger(tmp_path, monkeypatch):
    """Point the default ledger into this test's folder."""
    monkeypatch.setenv(budget.VARIABLE, str(tmp_path / "private" / "ledger.sqlite"))
    return tmp_path / "private" / "ledger.sqlite"


def counted(guard, *crops):
    return [replace(one, guard=guard(one)) for one in crops]


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
        start = built(steps=0)([face_crop])[0].figures["cosine"]
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


def test_a_manifest_keeps_the_figures_that_the_page_names(face_crop):
    from moretta.photos.manifest import BETWEEN

    (done,) = built(steps=0)([face_crop])
    assert set(done.figures) - set(BETWEEN) == {"steps", "pool"}
    docs = Path(__file__).parents[2] / "docs"
    written = (docs / "falco.md").read_text().partition("**What is written.** ")[2]
    assert written.startswith("Per face the steps and the size of the pool, among the `figures`")
    assert "for `falco` `steps` and `pool` (its size)" in (docs / "manifest.md").read_text()


def test_unique_gives_each_face_a_neighbour_of_its_own_until_none_is_left(face_crop):
    """40 faces are in the pool; the same picture 42 times wants the same ones."""
    many = [replace(face_crop, seed=seed) for seed in range(42)]
    edit = built(steps=0, neighbours=1)
    done = edit(many)
    seen = {one.pixels.tobytes() for one in done if not one.fault}
    assert len(seen) == 40
    faults = [one for one in done if one.fault]
    assert len(faults) == 2
    assert all("no synthetic face is left" in one.fault and not one.pixels.any() for one in faults)
    again = edit(many[:3])
    for one, other in zip(again, done, strict=False):  # sums of another batch round otherwise
        assert int(np.abs(one.pixels.astype(int) - other.pixels).max()) <= 1
    shared = built(steps=0, neighbours=1, unique="no")(many[:5])
    assert len({one.pixels.tobytes() for one in shared}) == 1


def test_of_what_is_left_unlike_neighbours_are_taken_first(face_crop, monkeypatch):
    """Half of the pool is called near, and four members are looked through: soon none of these is free."""
    monkeypatch.setattr("moretta.networks.pool.TOO_NEAR", 0.0)
    monkeypatch.setattr(falco, "_SEARCHED", 4)
    edit = built(steps=0, neighbours=1)
    done = edit([replace(face_crop, seed=seed) for seed in range(40)])
    cosines = np.array([one.figures["cosine"] for one in done])
    assert cosines[:15].mean() < cosines[25:].mean() - 0.1
    assert np.corrcoef(np.arange(40), cosines)[0, 1] > 0.5


def test_the_shared_identity_is_one_neighbour_and_other_identities_have_others(face_crop):
    edit = built(steps=0)
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


@pytest.mark.parametrize("value", [1.5, -2, float("nan"), "stranger"])
def test_a_target_out_of_range_is_refused(value):
    with pytest.raises(UsageError, match="target"):
        options({"method": "falco", "settings": {"target": value}})


@pytest.mark.parametrize("given", [{"settings": {"target": 0.2}}, {"strength": 0.8}])
def test_a_target_that_nothing_is_moved_to_is_refused(given):
    still = {**given.get("settings", {}), "steps": 0}
    with pytest.raises(UsageError, match="aimed at by optimisation, and steps is 0"):
        options({"method": "falco", **given, "settings": still})
    options({"method": "falco", **given})
    options({"method": "falco", "settings": {"steps": 0}})


@pytest.mark.parametrize("target", ["impostor", -0.5, 0.0, 0.3, 0.5, 1.0])
def test_a_target_nearer_than_strangers_says_so(target):
    weak = settings(method("falco"), {"target": target}).weak
    assert bool(weak) == (target in (0.5, 1.0))


def test_a_pool_of_other_networks_is_refused(tmp_path, pools, face_crop):
    from moretta.networks.neighbours import MANIFEST

    built(steps=0)([face_crop])  # the usual pool is drawn at the first edit
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


def test_a_pool_with_a_damaged_identity_is_refused(tmp_path, store):
    folder = shutil.copytree(store(40), tmp_path / "pool")
    identities = np.load(folder / "identities.npy")
    identities[[3, 5]] = identities[[5, 3]]
    np.save(folder / "identities.npy", identities)
    with pytest.raises(UsageError, match="its identities are not those of its seed"):
        Protector(options({"method": "falco", "settings": {"pool": str(folder)}}))


def test_what_is_said_of_a_pool_that_is_too_small_would_make_that_pool_larger(tmp_path, store):
    folder = shutil.copytree(store(40), tmp_path / "my pool")
    for chosen, more in (({}, ""), ({"pool": str(folder)}, f" --output '{folder}'")):
        made = settings(method("falco"), chosen)
        with pytest.raises(UsageError, match="the pool has 40") as caught:
            falco.prepare(made, "cpu", 48, None)
        assert caught.value.hint == f"moretta pool build --count 192{more}, or --unique no"


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

    outside = ellipse(SIDE)[0, 0].numpy() == 0
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


# ---- the private choice ----------------------------------------------------------------------


def circle(n, length=6):
    """Features of n members, no two as near to the first axis as each other."""
    rng = np.random.default_rng(4)
    return rng.standard_normal((n, length)).astype(np.float32) * np.linspace(1, 9, n)[:, None]


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", bytes(32)) as one:
        yield one


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_the_private_choice_follows_the_mechanism(epsilon):
    """The k nearest by cosine have e^epsilon times the weight of the others, epsilon 0 none more."""
    from scipy import stats

    from moretta.privacy.mechanisms import FinitePool

    pool, draws = circle(12), 20_000
    face = 5 * pool[3] + 1  # of another length than any member
    unit = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    k = FinitePool(unit).weights(epsilon)[2]
    near = np.argsort(-(unit @ face))[:k]
    weights = np.where(np.isin(np.arange(len(pool)), near), np.exp(epsilon), 1.0)
    donors = falco.Donors(pool, epsilon)
    drawn = np.bincount([donors.drawn(face) for _ in range(draws)], minlength=len(pool))
    assert stats.chisquare(drawn, draws * weights / weights.sum()).pvalue > 1e-6
    if epsilon:
        assert 0 < k < len(pool)
        assert stats.chisquare(drawn).pvalue < 1e-6  # it is told from the even choice


def test_in_place_of_a_taken_member_comes_the_free_one_most_like_it():
    pool = circle(12)
    unit = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    donors = falco.Donors(pool, 1.0)
    order = [int(one) for one in np.argsort(-(unit @ unit[5]))]
    assert order[0] == 5
    for taken in range(12):
        assert donors.likest(5, order[:taken]) == order[taken]


def test_a_pool_of_one_is_no_choice_and_features_that_are_none_are_refused():
    from moretta.errors import ReleaseRefused

    one = falco.Donors(circle(1), 2.0)
    assert one.released(np.ones(6, np.float32), None) == 0
    assert one.statement().epsilon == 0
    donors = falco.Donors(circle(5), 2.0)
    for bad in (np.zeros(6, np.float32), np.full(6, np.nan, np.float32)):
        with pytest.raises(ReleaseRefused):
            donors.drawn(bad)
    with pytest.raises(ReleaseRefused, match="there is no ledger"):
        donors.released(np.ones(6, np.float32), None)


def test_a_private_choice_sees_the_whole_pool_its_features_and_nothing_else(
    face_crop, monkeypatch, ledger
):
    """Nobody is left out for being near the old identity, or for being somebody's already."""
    seen, own = [], falco.Donors.drawn

    def watched(self, vector):
        seen.append(len(self._unit))
        return own(self, vector)

    monkeypatch.setattr(falco.Donors, "drawn", watched)
    monkeypatch.setattr("moretta.networks.pool.TOO_NEAR", -2.0)  # everybody is too near
    faces = [replace(face_crop, seed=seed, pixels=face_crop.pixels ^ seed) for seed in (0, 1, 0)]
    faces = counted(lambda one: budget.guard(ledger, one), *faces)
    done = built(steps=0, donor_epsilon=1)(faces)
    assert seen == [40, 40]  # the third is the first again
    np.testing.assert_array_equal(done[0].pixels, done[2].pixels)
    assert (done[0].pixels != done[1].pixels).any()
    said = {one.statement for one in done}
    assert len(said) == 1
    (statement,) = said
    assert statement.promise == "proved"
    assert 1 - 1e-5 < statement.epsilon <= 1
    assert "of 40 synthetic faces, sha256 " in statement.mechanism
    assert "which synthetic face is the neighbour" in statement.covers
    assert "copied from the photo's own inversion" in statement.excludes
    assert "surroundings" in statement.excludes
    (plain,) = built(steps=0)([face_crop])
    assert plain.statement is None


def test_the_same_photo_and_person_cost_once_and_keep_their_neighbour(face_crop, ledger):
    """In another run, beside others, in another place of the batch; another epsilon costs anew."""
    same = {"steps": 0, "donor_epsilon": 2}
    one = replace(face_crop, identity=7)
    (first,) = built(**same)(counted(lambda x: budget.guard(ledger, x), one))
    assert ledger.spent(budget.person(7)).epsilon == pytest.approx(2, abs=1e-5)
    other = replace(one, seed=5, pixels=one.pixels ^ 1)
    many = counted(lambda x: budget.guard(ledger, x), one, other)
    again, more = built(**same, unique="no")(many)
    assert np.abs(first.pixels.astype(int) - again.pixels).max() <= 1
    assert ledger.spent(budget.person(7)).epsilon == pytest.approx(4, abs=1e-5)
    assert (more.pixels != again.pixels).any()
    built(**{**same, "donor_epsilon": 1})(many[:1])
    rows = list(ledger.rows())
    assert [round(row["epsilon"], 4) for row in rows] == [2, 2, 1]
    assert {row["mechanism"] for row in rows[:2]} == {first.statement.mechanism}
    assert len({row["mechanism"] for row in rows}) == 2


def test_remembered_neighbours_that_are_taken_stay_one_face_each_at_no_cost(face_crop, ledger):
    """The same photo under three seeds: one answer, three synthetic faces, one charge."""
    photos = [replace(face_crop, seed=seed, identity=7) for seed in range(3)]
    photos = counted(lambda x: budget.guard(ledger, x), *photos)
    given = {"steps": 0, "donor_epsilon": 2}
    done = built(**given)(photos)
    assert len({one.pixels.tobytes() for one in done}) == 3
    assert ledger.spent(budget.person(7)).releases == 1
    shared = built(**given, unique="no")(photos)
    assert len({one.pixels.tobytes() for one in shared}) == 1


def test_a_choice_beyond_the_cap_is_a_fault_of_that_face_alone(face_crop, ledger, monkeypatch):
    photos = [replace(face_crop, seed=i, pixels=face_crop.pixels ^ i, identity=7) for i in range(3)]
    photos.insert(1, replace(face_crop, seed=9))
    photos = counted(lambda x: budget.guard(ledger, x), *photos)
    done = built(steps=0, donor_epsilon=2, cap=4)(photos)
    assert [one.fault for one in done] == ["", "", "", "this person's budget does not hold it"]
    assert not done[3].pixels.any()
    assert ledger.spent(budget.person(7)).epsilon <= 4
    monkeypatch.setattr(
        Ledger, "release", lambda *_, **__: (_ for _ in ()).throw(LedgerError("gone"))
    )
    assert [one.fault for one in built(steps=0, donor_epsilon=2)(photos)] == [NO_LEDGER] * 4
    bare = [replace(one, guard=None) for one in photos]
    assert all("there is no ledger" in one.fault for one in built(steps=0, donor_epsilon=2)(bare))
    assert not any(one.fault for one in built(steps=0, donor_epsilon=0)(bare))


def test_a_person_does_not_share_a_target_or_a_neighbour_with_a_private_choice(face_crop, ledger):
    photos = [replace(face_crop, seed=i, pixels=face_crop.pixels ^ i, identity=7) for i in range(4)]
    photos = counted(lambda x: budget.guard(ledger, x), *photos)
    done = built(steps=0, donor_epsilon=2)(photos)
    assert len({one.figures["target"] for one in done}) == 4
    assert all(one.statement.epsilon > 1.99 for one in done)


def test_the_same_seed_does_not_repeat_a_private_choice(face_crop):
    edits = [built(steps=0, donor_epsilon=0) for _ in range(2)]
    pixels = []
    for edit in edits:  # 6 faces of 40 members: equal by chance once in 3e9
        faces = edit([replace(face_crop, seed=seed) for seed in range(6)])
        pixels.append(b"".join(one.pixels.tobytes() for one in faces))
    assert pixels[0] != pixels[1]


def test_a_run_counts_choices_and_the_budget_commands_show_them(
    moretta, tmp_path, put, small, own_ledger, lines
):
    photos = tmp_path / "in"
    for i in range(3):
        put(photos / "anna" / f"{i}.png", np.roll(small, i, axis=1))
    words = ("anonymize", photos, "--method", "falco", "--steps", "0", "--donor-epsilon", "2")
    words = (*words, "--cap", "4", "--persons", "folders", "--audit-far", "1e-4")
    code, out, err = moretta(*words, "-o", tmp_path / "out")
    assert code == 3, err
    said = " ".join(out.split())
    assert "2 new releases on 1 person; most on one in the ledger: 4" in said
    assert "epsilon covers the choice of a synthetic neighbour alone; the picture has none" in said
    assert "identity vector" not in said
    faces = {line["name"]: line["faces"][0] for line in lines(tmp_path / "out")}
    assert faces["anna/2.png"]["method"] == "solid"
    assert "budget does not hold it" in faces["anna/2.png"]["audit"]["covered"]["fault"]
    code, out, _ = moretta(*words, "-o", tmp_path / "again", "--json")
    assert json.loads(out)["spent"]["releases"] == 0
    code, out, _ = moretta("budget", "show", "--person", "anna", "--json")
    (account,) = json.loads(out)["people"]
    assert (account["releases"], round(account["epsilon"], 4)) == (2, 4)
    assert moretta("budget", "export", tmp_path / "out.jsonl")[0] == 0
    rows = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all("choice of a neighbour" in row["mechanism"] for row in rows)
    assert b"anna" not in b"".join(one.read_bytes() for one in own_ledger.parent.iterdir())


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"donor_epsilon": -1}, "donor_epsilon is -1: input should be greater"),
        ({"donor_epsilon": 11}, "donor_epsilon is 11: input should be less"),
        ({"donor_epsilon": float("nan")}, "donor_epsilon is nan"),
        ({"donor_epsilon": "much"}, "donor_epsilon is 'much'"),
        ({"donor_epsilon": 1e-9}, "epsilon is 1e-09, which the arithmetic does not hold"),
        ({"donor_epsilon": 1, "neighbours": 4}, "neighbours and donor_epsilon exclude each other"),
        ({"donor_epsilon": 1, "metric": "euclidean"}, "donor_epsilon ranks by cosine"),
        ({"donor_epsilon": 3, "cap": 2}, "cap 2 does not hold a single choice of donor_epsilon 3"),
        ({"donor_epsilon": 3, "cap": -2}, "cap is -2"),
        ({"cap": 2}, "cap is for donor_epsilon, which is off"),
    ],
)
def test_an_epsilon_that_cannot_be_held_is_refused(given, why):
    with pytest.raises(UsageError, match=why):
        options({"method": "falco", "settings": given})


@pytest.mark.parametrize("more", [{"seed": 1}, {"identity": "per-run"}])
def test_nothing_else_may_decide_a_private_choice(more):
    options({"method": "falco", **more})
    (option,) = more
    for epsilon in (0, 1):
        with pytest.raises(UsageError, match=f"--{option} is given"):
            options({"method": "falco", "settings": {"donor_epsilon": epsilon}, **more})
    options({"method": "falco", "settings": {"donor_epsilon": 1}, "persons": "folders"})
    with pytest.raises(UsageError, match="spends nothing"):
        options({"method": "falco", "settings": {"donor_epsilon": 0}, "ledger": "x"})
    for lone in ({"persons": "folders"}, {"ledger": "x"}):
        with pytest.raises(UsageError, match="is given, and"):
            options({"method": "falco", **lone})


def test_the_record_and_the_command_say_what_the_epsilon_covers(small):
    protector = Protector(
        options({"method": "falco", "settings": {"steps": 0, "donor_epsilon": 2}})
    )
    protector._known = 1.0  # the judge lets whatever was drawn pass
    (done,) = protector.protect([Picture(pixels=small)])
    (face,) = done.faces
    assert face.method == "falco"
    assert (face.settings["donor_epsilon"], face.settings["neighbours"]) == (2, None)
    assert face.statement.epsilon == pytest.approx(2, abs=1e-5)
    assert falco.COVERS in falco.explained()
    assert falco.EXCLUDES in falco.explained()
    assert "the picture has none" in method("falco").excludes


def test_words_that_stand_for_a_number_may_be_given(face_crop):
    given = settings(method("falco"), {"target": "impostor", "donor_epsilon": "off"})
    assert given == settings(method("falco"))
