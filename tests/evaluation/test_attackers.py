"""Every attacker on cases whose answer is known; each undoes what it is made for and nothing by luck."""

from __future__ import annotations

import numpy as np
import pytest

from moretta.evaluation import gates, ladder
from moretta.evaluation.attackers import ATTACKERS, NOT_HERE, decides, perceptron
from moretta.evaluation.attackers import mapping as maps
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
    assert row.status == ("skipped" if attacker.pixels else "ok"), row.reason
    assert bool(row.reason) == attacker.pixels
    if row.status == "ok":
        assert row.all.top1.lo <= row.all.top1.v <= row.all.top1.hi
        assert row.measured == pytest.approx(row.chance, abs=0.03)
        assert len(row.curve) == (3 if row.learnt_from else 0)


def test_names_are_taken_once():
    names = [a.name for a in ATTACKERS]
    assert len(set(names)) == len(names)
    assert not set(names) & set(NOT_HERE)


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
