"""Mechanisms against closed forms, enumeration, other libraries, and attacks that must stay below epsilon.

Samples are drawn with a fixed source, so a test that passes once passes always; limits are those that a
fresh source would exceed about once in a million runs (5 standard errors, or p below 1e-6).
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from moretta.errors import ReleaseRefused, UsageError
from moretta.networks.pool import random_identities
from moretta.privacy import mechanisms
from moretta.privacy.entropy import Entropy, Predictable
from moretta.privacy.mechanisms import (
    GRID,
    MECHANISMS,
    SEEN,
    FinitePool,
    L2Laplace,
    Laplace,
    PrivUnit,
    bessel_ratio,
    checked_epsilon,
    guess_bound,
    log_cap,
    mechanism,
    normalised,
    rounded,
    solve,
    turned,
    wood,
)

N = 20_000
CONTINUOUS = ("privunit", "laplace", "laplace-compat", "l2-laplace", "vmf")


def axis(length: int) -> np.ndarray:
    x = np.zeros(length)
    x[0] = 1
    return x


def any_vector(length: int, seed: int = 3) -> np.ndarray:
    return random_identities(1, seed, length)[0].astype(float)


def cosines(name: str, epsilon: float, length: int, *, seed: int = 1, n: int = 6000) -> np.ndarray:
    x = mechanisms.checked(any_vector(length))
    return mechanism(name).sample(x, epsilon, Predictable(seed), n) @ x


def clopper_pearson(hits: int, n: int, alpha: float) -> tuple[float, float]:
    from scipy.stats import beta

    return beta.ppf(alpha, hits, n - hits + 1), beta.ppf(1 - alpha, hits + 1, n - hits)


# ---- closed forms ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "gamma", "p"),
    [(1, 0.244919, 0.622459), (2, 0.462117, 0.731059), (5, 0.848284, 0.924142)],
)
def test_on_the_ordinary_sphere_the_cap_has_a_closed_form(epsilon, gamma, p):
    cap = solve(epsilon, 3)
    assert cap.gamma == pytest.approx(math.tanh(epsilon / 4), abs=1e-12)
    assert (cap.gamma, cap.p) == pytest.approx((gamma, p), abs=1e-6)
    assert math.exp(cap.log_q) == pytest.approx(cap.miss, rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.1, 1, 2, 5, 10, 20, 50, 100, 200, 500])
@pytest.mark.parametrize("length", [3, 16, 48, 128, 512])
def test_cap_accounting_is_exact(length, epsilon):
    if epsilon > {3: 10, 16: 100}.get(length, 500):
        pytest.skip("double precision holds no such cap")
    special = pytest.importorskip("scipy.special")
    cap = solve(epsilon, length)
    spent = math.log(cap.p / cap.miss) + math.log1p(-math.exp(cap.log_q)) - cap.log_q
    assert spent == pytest.approx(epsilon, abs=1e-10)
    a = (length - 1) / 2
    share = float(special.betainc(a, a, (1 - cap.gamma) / 2))
    assert cap.log_q == pytest.approx(math.log(share), rel=1e-11)


@pytest.mark.parametrize(("length", "epsilon"), [(8, 1), (48, 5), (128, 10), (512, 1)])
def test_no_other_cap_has_a_larger_mean_cosine(length, epsilon):
    grown = math.expm1(epsilon)

    def mean(gamma: float) -> float:
        moment = math.exp(mechanisms._log_moment(gamma, length))
        return grown * moment / (grown * math.exp(log_cap(gamma, length)) + 1)

    best = solve(epsilon, length).gamma
    assert mean(best) == pytest.approx(best, abs=1e-12)
    assert max(mean(g) for g in np.linspace(0, 0.999, 2000)) <= best + 1e-15


@pytest.mark.parametrize(
    ("length", "epsilon", "p", "log_q"),
    [(512, 1, 0.5895, -1.0623), (512, 10, 0.9254, -7.4818), (512, 100, 0.9955, -94.60),
     (128, 5, 0.8335, -3.4223), (128, 50, 0.9920, -45.18), (16, 5, 0.8501, None)],
)  # fmt: skip
def test_caps_of_the_specification(length, epsilon, p, log_q):
    cap = solve(epsilon, length)
    assert cap.p == pytest.approx(p, abs=6e-5)
    assert log_q is None or cap.log_q == pytest.approx(log_q, rel=1e-4)


def test_bessel_ratio_where_the_bessel_functions_themselves_underflow():
    mpmath = pytest.importorskip("mpmath")
    for kappa, length in ((0.5, 512), (50, 512), (250, 128), (5, 3), (24, 48)):
        ratio = mpmath.besseli(length / 2, kappa) / mpmath.besseli(length / 2 - 1, kappa)
        assert bessel_ratio(kappa, length) == pytest.approx(float(ratio), rel=1e-12)
    assert bessel_ratio(1, 3) == pytest.approx(1 / math.tanh(1) - 1, rel=1e-12)


def test_the_bound_on_guessing():
    assert guess_bound(0, 100) == pytest.approx(0.01)
    assert guess_bound(10, 10_000) == pytest.approx(0.69, abs=0.005)
    assert guess_bound(5, 1_000_000) == pytest.approx(0.00015, abs=5e-6)
    assert guess_bound(650, 10) == pytest.approx(1)


# ---- laws ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "length", "epsilon", "mean"),
    [("privunit", 512, 10, 0.1434), ("privunit", 512, 50, 0.3908), ("privunit", 128, 1, 0.0352),
     ("privunit", 128, 5, 0.1628), ("privunit", 16, 10, 0.7030), ("privunit", 64, 1, 0.0498),
     ("vmf", 512, 100, 0.0967), ("vmf", 128, 500, 0.7774), ("vmf", 16, 5, 0.1530),
     ("l2-laplace", 512, 100, 0.0972), ("l2-laplace", 128, 100, 0.3638), ("l2-laplace", 16, 10, 0.2981),
     ("laplace", 128, 100, 0.2679), ("laplace", 512, 500, 0.3271),
     ("laplace-compat", 512, 200, 0.2026), ("laplace-compat", 512, 50, 0.0516)],
)  # fmt: skip
def test_mean_cosine_of_the_specification(name, length, epsilon, mean):
    w = cosines(name, epsilon, length, n=4000 if length == 512 else 6000)
    standard = 3 if length > 100 else 5  # the table is rounded to 0.0001
    assert abs(w.mean() - mean) <= standard * w.std() / math.sqrt(len(w)) + 0.00005


@pytest.mark.parametrize("name", [*CONTINUOUS, "uniform"])
@pytest.mark.parametrize("epsilon", [0, 1, 20])
def test_mean_cosine_is_what_the_record_says(name, epsilon):
    if name == "uniform" and epsilon:
        pytest.skip("uniform has epsilon 0")
    w = cosines(name, epsilon, 48)
    expected = mechanism(name).expected_cosine(epsilon, 48)
    assert abs(w.mean() - expected) <= 5 * w.std() / math.sqrt(len(w)) + 0.02 * expected


@pytest.mark.parametrize(("length", "epsilon", "p"), [(512, 1, 0.5895), (48, 10, 0.9328)])
def test_the_cap_is_hit_with_its_probability_and_evenly(length, epsilon, p):
    stats, special = pytest.importorskip("scipy.stats"), pytest.importorskip("scipy.special")
    cap, a = solve(epsilon, length), (length - 1) / 2
    w = cosines("privunit", epsilon, length, n=3000)
    inside = w >= cap.gamma
    assert abs(inside.mean() - p) <= 5 * math.sqrt(p * (1 - p) / len(w)) + 5e-5
    q = math.exp(cap.log_q)
    for part, low, width in ((w[inside], 0, q), (w[~inside], q, 1 - q)):
        places = (special.betainc(a, a, (1 - part) / 2) - low) / width
        assert stats.kstest(places, "uniform").pvalue > 1e-6


@pytest.mark.parametrize(("length", "gamma"), [(48, 0.05), (48, 0.3), (3, 0.9), (128, 0.01)])
def test_both_ways_of_drawing_in_a_cap_are_even(length, gamma):
    stats, special = pytest.importorskip("scipy.stats"), pytest.importorskip("scipy.special")
    a = (length - 1) / 2
    w, sines = mechanisms._in_cap(gamma, length, Predictable(5), N)
    assert np.abs(w**2 + sines - 1).max() < 1e-12
    places = special.betainc(a, a, (1 - w) / 2) / math.exp(log_cap(gamma, length))
    assert stats.kstest(places, "uniform").pvalue > 1e-6


@pytest.mark.parametrize(("length", "epsilon"), [(512, 1), (512, 10), (128, 1)])
def test_noise_radius_is_gamma(length, epsilon):
    stats = pytest.importorskip("scipy.stats")
    r = L2Laplace().radii(epsilon, np.empty((4000, length)), Predictable(2)).ravel()
    scale = 2 / epsilon
    assert r.mean() == pytest.approx(length * scale, abs=5 * math.sqrt(length / 4000) * scale)
    assert stats.kstest(r, "gamma", args=(length, 0, scale)).pvalue > 1e-6


def test_von_mises_fisher_on_the_ordinary_sphere():
    stats = pytest.importorskip("scipy.stats")
    for kappa, mean in ((0.5, 0.163953), (1, 0.313035), (2, 0.537315)):
        w, sines = wood(kappa, 3, Predictable(4), N)
        assert np.abs(w**2 + sines - 1).max() < 1e-12
        assert abs(w.mean() - mean) <= 5 * w.std() / math.sqrt(N)

        def law(t: np.ndarray, kappa: float = kappa) -> np.ndarray:
            return (np.exp(kappa * t) - np.exp(-kappa)) / (2 * np.sinh(kappa))

        assert stats.kstest(w, law).pvalue > 1e-6


@pytest.mark.parametrize(
    ("length", "kappa", "rate"),
    [(512, 5, 1.0), (512, 50, 0.995), (512, 250, 0.927), (128, 50, 0.945), (128, 250, 0.789)],
)
def test_wood_accepts_as_often_as_theory_says(monkeypatch, length, kappa, rate):
    asked, n = [], 4000
    kept = mechanisms._kept

    def counted(drawn, wanted, count):
        return kept(lambda n: (asked.append(n), drawn(n))[1], wanted, count)

    monkeypatch.setattr(mechanisms, "_kept", counted)
    w, _ = wood(kappa, length, Predictable(6), n)
    assert n / sum(asked) == pytest.approx(rate, abs=0.015)
    assert abs(w.mean() - bessel_ratio(kappa, length)) <= 5 * w.std() / math.sqrt(n)


def test_wood_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    theirs = stats.vonmises_fisher(axis(48), 24).rvs(5000, random_state=1)[:, 0]
    assert stats.ks_2samp(wood(24, 48, Predictable(7), 5000)[0], theirs).pvalue > 1e-6


def test_laplace_noise_has_its_scale():
    stats = pytest.importorskip("scipy.stats")
    noise = {}

    class Spy(Laplace):
        def sample(self, x, epsilon, entropy, count):
            noise["y"] = super().sample(x, epsilon, entropy, count)
            return noise["y"]

    # ratios of two coordinates do not hang on the norm: (x0 + b l0) / (x1 + b l1) at x far away
    x, epsilon = axis(3), 0.01  # noise of scale 346 beside 1: nearly pure noise
    y = Spy().sample(x, epsilon, Predictable(8), N)
    rng = np.random.default_rng(0)
    pure = rng.laplace(size=(N, 3)) * (2 * math.sqrt(3) / epsilon) + x
    assert stats.ks_2samp(y[:, 1] / y[:, 2], pure[:, 1] / pure[:, 2]).pvalue > 1e-6
    assert stats.ks_2samp(y[:, 0], normalised(pure)[:, 0]).pvalue > 1e-6


# ---- no pair of vectors is told apart better than epsilon says -------------------------------


def test_density_ratios_on_the_ordinary_sphere():
    pairs = list(combinations(normalised(np.vstack([np.eye(3), -np.eye(3), [[1, 2, 3]]])), 2))
    outputs = normalised(np.random.default_rng(0).standard_normal((2000, 3)))
    outputs = np.vstack([outputs, np.eye(3), -np.eye(3)])

    def worst(log_density):
        return max(
            np.abs(log_density(outputs @ x) - log_density(outputs @ z)).max() for x, z in pairs
        )

    for epsilon in (1, 2, 5):
        kappa, cap = epsilon / 2, solve(epsilon, 3)
        found = worst(lambda t, kappa=kappa: kappa * t)
        assert 0.999 * epsilon <= found <= epsilon * (1 + 1e-9)
        q = math.exp(cap.log_q)
        levels = math.log(cap.p / q), math.log(cap.miss / (1 - q))
        found = worst(lambda t, g=cap.gamma, two=levels: np.where(t >= g, *two))
        assert 0.999 * epsilon <= found <= epsilon * (1 + 1e-9)
        points = np.vstack([outputs * r for r in (0.3, 1, 4)])
        for a, order in ((epsilon / 2, 2), (epsilon / (2 * math.sqrt(3)), 1)):
            logs = [
                -a * np.linalg.norm(points - x, ord=order, axis=1) for pair in pairs for x in pair
            ]
            spread = max(np.abs(u - v).max() for u, v in zip(logs[::2], logs[1::2], strict=True))
            assert spread <= epsilon * (1 + 1e-9)


@pytest.mark.parametrize("epsilon", [1, 2, 4])
def test_half_space_of_l2_laplace_on_the_ordinary_sphere(epsilon):
    """P(z.x >= 1) is 1/2 from x and e^-eps (2 + eps) / 4 from -x; seen here before normalising."""
    entropy, n = Predictable(9), N
    way = normalised(entropy.normal(n, 3))
    moved = L2Laplace().radii(epsilon, way, entropy) * way
    near, far = ((moved[:, 0] + sign) >= 1 for sign in (1, -1))
    expected = math.exp(-epsilon) * (2 + epsilon) / 4
    assert abs(near.mean() - 0.5) <= 5 * 0.5 / math.sqrt(n)
    assert abs(far.mean() - expected) <= 5 * math.sqrt(expected / n)


def attack(name: str, epsilon: float, length: int, edge: float, n: int) -> float:
    """Return a lower bound on epsilon at 99 %: two opposite candidates, one event."""
    x = mechanisms.checked(any_vector(length))
    chosen, entropy = mechanism(name), Predictable(10)
    from_x = int((chosen.sample(x, epsilon, entropy, n) @ x >= edge).sum())
    from_other = int((chosen.sample(-x, epsilon, entropy, n) @ x >= edge).sum())
    return math.log(clopper_pearson(from_x, n, 0.005)[0] / clopper_pearson(from_other, n, 0.005)[1])


@pytest.mark.parametrize(
    ("epsilon", "expected"), [(0.5, 0.457), (1, 0.950), (2, 1.930), (5, 4.754)]
)
def test_two_candidates_are_told_apart_no_better_than_epsilon(epsilon, expected):
    pytest.importorskip("scipy")
    bound = attack("privunit", epsilon, 48, solve(epsilon, 48).gamma, N)
    assert 0.9 * epsilon - (epsilon < 1) <= bound <= epsilon
    assert bound == pytest.approx(expected, abs=0.15 if epsilon < 5 else 0.4)


@pytest.mark.parametrize("name", ["vmf", "l2-laplace", "laplace", "laplace-compat"])
def test_other_mechanisms_stay_below_their_epsilon_too(name):
    pytest.importorskip("scipy")
    for epsilon, length, edge in ((2, 3, 0.8), (5, 48, 0.1), (1, 16, 0.0)):
        if name == "laplace-compat" and length not in SEEN:
            continue
        assert attack(name, epsilon, length, edge, 8000) <= epsilon
    if name == "vmf":
        assert attack(name, 2, 3, 0.8, N) > 1.5


# ---- the pool --------------------------------------------------------------------------------


def small_pool(count: int = 10, length: int = 48) -> FinitePool:
    return FinitePool(random_identities(count, 1, length))


def test_every_number_that_the_pool_can_draw_is_counted(monkeypatch):
    """N = 10, k = 3, epsilon 1: all classes of U are enumerated, nothing is sampled."""
    high, low, k = mechanisms._exp_times(1, 2**20), 2**20, 3
    total = high * k + low * 7
    assert (high, low, total) == (2850325, 1048576, 2850325 * 3 + 1048576 * 7)
    counts = np.zeros(10, int)
    for rank in range(10):
        start = rank * high if rank < k else k * high + (rank - k) * low
        stop = start + (high if rank < k else low)
        for number in (start, start + 1, (start + stop) // 2, stop - 1):
            assert mechanisms._place(number, high, low, k) == rank
        counts[rank] = stop - start
    assert counts.sum() == total
    assert counts[0] / total == pytest.approx(0.179367, abs=1e-6)
    assert counts[9] / total == pytest.approx(0.065985, abs=1e-6)
    assert counts[0] / counts[9] == pytest.approx(2.7182817, abs=1e-7)
    assert math.log(counts[0] / counts[9]) <= 1


def test_pool_draws_have_that_law_for_every_vector():
    stats = pytest.importorskip("scipy.stats")
    pool = small_pool()
    high, low, k, total = pool.weights(1)
    for seed in (3, 4):
        x = mechanisms.checked(any_vector(48, seed))
        order = np.argsort(-(pool.identities @ x.astype(np.float32)), kind="stable")
        drawn = np.bincount(pool.indices(x, 1, Predictable(seed), 20_000), minlength=10)[order]
        share = np.where(np.arange(10) < k, high, low) / total
        assert stats.chisquare(drawn, share * 20_000).pvalue > 1e-6


def test_weights_hang_on_nothing_but_epsilon_and_the_size():
    pool = small_pool(1000)
    one, other = (pool.statement(5, 48) for _ in range(2))
    assert one == other
    assert one.delta == 0
    for epsilon in (1e-6, 0.1, 1, 5, 10, 50, 200, 650):
        high, low, k, total = pool.weights(epsilon)
        assert 1 <= k < 1000
        assert total == high * k + low * (1000 - k)
        assert pool.true_epsilon(epsilon, 48) <= epsilon
        assert pool.true_epsilon(epsilon, 48) == pytest.approx(epsilon, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_ranking_takes_equal_ones_in_their_order(seed):
    rows = random_identities(4, 1, 8)
    pool = FinitePool(np.vstack([rows, rows[::-1]]))
    x = mechanisms.checked(rows[seed].astype(float))

    class First(Predictable):
        def randbelow(self, bound):
            return 0

    assert pool.indices(x, 1, First(0), 1) == [seed]


def test_pool_at_epsilon_0_is_even_and_large_pools_lose_nothing():
    pool = small_pool(2000)
    high, low, _, _ = pool.weights(0)
    assert high == low
    x = mechanisms.checked(any_vector(48))
    for epsilon in (0, 1, 5):
        w = pool.sample(x, epsilon, Predictable(epsilon), 4000) @ x
        expected = pool.expected_cosine(epsilon, 48)
        # this pool is not perfectly even about x: its own mean is a sample of 2,000
        assert abs(w.mean() - expected) <= 5 * w.std() * math.sqrt(1 / 4000 + 1 / 2000)
        assert expected == pytest.approx(solve(epsilon, 48).gamma, abs=0.002)


@pytest.mark.parametrize(("epsilon", "share"), [(5, 0.0255), (8, 0.275), (10, 0.703)])
def test_nearest_of_a_thousand(epsilon, share):
    """Rank-1 of an attacker who compares the release with 1,000 people's own vectors (d = 128)."""
    people, trials = random_identities(1000, 11, 128).astype(float), 2000
    chosen, entropy = PrivUnit(), Predictable(12)
    hits = 0
    for at in range(0, 1000, 4):
        x = mechanisms.checked(people[at])
        released = chosen.sample(x, epsilon, entropy, trials // 250)
        hits += int(((released @ people.T).argmax(axis=1) == at).sum())
    assert abs(hits / trials - share) <= 5 * math.sqrt(share * (1 - share) / trials)
    assert hits / trials <= guess_bound(epsilon, 1000) + 5 * math.sqrt(0.25 / trials)


# ---- geometry and numerics -------------------------------------------------------------------


def test_all_directions_are_treated_alike():
    """M(Ox; Og) = O M(x; g) for the mechanisms of the sphere."""
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((48, 48)))[0]
    x, noise = any_vector(48), rng.standard_normal((50, 48))
    x = mechanisms.checked(x)
    w = rng.uniform(-0.9, 0.9, 50)
    one = turned(x, w, 1 - w**2, noise) @ turn.T
    two = turned(turn @ x, w, 1 - w**2, noise @ turn.T)
    assert np.abs(one - two).max() < 1e-12
    assert np.abs(turned(x, w, 1 - w**2, noise) @ x - w).max() < 1e-12


@pytest.mark.parametrize("name", ["privunit", "vmf", "l2-laplace"])
def test_the_cosine_law_does_not_hang_on_the_vector(name):
    stats = pytest.importorskip("scipy.stats")
    chosen, x, y = mechanism(name), axis(32), mechanisms.checked(any_vector(32))
    one = chosen.sample(x, 10, Predictable(1), 8000) @ x
    two = chosen.sample(y, 10, Predictable(2), 8000) @ y
    assert stats.ks_2samp(one, two).pvalue > 1e-6


def test_laplace_noise_is_not_even_in_direction():
    """The contrast case: excess kurtosis 3 along an axis, 3 / d along the diagonal."""
    stats = pytest.importorskip("scipy.stats")
    entropy = Predictable(3)
    size = -np.log(entropy.uniform(100_000, 32))
    noise = np.where(entropy.uniform(100_000, 32) <= 0.5, size, -size)
    along = noise[:, 0]
    across = noise.sum(axis=1) / math.sqrt(32)
    assert stats.kurtosis(along) == pytest.approx(3, abs=0.6)
    assert stats.kurtosis(across) == pytest.approx(3 / 32, abs=0.09)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_releases_lie_on_the_grid_before_they_are_unit_vectors(name):
    y = mechanism(name).sample(mechanisms.checked(any_vector(48)), 5, Predictable(1), 2000)
    rng = np.random.default_rng(0)
    nudged = y + rng.choice([-1e-15, 1e-15], y.shape)
    np.testing.assert_array_equal(rounded(y), rounded(nudged))
    steps = np.rint(y * GRID)
    np.testing.assert_array_equal(rounded(y), normalised(steps / GRID))
    assert np.abs(rounded(y) - y).max() < 1.5 / GRID


def test_a_release_is_a_unit_vector_of_float32():
    for name in MECHANISMS:
        chosen = mechanism(name, random_identities(500, 1))
        x = any_vector(48).astype(np.float32)
        was = x.copy()
        got = chosen.release(x, 0 if name == "uniform" else 3)
        assert got.vector.dtype == np.float32
        assert got.vector.shape == (48,)
        assert abs(float(np.linalg.norm(got.vector)) - 1) < 3e-6
        np.testing.assert_array_equal(x, was)


def test_two_releases_differ_and_a_seed_repeats_them():
    for name in MECHANISMS:
        chosen = mechanism(name, random_identities(5000, 1))
        x, epsilon = any_vector(48), 0 if name == "uniform" else 3
        fresh = {chosen.release(x, epsilon).vector.tobytes() for _ in range(6)}
        # two draws from the pool are one member once in 1,100 times; no more than two of six, never
        assert len(fresh) > 2 if name == "pool" else len(fresh) == 6
        told = [chosen.release(x, epsilon, Predictable(1)) for _ in range(2)]
        np.testing.assert_array_equal(told[0].vector, told[1].vector)
        for one in told:
            assert one.statement.promise == "none"
            assert one.statement.epsilon == math.inf
            assert "seed" in one.statement.covers


def test_at_epsilon_0_even_known_entropy_tells_nothing():
    for name in MECHANISMS:
        chosen = mechanism(name, random_identities(5000, 1))
        one, two = (chosen.release(any_vector(48, s), 0, Predictable(1)).vector for s in (3, 4))
        np.testing.assert_array_equal(one, two)
        assert chosen.statement(0, 48).numerics == "the vector is not read"


# ---- broken mechanisms must be caught --------------------------------------------------------


def test_mutants_fail(monkeypatch):
    """Each of six mistakes breaks one of the checks above."""
    x = mechanisms.checked(any_vector(48))

    def lower_bound(epsilon: float, draw) -> float:
        edge = solve(epsilon, 48).gamma
        a, b = (int((draw(one) @ x >= edge).sum()) for one in (x, -x))
        return math.log(clopper_pearson(a, N, 0.005)[0] / clopper_pearson(b, N, 0.005)[1])

    pytest.importorskip("scipy")
    cap = solve(2, 48)
    entropy = Predictable(20)

    def with_cap(other):
        def draw(one):
            monkeypatch.setattr(mechanisms, "solve", lambda *_: other)
            y = PrivUnit().sample(one, 2, entropy, N)
            monkeypatch.undo()
            return y

        return draw

    assert lower_bound(2, lambda one: PrivUnit().sample(one, 2, entropy, N)) <= 2
    half = solve(4, 48)  # noise for twice the epsilon
    assert lower_bound(2, with_cap(replace(cap, p=half.p, miss=half.miss))) > 2
    swapped = with_cap(replace(cap, p=cap.miss, miss=cap.p))(x) @ x
    assert abs(swapped.mean() - cap.gamma) > 5 * swapped.std() / math.sqrt(N)
    other_tail = replace(cap, log_q=math.log1p(-math.exp(cap.log_q)))
    spent = math.log(cap.p / cap.miss) + math.log1p(-math.exp(other_tail.log_q)) - other_tail.log_q
    assert abs(spent - 2) > 0.1
    monkeypatch.setattr(mechanisms, "turned", lambda x, w, s, noise: w[:, None] * x + noise * 0.1)
    lazy = PrivUnit().sample(x, 2, entropy, 100)
    monkeypatch.undo()
    assert np.abs((lazy**2).sum(1) - 1).max() > 1e-6
    a, b = (PrivUnit().sample(x, 2, Predictable(1), 10) for _ in range(2))
    np.testing.assert_array_equal(a, b)  # a seed used twice: seen by the test of fresh releases
    assert mechanism("laplace-compat").true_epsilon(2, 48) > 2.4


# ---- statements ------------------------------------------------------------------------------


def test_statements_say_what_is_held():
    for name in MECHANISMS:
        chosen = mechanism(name, random_identities(500, 1))
        said = chosen.statement(0 if name == "uniform" else 5, 48)
        assert said.promise == "proved"
        assert "unit vectors" in said.neighbours
        assert "identity vector" in said.covers
        assert "hair" in said.excludes
        assert said.mechanism.startswith(name)
        assert said.numerics
    compat = mechanism("laplace-compat")
    assert compat.statement(1, 512).epsilon == pytest.approx(1.495, abs=0.001)
    assert compat.statement(1, 48).epsilon == pytest.approx(2 * math.sqrt(48) / SEEN[48])
    vmf = mechanism("vmf").statement(5, 48)
    assert (vmf.metric, vmf.metric_epsilon) == ("chord distance", 2.5)
    assert mechanism("laplace").statement(5, 48).metric_epsilon == pytest.approx(5 / 2 / 48**0.5)
    assert mechanism("privunit").statement(5, 48).metric_epsilon is None


def test_delta_covers_rounding_and_grows_with_epsilon():
    chosen = mechanism("privunit")
    assert chosen.statement(0, 512).delta == 0
    eta = 512 * 2 * 1e-14 * 4096
    assert chosen.statement(1, 512).delta == pytest.approx(eta * (1 + math.e))
    assert chosen.statement(500, 512).delta == 1  # says: nothing is promised


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [-1, -0.0001, math.nan, math.inf, -math.inf, 651, 1e300, 1e-9])
@pytest.mark.parametrize("name", MECHANISMS)
def test_epsilons_that_mean_nothing_are_refused(name, epsilon):
    chosen = mechanism(name, random_identities(10, 1))
    with pytest.raises(UsageError, match="epsilon is") as caught:
        chosen.release(any_vector(48), epsilon)
    assert caught.value.hint
    assert checked_epsilon(0) == 0


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize(
    ("vector", "why"),
    [
        (np.full(48, np.nan), "NaN"),
        (np.r_[np.inf, np.zeros(47)], "NaN or infinity"),
        (np.zeros(48), "norm 0"),
        (2 * any_vector(48), "norm 2"),
        (any_vector(48)[None], "shape"),
        (np.ones(1), "shape"),
    ],
)
def test_what_is_no_unit_vector_is_refused(name, vector, why):
    chosen = mechanism(name, random_identities(10, 1))
    with pytest.raises(ReleaseRefused, match=why) as caught:
        chosen.release(vector, 0)
    assert caught.value.hint


def test_a_pool_of_another_recogniser_is_refused():
    with pytest.raises(ReleaseRefused, match="128 numbers and the pool's have 48"):
        small_pool().release(any_vector(128), 1)
    with pytest.raises(ReleaseRefused, match="no sensitivity for vectors of 64"):
        mechanism("laplace-compat").release(any_vector(64), 1)
    with pytest.raises(ReleaseRefused, match="a pool of shape"):
        FinitePool(random_identities(1, 1))


def test_unknown_mechanisms_and_wasted_epsilons():
    with pytest.raises(UsageError, match="no mechanism 'laplac'") as caught:
        mechanism("laplac")
    assert "did you mean laplace?" in caught.value.hint
    with pytest.raises(UsageError, match="needs a pool"):
        mechanism("pool")
    with pytest.raises(UsageError, match="uniform has epsilon 0, and 1"):
        mechanism("uniform").release(any_vector(48), 1)


# ---- the source ------------------------------------------------------------------------------


def test_entropy_is_even():
    stats = pytest.importorskip("scipy.stats")
    source = Predictable(1)
    u = source.uniform(N)
    assert 0 < u.min() <= u.max() <= 1
    assert stats.kstest(u, "uniform").pvalue > 1e-6
    assert stats.kstest(source.normal(N), "norm").pvalue > 1e-6
    for bound in (1, 2, 3, 10, 256, 257):
        drawn = np.bincount([source.randbelow(bound) for _ in range(5000)], minlength=bound)
        assert len(drawn) == bound
        assert bound == 1 or stats.chisquare(drawn).pvalue > 1e-6
    assert 0 <= source.randbelow(10**280) < 10**280
    with pytest.raises(ValueError, match="below 0"):
        source.randbelow(0)


def test_the_extreme_words_give_finite_numbers():
    class Fixed(Entropy):
        def __init__(self, byte: bytes) -> None:
            self.byte = byte

        def raw(self, count: int) -> bytes:
            return self.byte * count

    assert Fixed(b"\0").uniform(1)[0] == 2.0**-53
    assert Fixed(b"\xff").uniform(1)[0] == 1
    for byte in (b"\0", b"\xff"):
        assert np.isfinite(Fixed(byte).normal(4)).all()


# ---- second opinions, where they are installed -----------------------------------------------


def test_opendp_agrees_on_the_scale_of_laplace():
    dp = pytest.importorskip("opendp.prelude")
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=float, nan=False)), dp.l1_distance(T=float)
    for length in (48, 512):
        sensitivity = 2 * math.sqrt(length)
        measurement = space >> dp.m.then_laplace(scale=sensitivity / 10)
        assert measurement.map(sensitivity) == pytest.approx(10, rel=1e-6)
        assert mechanism("laplace").true_epsilon(10, length) == pytest.approx(10, rel=1e-12)


def test_dp_accounting_agrees_on_basic_composition():
    pytest.importorskip("dp_accounting")
    from dp_accounting.pld import privacy_loss_distribution as pld

    cap = solve(1, 48)
    q = math.exp(cap.log_q)
    # opposite vectors: cap about x, cap about -x, the rest
    rest = cap.miss * (1 - 2 * q) / (1 - q)
    near, far = cap.p, cap.miss * q / (1 - q)
    masses = [
        {0: math.log(a), 1: math.log(b), 2: math.log(rest)} for a, b in ((near, far), (far, near))
    ]
    loss = pld.from_two_probability_mass_functions(*masses, value_discretization_interval=1e-4)
    assert loss.get_epsilon_for_delta(0) == pytest.approx(1, abs=1e-3)
    assert loss.self_compose(10).get_epsilon_for_delta(1e-6) <= 10 + 0.01


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 5.0])
def test_dp_accounting_agrees_on_the_pool(epsilon):
    """Two vectors whose k nearest have nobody in common: the worst pair."""
    pytest.importorskip("dp_accounting")
    from dp_accounting.pld import privacy_loss_distribution as pld

    pool = FinitePool(random_identities(600, 1))
    high, low, k, total = pool.weights(epsilon)
    rest = low * (len(pool.identities) - 2 * k) / total
    near, far = high * k / total, low * k / total
    masses = [
        {0: math.log(a), 1: math.log(b), 2: math.log(rest)} for a, b in ((near, far), (far, near))
    ]
    loss = pld.from_two_probability_mass_functions(*masses, value_discretization_interval=1e-4)
    assert loss.get_epsilon_for_delta(0) == pytest.approx(pool.true_epsilon(epsilon, 48), abs=1e-3)
    assert loss.self_compose(3).get_epsilon_for_delta(1e-9) <= 3 * epsilon + 0.01
