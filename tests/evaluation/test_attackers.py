"""Every attacker on cases whose answer is known; each undoes what it is made for and nothing by luck."""

from __future__ import annotations

import numpy as np
import pytest

from moretta.evaluation import gates, ladder
from moretta.evaluation.attackers import (
    ATTACKERS,
    closed,
    decides,
    inverter,
    keyed,
    perceptron,
    unet,
)
from moretta.evaluation.attackers import mapping as maps
from moretta.evaluation.attackers import (
    whole as tuning,
)
from moretta.evaluation.attackers.head import learnt
from moretta.evaluation.attackers.operator import richardson_lucy, wiener
from moretta.evaluation.attackers.permutation import blocks, found, undone, whole
from moretta.evaluation.attackers.restorer import Restorer
from moretta.evaluation.embed import unit

pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def where():
    return gates.layout({"T": 60, "V": 30, "E": 40})


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(perceptron, "LEAST_STEPS", 40)
    monkeypatch.setattr(perceptron, "EPOCHS", 1)


def rate(row):
    return row.all.top1.v


@pytest.mark.parametrize("attacker", ATTACKERS, ids=lambda a: a.name)
def test_every_attacker_answers_or_says_why_not(attacker, where):
    clear = gates.drawn(where)
    given = gates.case(where, clear, clear, context={"hair": clear})
    row = ladder.attack(attacker, given, where, "drawn")
    waits = attacker.pixels or attacker.again or bool(attacker.only)
    assert row.status == ("skipped" if waits else "ok"), row.reason
    assert bool(row.reason) == waits
    if row.status == "ok":
        assert row.all.top1.lo <= row.all.top1.v <= row.all.top1.hi
        assert row.measured == pytest.approx(row.chance, abs=0.03)
        assert len(row.curve) == (3 if row.learnt_from else 0)


def test_names_are_taken_once():
    names = [a.name for a in ATTACKERS]
    assert len(set(names)) == len(names)


def test_the_same_photo_decides_only_where_the_originals_are_published():
    by_name = {a.name: a for a in ATTACKERS}
    assert decides(by_name["A0-same"], "published")
    assert not decides(by_name["A0-same"], "bystander")
    assert decides(by_name["A0-other"], "bystander")
    assert not decides(by_name["A8"], "published")


def test_attackers_learn_from_t_alone(where):
    """Whatever E and V look like, the map is that of T."""
    clear = gates.drawn(where)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))
    anon = clear @ turn
    rows = where.rows("T")
    other = anon.copy()
    other[where.rows("E")] = 0
    one = maps.rotation(*maps.same_shot(gates.case(where, clear, anon), rows, "clear"))
    two = maps.rotation(*maps.same_shot(gates.case(where, clear, other), rows, "clear"))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, turn.T, atol=1e-6)


def test_cross_shots_pair_different_photos_of_one_person(where):
    marks = np.arange(len(where.people), dtype=float)[:, None]
    given = gates.case(where, marks, marks)
    anon, clear = maps.cross_shot(given, where.rows("T"), "clear")
    assert (anon != clear).all()
    a, c = anon[:, 0].astype(int), clear[:, 0].astype(int)
    np.testing.assert_array_equal(where.people[a], where.people[c])


def test_ridge_is_scikit_learns():
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(50, 8)), rng.normal(size=(50, 5))
    before, matrix, after = maps.ridge(x, y, 0.3)
    centred = x - x.mean(0)
    weight = 0.3 * np.trace(centred.T @ centred) / 8 + 1e-9
    model = linear.Ridge(alpha=weight).fit(x, y)
    np.testing.assert_allclose((x - before) @ matrix + after, model.predict(x), atol=1e-6)


def test_cca_finds_the_shared_direction():
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(3000, 1))
    x = np.hstack([shared + 0.3 * rng.normal(size=(3000, 1)), rng.normal(size=(3000, 4))])
    y = np.hstack([rng.normal(size=(3000, 4)), shared + 0.3 * rng.normal(size=(3000, 1))])
    left, right, strength = maps.shared_directions(x, y, 2, shrinkage=0)
    assert strength[0] == pytest.approx(1 / 1.09, abs=0.02)
    assert strength[1] < 0.1
    assert np.abs(left[0, 0]) > 5 * np.abs(left[1:, 0]).max()
    assert np.abs(right[4, 0]) > 5 * np.abs(right[:4, 0]).max()


def test_the_network_learns_the_way_back_and_the_same_way_twice(where, monkeypatch):
    """Half of the vectors, by their first component, are turned in another way than the others."""
    clear = gates.drawn(where)
    anon = unit(np.where(clear[:, :1] > 0, clear, np.roll(-clear, 1, axis=1)))
    given = gates.case(where, clear, anon)
    rows, own = where.rows("T"), where.rows("E")
    monkeypatch.setattr(perceptron, "LEAST_STEPS", 120)
    first, second = (perceptron.learnt(anon[rows], clear[rows], 5)(anon[own]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    mapped = (first * clear[own]).sum(1).mean()
    assert mapped > (anon[own] * clear[own]).sum(1).mean() + 0.1
    assert [c.trained for c in perceptron.candidates(given, rows)] == [False, True]


def test_a_missing_package_is_a_reason(where, monkeypatch):
    monkeypatch.setattr("moretta.evaluation.ladder.find_spec", lambda name: None)
    clear = gates.drawn(where)
    attacker = next(a for a in ATTACKERS if a.name == "A4-mlp")
    row = ladder.attack(attacker, gates.case(where, clear, clear), where, "drawn")
    assert (row.status, row.reason) == ("skipped", "needs torch")


def test_a_head_ignores_what_changes_within_people():
    rng = np.random.default_rng(3)
    people = np.repeat(np.arange(80), 4)
    centres = rng.normal(size=(80, 6))
    vectors = centres[people] + rng.normal(size=(320, 6)) * [5, 5, 5, 0.1, 0.1, 0.1]
    space = learnt(vectors, people, 0.1, turned=False)
    moved = space(vectors)
    alike = moved @ moved.T
    same = people[:, None] == people[None]
    plain = unit(vectors) @ unit(vectors).T
    off = ~np.eye(320, dtype=bool)

    def gap(scores):
        return scores[same & off].mean() - scores[~same].mean()

    assert gap(alike) > gap(plain) + 0.3


@pytest.mark.parametrize("weight", [1e-3, 1e-1])
def test_the_restorer_is_scikit_learns_ridge(weight):
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(4)
    x, y = rng.uniform(size=(30, 48)), rng.uniform(size=(30, 48))
    centred = x - x.mean(0)
    alpha = weight * np.trace(centred @ centred.T) / 30 + 1e-9
    model = linear.Ridge(alpha=alpha).fit(x, y)
    fresh = rng.uniform(size=(5, 48))
    np.testing.assert_allclose(Restorer(x, y)(fresh, weight), model.predict(fresh), atol=1e-6)


def test_blocks_are_cut_and_laid_back():
    crops = np.random.default_rng(5).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(whole(blocks(crops, 4), 4), crops)
    order = np.random.default_rng(6).permutation(16)
    moved = whole(blocks(crops, 4)[:, order], 4)
    np.testing.assert_array_equal(undone(moved, order, 4), crops)


def test_a_shuffle_is_found_and_no_shuffle_is_the_identity(where):
    crops = gates.pictures(where)
    order = np.random.default_rng(7).permutation(16)
    source, fit = found(whole(blocks(crops, 4)[:, order], 4), crops, 4)
    np.testing.assert_array_equal(source, order)
    assert fit > 0.95
    np.testing.assert_array_equal(found(crops, crops, 4)[0], np.arange(16))


@pytest.mark.parametrize(
    "undo",
    [lambda soft: wiener(soft, 2.0 / 64, 1e-3), lambda soft: richardson_lucy(soft, 2.0 / 64)],
    ids=["wiener", "richardson-lucy"],
)
def test_a_gaussian_is_undone(undo):
    import cv2

    y, x = np.mgrid[0:64, 0:64]
    sharp = (128 + 60 * np.sin(x / 3) * np.cos(y / 4)).astype(np.uint8)
    sharp = np.repeat(sharp[None, ..., None], 3, axis=3)
    soft = cv2.GaussianBlur(sharp[0], (0, 0), 2.0, borderType=cv2.BORDER_REFLECT)[None]
    restored = undo(soft)
    inner = np.s_[:, 8:-8, 8:-8]
    before = np.abs(soft[inner].astype(float) - sharp[inner]).mean()
    after = np.abs(restored[inner].astype(float) - sharp[inner]).mean()
    assert after < before / 3


def test_an_attacker_that_stops_is_broken_not_private(where):
    clear = gates.drawn(where)
    anon = clear.copy()
    anon[where.rows("V")] = np.nan
    row = ladder.attack(
        next(a for a in ATTACKERS if a.name == "A0-other"),
        gates.case(where, clear, anon),
        where,
        "drawn",
    )
    assert row.status == "broken"
    assert "not finite" in row.reason
    assert row.all is None
    assert not gates.sane([row]).passed


def test_too_few_people_to_learn_from(where):
    clear = gates.drawn(where)
    given = gates.replace(gates.case(where, clear, clear), training=np.zeros(len(clear), bool))
    row = ladder.attack(next(a for a in ATTACKERS if a.name == "A4-ridge"), given, where, "drawn")
    assert (row.status, row.reason) == ("skipped", "too few people to learn from")


# ---- attackers that need more than one set of vectors ------------------------------------------


def test_full_does_more_than_standard_and_standard_more_than_quick(where):
    clear = gates.drawn(where)
    given = gates.case(where, clear, clear)

    def waiting(profile):
        rows = ladder.climb(
            [tuning.WHOLE, unet.UNET, inverter.INVERTER], given, where, "dlib", profile
        )
        return [row.attack for row in rows if row.reason.startswith("takes long")]

    assert waiting("quick") == ["A2-whole", "A3-net", "A6"]
    assert waiting("standard") == ["A2-whole"]
    assert waiting("full") == []


def test_a_classifier_of_the_gallery_finds_what_cosine_does_not(where):
    """One number tells the person, buried under fifteen large ones that do not."""
    rng = np.random.default_rng(0)
    clear = gates.drawn(where)
    own = rng.normal(size=(int(where.people.max()) + 1, 6))[where.people]
    anon = unit(
        np.hstack([own + 0.05 * rng.normal(size=own.shape), 3 * rng.normal(size=(len(own), 3))])
    )
    given = gates.case(where, clear, anon)
    row = ladder.attack(closed.CLOSED, given, where, "drawn")
    plain = ladder.attack(next(a for a in ATTACKERS if a.name == "A1"), given, where, "drawn")
    assert row.variant.startswith("classifier")
    assert rate(row) > rate(plain) + 0.15
    assert row.tar == ()  # it may not meet the probes: no verification


def test_a_classifier_does_not_learn_the_probes(where):
    """Vectors that say nothing leave chance: one that had learnt the probes would know them all."""
    anon = unit(np.random.default_rng(1).normal(size=(len(where.people), 64)))
    row = ladder.attack(closed.CLOSED, gates.case(where, anon, anon), where, "drawn")
    assert rate(row) < 0.15


def test_a_decoder_draws_faces_that_another_recogniser_knows(where):
    """The recogniser at hand is fed nothing useful; another one's vectors leak the picture."""
    crops = gates.pictures(where)
    clear = gates.seeing(crops)
    flat = np.stack([crop[::4, ::4] for crop in crops]).reshape(len(crops), -1) / 128.0 - 1
    foreign = unit(flat @ np.random.default_rng(2).normal(size=(flat.shape[1], 160)))
    hidden = unit(np.random.default_rng(3).normal(size=clear.shape))
    given = gates.case(
        where,
        clear,
        hidden,
        clear_crops=crops,
        anon_crops={"clear": crops},
        embed=gates.seeing,
        foreign={"other": (foreign, foreign)},
    )
    row = ladder.attack(inverter.INVERTER, given, where, "drawn")
    assert row.status == "ok"
    assert row.variant.startswith("from other")
    assert rate(row) > 0.3
    noise = unit(np.random.default_rng(4).normal(size=foreign.shape))
    lost = gates.replace(given, foreign={"other": (foreign, noise)})
    assert rate(ladder.attack(inverter.INVERTER, lost, where, "drawn")) < 0.2


def test_releases_taken_together_average_the_noise_out(where):
    rng = np.random.default_rng(5)
    clear = gates.drawn(where)
    one, *more = (unit(clear + 3 * unit(rng.normal(size=clear.shape))) for _ in range(8))
    alone = gates.case(where, clear, one)
    assert ladder.attack(keyed.KEYED, alone, where, "drawn").status == "skipped"
    row = ladder.attack(keyed.KEYED, gates.replace(alone, again=more), where, "drawn")
    naive = ladder.attack(next(a for a in ATTACKERS if a.name == "A0-other"), alone, where, "drawn")
    assert rate(row) > rate(naive) + 0.3
    fresh = [unit(rng.normal(size=clear.shape)) for _ in range(8)]
    given = gates.replace(gates.case(where, clear, fresh[0]), again=fresh[1:])
    assert rate(ladder.attack(keyed.KEYED, given, where, "drawn")) < 0.2


def test_a_network_restores_what_was_inverted_and_repeats_itself(monkeypatch):
    """A negative is turned back, learnt from few small pictures, and the same way twice."""
    from moretta.evaluation.attackers.restorer import small

    monkeypatch.setattr(unet, "WIDTH", 8)
    monkeypatch.setattr(unet, "LEAST_STEPS", 60)
    monkeypatch.setattr(unet, "EPOCHS", 1)
    clear = small(gates.pictures(gates.layout({"T": 20, "V": 2, "E": 2})), 16)
    anon = 1 - clear
    runs = []
    for _ in range(2):
        *_, (share, restored) = unet.learnt(anon[:80], clear[:80], 16, 7)
        runs.append(restored(anon[80:]))
    assert share == 1
    np.testing.assert_array_equal(*runs)
    before, after = (np.abs(each - clear[80:]).mean() for each in (anon[80:], runs[0]))
    assert after < 0.6 * before


def test_tuning_a_network_finds_what_it_did_not_look_at(where, monkeypatch):
    """A network that ignores the channel that tells people learns to look there."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(tuning, "LEAST_STEPS", 200)
    rng = np.random.default_rng(6)
    people = where.people
    own = rng.normal(size=(int(people.max()) + 1, 6))[people]
    inputs = np.hstack([own, rng.normal(size=(len(people), 10))])
    network = torch.nn.Linear(16, 12, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.from_numpy(rng.normal(size=(12, 16)) * ([0.1] * 6 + [1] * 10)))

    def top1(vectors):
        anon = unit(vectors.detach().numpy().astype(float))
        return rate(
            ladder.attack(
                next(a for a in ATTACKERS if a.name == "A1"),
                gates.case(where, anon, anon),
                where,
                "drawn",
            )
        )

    x = torch.from_numpy(inputs).float()
    before = top1(network(x))
    rows = where.rows("T")
    tuned = tuning.tuned(network, x[rows], people[rows], 3)
    assert top1(tuned(x)) > before + 0.2


# ---- open set, easiest people ------------------------------------------------------------------


def test_a_watch_list_by_loops():
    rng = np.random.default_rng(7)
    own = np.repeat(np.arange(200), 2)
    scores = rng.normal(size=(400, 200))
    scores[np.arange(400), own] += 3
    found = ladder.watchlist(scores, own, seed=1)
    order = np.random.default_rng(ladder.derived_seed(1, "enrolled")).permutation(200)
    listed = sorted(order[:100].tolist())
    alarms = sorted(
        (max(scores[p, listed]) for p in range(400) if own[p] not in listed), reverse=True
    )
    limit = alarms[int(0.01 * len(alarms))]
    hits = [
        scores[p, own[p]] > limit and scores[p, own[p]] == max(scores[p, listed])
        for p in range(400)
        if own[p] in listed
    ]
    assert found.found.v == pytest.approx(np.mean(hits))
    assert found.realised == pytest.approx(np.mean([a > limit for a in alarms]))
    assert (found.enrolled, found.others) == (100, 100)
    flat = ladder.watchlist(np.ones((400, 200)), own, seed=1)
    assert flat.found.v == 0
    assert ladder.watchlist(scores[:40], own[:40], seed=1) is None


def test_the_easiest_people_are_those_who_stand_apart(where):
    clear = gates.drawn(where)
    anon = unit(np.random.default_rng(8).normal(size=clear.shape))
    people = where.people_in("E")
    sharp = np.isin(where.people, people[:15])
    anon[sharp] = clear[sharp]
    row = ladder.attack(
        next(a for a in ATTACKERS if a.name == "A1"), gates.case(where, clear, anon), where, "drawn"
    )
    count, found = ladder.easiest(row, anon, where, seed=0)
    assert count == len(people) // 2
    assert found.v > rate(row) + 0.2
