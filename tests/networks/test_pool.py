import hashlib
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from moretta.networks import pool as pools
from moretta.networks.pool import BANDS, GENDERS, build, choose, random_identities


class Drawn:
    """A head by thresholds on two components: seniors and youths are rare, one kind is unknown."""

    def probabilities(self, identities):
        x = identities.astype(np.float64)
        band = np.digitize(x[:, 0] * 48**0.5, [-2.6, -1, 1, 2.2])  # shares 0.005 ... 0.013
        bands = np.full((len(x), 5), 0.05)
        bands[np.arange(len(x)), band] = 0.8
        return bands, np.where(x[:, 1] > 0, 0.9, 0.2)


class Blind:
    """A head to which all look alike."""

    def probabilities(self, identities):
        bands = np.tile([0.0, 0.1, 0.8, 0.1, 0.0], (len(identities), 1))
        return bands, np.full(len(identities), 0.25)


def looks(band, gender):
    return SimpleNamespace(band=band, gender=gender)


@pytest.fixture(scope="module")
def pool():
    return build(6000, 11, Drawn(), least=100, most=60_000)


# ---- building --------------------------------------------------------------------------------


def test_a_pool_is_the_same_from_the_same_seed(pool):
    again = build(6000, 11, Drawn(), least=100, most=60_000)
    for name in ("identities", "bands", "genders", "band_confidences", "gender_confidences"):
        np.testing.assert_array_equal(getattr(pool, name), getattr(again, name))
        assert not getattr(pool, name).flags.writeable
    assert not np.array_equal(pool.identities, build(6000, 12, Drawn()).identities)


def test_labels_and_confidences_are_the_heads(pool):
    assert len(pool) == 6000
    assert pool.identities.shape == (6000, 48)
    assert pool.identities.dtype == np.float32
    bands, female = Drawn().probabilities(pool.identities)
    np.testing.assert_array_equal(pool.bands, bands.argmax(1))
    np.testing.assert_array_equal(pool.genders, female >= 0.5)
    np.testing.assert_allclose(pool.band_confidences, 0.8)
    np.testing.assert_allclose(pool.gender_confidences, np.where(pool.genders == 1, 0.9, 0.8))
    assert pool.shares().sum() == pytest.approx(1)
    assert pool.shares()[2, 1] == ((pool.bands == 2) & (pool.genders == 1)).mean()


def test_rare_kinds_are_filled_up_from_the_stream_and_nothing_else_moves(pool):
    plain = build(6000, 11, Drawn(), least=0)
    np.testing.assert_array_equal(plain.identities, random_identities(6000, 11))
    before, after = plain.shares() * 6000, pool.shares() * 6000
    assert before.min() < 50
    np.testing.assert_array_equal(np.maximum(before, 100)[[0, 1, 3, 4]], after[[0, 1, 3, 4]])
    moved = (pool.identities != plain.identities).any(1)
    assert moved.sum() == np.maximum(100 - before, 0).sum()
    # who went was of the most common kind; who came is from further on in the same stream
    went = set(zip(plain.bands[moved].tolist(), plain.genders[moved].tolist(), strict=True))
    assert len(went) == 1
    stream = {row.tobytes() for row in random_identities(60_000, 11)[6000:]}
    assert all(row.tobytes() in stream for row in pool.identities[moved])
    assert len({row.tobytes() for row in pool.identities}) == 6000


def test_a_kind_that_the_stream_does_not_hold_stays_empty():
    pool = build(500, 0, Blind(), most=5000)
    assert pool.shares()[2, 0] == 1
    np.testing.assert_array_equal(pool.identities, random_identities(500, 0))


@pytest.mark.parametrize("count", [1, 2, 7, 39, 40, 100])
def test_small_pools_work(count):
    assert len(build(count, 0, Drawn(), most=1000)) == count
    with pytest.raises(ValueError, match="a pool of 0"):
        build(0, 0, Drawn())


def test_the_default_pool_takes_less_than_a_second_and_has_every_kind():
    pytest.importorskip("safetensors")
    from moretta.networks.traits import TraitsHead
    from moretta.weights import load

    head = TraitsHead.from_tensors(load.tensors("identity"))
    started = time.thread_time()  # of this thread: on many cores a library's threads spin and wait
    pool = build(pools.COUNT, pools.SEED, head)
    assert time.thread_time() - started < 5  # under 1 s on a free core: docs/networks.md
    assert len(pool) == 60_000
    assert round(pool.shares().min() * 60_000) == pools.LEAST
    # a public constant: records name it, so it may only change with its seed and with the head
    assert hashlib.sha256(pool.identities.tobytes()).hexdigest().startswith("78f11ddc68aea7e8")


def test_no_torch():
    code = (
        "import sys, moretta.networks.pool, moretta.networks.traits; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- choosing --------------------------------------------------------------------------------


@pytest.mark.parametrize("match", pools.MATCHES)
@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("gender", GENDERS)
def test_the_chosen_one_looks_as_wanted(pool, match, band, gender):
    rng = np.random.default_rng(0)
    for _ in range(20):
        index = choose(pool, looks(band, gender), match, rng)
        assert type(index) is int
        if "age" in match:
            assert BANDS[pool.bands[index]] == band
        if "gender" in match:
            assert GENDERS[pool.genders[index]] == gender


@pytest.mark.parametrize(
    ("wanted", "match", "members"),
    [
        (None, "age,gender", lambda p: np.ones(len(p), bool)),
        (looks("senior", "male"), "none", lambda p: np.ones(len(p), bool)),
        (looks("senior", "male"), "age,gender", lambda p: (p.bands == 4) & (p.genders == 0)),
    ],
)
def test_all_that_agree_are_chosen_evenly(pool, wanted, match, members):
    agree = np.flatnonzero(members(pool))
    rng = np.random.default_rng(5)
    draws = 20_000
    chosen = np.array([choose(pool, wanted, match, rng) for _ in range(draws)])
    assert np.isin(chosen, agree).all()
    # which tenth of the members: chi-squared with 9 degrees of freedom, 47.5 at 3e-7
    tenth = np.searchsorted(agree, chosen) * 10 // len(agree)
    expected = np.bincount(np.arange(len(agree)) * 10 // len(agree)) * draws / len(agree)
    assert ((np.bincount(tenth, minlength=10) - expected) ** 2 / expected).sum() < 47.5


def test_the_same_generator_chooses_the_same(pool):
    def draw():
        rng = np.random.default_rng(3)
        return [choose(pool, looks("adult", "female"), "age,gender", rng) for _ in range(5)]

    assert draw() == draw()


def test_where_nobody_agrees_age_is_dropped_first_and_then_gender():
    pool = build(500, 0, Blind(), most=500)  # all adult and male
    rng = np.random.default_rng(0)
    for wanted in [looks("child", "male"), looks("child", "female")]:
        for match in pools.MATCHES:
            assert 0 <= choose(pool, wanted, match, rng) < 500
    mixed = build(500, 0, Drawn(), least=0)
    kept = np.flatnonzero(mixed.bands != 0)
    without = pools.Pool(
        **{name: getattr(mixed, name)[kept] for name in pools.Pool.__dataclass_fields__}
    )
    drawn = [choose(without, looks("child", "female"), "age,gender", rng) for _ in range(50)]
    assert (without.genders[drawn] == 1).all()


def test_another_match_is_refused(pool):
    with pytest.raises(ValueError, match="match 'hair'"):
        choose(pool, None, "hair", np.random.default_rng(0))


def test_identities_given_are_labelled_and_the_rarest_kind_is_counted():
    made = pools.labelled(random_identities(500, 3), Drawn())
    bands, female = Drawn().probabilities(made.identities)
    kinds = [
        (BANDS[band], GENDERS[int(one >= 0.5)])
        for band, one in zip(bands.argmax(1), female, strict=True)
    ]
    for match, places in (("age", [0]), ("gender", [1]), ("age,gender", [0, 1])):
        choices = [[BANDS, GENDERS][place] for place in places]
        named = [tuple(kind[place] for place in places) for kind in kinds]
        every = [(one,) for one in choices[0]]
        if len(choices) == 2:
            every = [(band, gender) for band in BANDS for gender in GENDERS]
        few, name = pools.fewest(made, match)
        assert few == min(named.count(one) for one in every)
        assert named.count(tuple(name.split(", "))) == few
    assert pools.fewest(made, "none") == (500, "")


def test_a_crowd_looks_like_its_identity_and_has_always_the_same_size(pool):
    asked = random_identities(20, 5)
    wanted = pools.labelled(asked, Drawn())
    crowds = pools.crowds(pool, Drawn(), asked)
    assert crowds.shape == (20, pools.CROWD, 48)
    for at, crowd in enumerate(crowds):
        found = pools.labelled(crowd, Drawn())
        assert set(found.bands) == {wanted.bands[at]}
        assert set(found.genders) == {wanted.genders[at]}
    lonely = pools.labelled(asked[:1], Drawn())
    unlike = -asked[:1]  # of the other gender: the pool has none, so all are its crowd
    assert (pools.crowds(lonely, Drawn(), unlike) == asked[0]).all()
