"""Releasing a unit vector with a stated epsilon: local differential privacy on the sphere.

Promise   for any two unit vectors x, x' and any set S of outputs, P(x -> S) <= e^epsilon P(x' -> S) +
          delta. Any two vectors are neighbours: whoever sees a release and knows everything else
          gains at most epsilon about which vector it was made from.
Assumes   the vector was found without looking at other people's; entropy that nobody else knows.
Not here  how often a person is released (ledger.py), and everything that is no part of the vector.
Numerics  the pool mechanism draws one whole number: epsilon is exact. The others round their answer to
          multiples of 2^-12 before it is made a unit vector again, which hides the last bits of
          floating point; what is left of them is the delta.
Sources   Duchi, Wainwright, Jordan 2013 and Ye, Barg 2018 (subset selection); Bhowmick et al. 2018
          (PrivUnit), Asi, Feldman, Talwar 2022 (its optimality); Wood 1994 (von Mises-Fisher);
          Dwork et al. 2006 (Laplace); Wen et al. 2022 (IdentityDP).
Checked   tests/privacy/test_mechanisms.py; the table in docs/identitydp.md.
"""

# ruff: noqa: ARG002 - one signature for every mechanism
from __future__ import annotations

import functools
import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moretta.errors import ReleaseRefused, UsageError, nearest
from moretta.privacy.entropy import Entropy
from moretta.records import Statement

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from moretta.records import Vector

    Array = npt.NDArray[np.float64]
    Choice = npt.NDArray[np.bool_]

GRID = 2.0**12  # answers are rounded to multiples of its inverse
ERROR = 1e-14  # of arithmetic, in one number of an answer before rounding
LEAST, MOST = 1e-6, 650.0  # epsilons that the arithmetic holds
SCALE = 2**20  # weights of the pool mechanism are multiples of its inverse
#: Largest L1 distance that was seen between two vectors of this length: the sensitivity of
#: `laplace-compat`. 512: a public re-implementation of IdentityDP, ArcFace on CelebA's test photos.
#: 48: the first 20,000 members of networks.pool (benchmarks/identitydp.py --sensitivity).
SEEN = {512: 30.2716, 48: 11.298}
COVERS = "the identity vector that the face is drawn from, and nothing else"
EXCLUDES = (
    "attributes (light, skin, expression, pose), the surroundings, hair, clothes, place and other"
    " photos of the person; whether a face was found, and whether the judge had it covered"
)
ANY_TWO = "any two unit vectors of this length (local model, worst case)"


@dataclass(frozen=True, slots=True, eq=False)
class Released:
    """A vector that may be seen, and what is promised about it."""

    vector: Vector  # (length,) float32, unit length
    statement: Statement


@dataclass(frozen=True)
class Mechanism(ABC):
    """A random map from the unit sphere to itself."""

    name: ClassVar[str]
    metric: ClassVar[str] = ""  # distance on which the promise is finer than epsilon

    def release(
        self, unit_vector: npt.NDArray[np.floating], epsilon: float, entropy: Entropy | None = None
    ) -> Released:
        """Return a unit vector that says at most `epsilon` about the one given.

        unit_vector: (length,), norm 1 within 0.001; it is normalised in float64 first. epsilon: 0, or
        1e-6..650. entropy: the operating system's by default. Raises UsageError for an epsilon,
        ReleaseRefused for a vector that cannot be used.
        """
        entropy = Entropy() if entropy is None else entropy
        vector = checked(unit_vector)
        epsilon = checked_epsilon(epsilon)
        (answer,) = rounded(self.sample(vector, epsilon, entropy, 1))
        return Released(
            answer.astype(np.float32),
            self.statement(epsilon, len(vector), secure=entropy.secure),
        )

    def statement(self, epsilon: float, length: int, *, secure: bool = True) -> Statement:
        """Return what is promised about one release. secure: its entropy is nobody else's."""
        true = self.true_epsilon(epsilon, length)
        said = Statement(
            promise="proved",
            mechanism=self.label(epsilon, length),
            epsilon=true,
            delta=self.delta(epsilon, length),
            metric_epsilon=self.metric_epsilon(epsilon, length) if self.metric else None,
            metric=self.metric,
            neighbours=ANY_TWO,
            covers=COVERS,
            excludes=EXCLUDES,
            numerics=self.numerics(epsilon, length),
        )
        if secure:
            return said
        return replace(
            said,
            promise="none",
            epsilon=math.inf,
            metric_epsilon=None,
            covers="nothing: the noise follows from a seed, and whoever has it takes it off again"
            if epsilon
            else "nothing: the answer follows from a seed, and whoever has it draws it again",
        )

    def true_epsilon(self, epsilon: float, length: int) -> float:
        """Return the epsilon that is really held, over all pairs of vectors."""
        return epsilon

    def metric_epsilon(self, epsilon: float, length: int) -> float:
        """Return the epsilon per unit of the distance `metric`."""
        raise NotImplementedError

    def delta(self, epsilon: float, length: int) -> float:
        """Bound what floating point leaves after rounding, for one release.

        The law that runs and the ideal one differ by at most eta = length * 2 * ERROR * GRID in total
        variation, once for each of the two vectors compared: delta = eta (1 + e^epsilon), at most 1.
        """
        if epsilon == 0:
            return 0.0
        true = self.true_epsilon(epsilon, length)
        return min(1.0, length * 2 * ERROR * GRID * (1 + math.exp(min(true, 100.0))))

    def numerics(self, epsilon: float, length: int) -> str:
        """Say how the numbers are drawn."""
        if epsilon == 0:
            return "the vector is not read"
        return f"rounded to multiples of 2^-12; delta {self.delta(epsilon, length):.1e} a release"

    def label(self, epsilon: float, length: int) -> str:
        """Name the mechanism with all its parameters: an equal label is the same law."""
        return f"{self.name} (epsilon {epsilon:g}, {length} numbers)"

    def sample(self, x: Array, epsilon: float, entropy: Entropy, count: int) -> Array:
        """Draw `count` answers for one checked vector -> (count, length) unit vectors, not rounded.

        At epsilon 0 the vector is not read: even known entropy then tells nothing about it.
        """
        if epsilon == 0:
            return self.even(len(x), entropy, count)
        return self.drawn(x, epsilon, entropy, count)

    def even(self, length: int, entropy: Entropy, count: int) -> Array:
        """Draw answers that have nothing to do with any vector."""
        return normalised(entropy.normal(count, length))

    @abstractmethod
    def drawn(self, x: Array, epsilon: float, entropy: Entropy, count: int) -> Array:
        """Draw answers for an epsilon above 0."""

    @abstractmethod
    def expected_cosine(self, epsilon: float, length: int) -> float:
        """Return the mean cosine between a vector and its release."""


class Uniform(Mechanism):
    """A direction that has nothing to do with the vector: epsilon 0."""

    name = "uniform"

    def release(
        self, unit_vector: npt.NDArray[np.floating], epsilon: float, entropy: Entropy | None = None
    ) -> Released:
        """Return a direction; raises UsageError for an epsilon above 0, which would be wasted."""
        if checked_epsilon(epsilon) > 0:
            raise UsageError(
                f"uniform has epsilon 0, and {epsilon:g} was asked for",
                hint="use epsilon 0, or a mechanism that spends it: pool, privunit",
            )
        return super().release(unit_vector, epsilon, entropy)

    def drawn(self, x: Array, epsilon: float, entropy: Entropy, count: int) -> Array:
        """Draw directions."""
        return self.even(len(x), entropy, count)

    def expected_cosine(self, epsilon: float, length: int) -> float:
        """0."""
        return 0.0


class PrivUnit(Mechanism):
    """With probability p a point of the cap about the vector, else one of the rest; both evenly.

    Exact accounting: epsilon = ln p / (1 - p) + ln (1 - q) / q with q the cap's share of the sphere, held
    with equality for opposite vectors. The cap is the best one: no mechanism of this epsilon that treats
    all directions alike has a larger mean cosine. Research code uses bounds on q and loses some.
    """

    name = "privunit"

    def label(self, epsilon: float, length: int) -> str:
        """Name it with its cap."""
        cap = solve(epsilon, length)
        return (
            f"{super().label(epsilon, length)[:-1]}, cap at cosine {cap.gamma:.6f}, p {cap.p:.6f})"
        )

    def drawn(self, x: Array, epsilon: float, entropy: Entropy, count: int) -> Array:
        """Draw answers."""
        cap = solve(epsilon, len(x))
        inside = entropy.uniform(count) > cap.miss
        sines = np.empty(count)  # squared
        cosines = np.empty(count)
        for which, draw in ((inside, _in_cap), (~inside, _outside_cap)):
            cosines[which], sines[which] = draw(cap.gamma, len(x), entropy, int(which.sum()))
        return turned(x, cosines, sines, entropy.normal(count, len(x)))

    def expected_cosine(self, epsilon: float, length: int) -> float:
        """At the best cap it is the cap's own edge."""
        return solve(epsilon, length).gamma


@dataclass(frozen=True)
class Laplace(Mechanism):
    """Laplace noise on every number, as IdentityDP publishes it, then unit length again.

    sensitivity: the L1 distance that the noise is made for; None: the largest there is between unit
    vectors, 2 sqrt(length). With a smaller one, such as the largest that some data set showed, the
    epsilon that is really held is larger, and that one is stated.
    """

    name = "laplace"
    metric = "L1 distance"
    sensitivity: float | None = None

    def true_epsilon(self, epsilon: float, length: int) -> float:
        """Return 2 sqrt(length) over the scale of the noise."""
        return 2 * math.sqrt(length) * self.metric_epsilon(epsilon, length)

    def metric_epsilon(self, epsilon: float, length: int) -> float:
        """Return one over the scale of the noise."""
        return epsilon / self._sensitivity(length)

    def label(self, epsilon: float, length: int) -> str:
        """Name it with the sensitivity."""
        return f"{super().label(epsilon, length)[:-1]}, L1 sensitivity {self._sensitivity(length):.4f})"

    def drawn(self, x: Array, epsilon: float, entropy: Entropy, count: int) -> Array:
        """Draw answers."""
        scale = self._sensitivity(len(x)) / epsilon
        size = -scale * np.log(entropy.uniform(count, len(x)))
        noise = np.where(entropy.uniform(count, len(x)) <= 0.5, size, -size)
        return normalised(x + noise)

    def expected_cosine(self, epsilon: float, length: int) -> float:
        """Approximately: the noise's norm is taken as its root mean square."""
        signal = self.metric_epsilon(epsilon, length)
        return signal / math.hypot(signal, math.sqrt(2 * length))

    def _sensitivity(self, length: int) -> float:
        return 2 * math.sqrt(length) if self.sensitivity is None else self.sensitivity


class LaplaceCompat(Laplace):
    """Laplace noise for the largest distance that a data set showed: the published recipe."""

    name = "laplace-compat"

    def label(self, epsilon: float, length: int) -> str:
        """Name it so that nobody takes the epsilon that was asked for the one that is held."""
        return super().label(epsilon, length).replace("(epsilon", "(made for epsilon")

    def _sensitivity(self, length: int) -> float:
        if self.sensitivity is not None:
            return self.sensitivity
        if length not in SEEN:
            raise ReleaseRefused(
                f"laplace-compat has no sensitivity for vectors of {length} numbers",
                hint=f"it was measured for {' and '.join(map(str, sorted(SEEN)))}; use laplace",
            )
        return SEEN[length]


class L2Laplace(Mechanism):
    """Noise of density e^(-r / b) in distance, b = 2 / epsilon, then unit length again."""

    name = "l2-laplace"
    metric = "chord distance"

    def metric_epsilon(self, epsilon: float, length: int) -> float:
        """Return half of epsilon: the sphere is 2 wide."""
        return epsilon / 2

    def drawn(self, x: Array, epsilon: float, entropy: Entropy, count: int) -> Array:
        """Draw answers."""
        way = normalised(entropy.normal(count, len(x)))
        return normalised(x + self.radii(epsilon, way, entropy) * way)

    def radii(self, epsilon: float, way: Array, entropy: Entropy) -> Array:
        """Draw the lengths of the noise, Gamma(length, 2 / epsilon), (count, 1): a sum of exponentials."""
        logs = np.log(entropy.uniform(*way.shape)).sum(axis=1, keepdims=True)
        lengths: Array = -2 / epsilon * logs
        return lengths

    def expected_cosine(self, epsilon: float, length: int) -> float:
        """Approximately, to four digits from 128 numbers."""
        return epsilon / math.hypot(epsilon, 2 * length)


class VonMisesFisher(Mechanism):
    """Density e^(kappa cos) about the vector, epsilon = 2 kappa. Patents: see docs/identitydp.md."""

    name = "vmf"
    metric = "chord distance"

    def metric_epsilon(self, epsilon: float, length: int) -> float:
        """Return kappa."""
        return epsilon / 2

    def drawn(self, x: Array, epsilon: float, entropy: Entropy, count: int) -> Array:
        """Draw answers."""
        cosines, sines = wood(epsilon / 2, len(x), entropy, count)
        return turned(x, cosines, sines, entropy.normal(count, len(x)))

    def expected_cosine(self, epsilon: float, length: int) -> float:
        """Return A_d(kappa) = I_(d/2)(kappa) / I_(d/2 - 1)(kappa)."""
        return bessel_ratio(epsilon / 2, length)


@dataclass(frozen=True, eq=False)
class FinitePool(Mechanism):
    """One of N public vectors: an even one of the k most alike with probability p, else of the others.

    Every member has one of two probabilities, A / T and B / T, whatever the vector: epsilon = ln A / B,
    exactly. Weights and the draw are whole numbers. Rounding can only change which k are ranked first, and
    any k will do.
    """

    name = "pool"
    identities: npt.NDArray[np.float32]  # (N, length) public unit vectors
    digest: str = field(init=False)  # of their bits

    def __post_init__(self) -> None:
        if self.identities.ndim != 2 or len(self.identities) < 2:
            raise ReleaseRefused(
                f"a pool of shape {self.identities.shape}", hint="(N, length), N > 1"
            )
        bits = np.ascontiguousarray(self.identities, np.float32).tobytes()
        object.__setattr__(self, "digest", hashlib.sha256(bits).hexdigest())

    def release(
        self, unit_vector: npt.NDArray[np.floating], epsilon: float, entropy: Entropy | None = None
    ) -> Released:
        """Return a member of the pool. Raises ReleaseRefused for a vector of another recogniser's length."""
        entropy = Entropy() if entropy is None else entropy
        vector = self._fitting(checked(unit_vector))
        (index,) = self.indices(vector, checked_epsilon(epsilon), entropy, 1)
        statement = self.statement(epsilon, len(vector), secure=entropy.secure)
        return Released(self.identities[index].copy(), statement)

    def true_epsilon(self, epsilon: float, length: int) -> float:
        """Return ln A / B, which floor keeps at or below epsilon."""
        high, low, _, _ = self.weights(epsilon)
        with localcontext(prec=30):
            return min(epsilon, float((Decimal(high) / Decimal(low)).ln()))

    def delta(self, epsilon: float, length: int) -> float:
        """0: whole numbers."""
        return 0.0

    def numerics(self, epsilon: float, length: int) -> str:
        """Say how the member is drawn."""
        if epsilon == 0:
            return "the vector is not read"
        high, low, _, _ = self.weights(epsilon)
        return f"whole numbers: every member has weight {high} or {low}; no delta"

    def label(self, epsilon: float, length: int) -> str:
        """Name it with the pool's bits."""
        k = self.weights(epsilon)[2]
        size = f"{k} of {len(self.identities)} public identities"
        return f"pool (epsilon {epsilon:g}, {size}, sha256 {self.digest[:16]})"

    def weights(self, epsilon: float) -> tuple[int, int, int, int]:
        """Return A, B, k and T = A k + B (N - k); nothing here hangs on a vector."""
        count, length = self.identities.shape
        q = math.exp(solve(epsilon, length).log_q)
        k = min(max(round(count * q), 1), count - 1)
        high = _exp_times(epsilon, SCALE)
        return high, SCALE, k, high * k + SCALE * (count - k)

    def indices(self, x: Array, epsilon: float, entropy: Entropy, count: int) -> list[int]:
        """Draw `count` members' places for one checked vector."""
        if epsilon == 0:
            return [entropy.randbelow(len(self.identities)) for _ in range(count)]
        high, low, k, total = self.weights(epsilon)
        order = np.argsort(-(self.identities @ x.astype(np.float32)), kind="stable")
        return [int(order[_place(entropy.randbelow(total), high, low, k)]) for _ in range(count)]

    def drawn(self, x: Array, epsilon: float, entropy: Entropy, count: int) -> Array:
        """Draw members."""
        return self.identities[self.indices(x, epsilon, entropy, count)].astype(np.float64)

    def even(self, length: int, entropy: Entropy, count: int) -> Array:
        """Draw members."""
        return self.drawn(np.empty(length), 0.0, entropy, count)

    def expected_cosine(self, epsilon: float, length: int) -> float:
        """Return that of an even pool: PrivUnit's law with the cap that holds k of N."""
        k = self.weights(epsilon)[2]
        q = k / len(self.identities)
        gamma = _bisected(lambda g: log_cap(g, length) - math.log(q)) if q < 0.5 else 0.0
        grown = math.expm1(epsilon)
        return grown * math.exp(_log_moment(gamma, length)) / (grown * q + 1)

    def _fitting(self, x: Array) -> Array:
        length = self.identities.shape[1]
        if len(x) != length:
            raise ReleaseRefused(
                f"the vector has {len(x)} numbers and the pool's have {length}: another recogniser's",
                hint="build the pool in the space that the vector comes from",
            )
        return x


MECHANISMS = ("pool", "privunit", "laplace", "laplace-compat", "l2-laplace", "vmf", "uniform")
_OTHERS = {
    one.name: one for one in (PrivUnit, Laplace, LaplaceCompat, L2Laplace, VonMisesFisher, Uniform)
}


def mechanism(name: str, identities: npt.NDArray[np.float32] | None = None) -> Mechanism:
    """Return a mechanism by name. identities: (N, length), the public pool, for "pool" alone.

    Raises UsageError with the nearest name.
    """
    if name == "pool":
        if identities is None:
            raise UsageError(
                "the pool mechanism needs a pool", hint="networks.pool.build makes one"
            )
        return FinitePool(identities)
    if name not in _OTHERS:
        raise UsageError(f"there is no mechanism {name!r}", hint=nearest(name, list(MECHANISMS)))
    return _OTHERS[name]()


def guess_bound(epsilon: float, people: int) -> float:
    """Bound how often anybody who sees a release guesses right which of `people`, all equally likely.

    >>> round(guess_bound(5, 10_000), 4)
    0.0146
    """
    return 1 / (1 + (people - 1) * math.exp(-epsilon))


# ---- what may go in --------------------------------------------------------------------------


def checked_epsilon(epsilon: float) -> float:
    """Return epsilon as a float. Raises UsageError when it is negative, no number or absurd."""
    value = float(epsilon)
    if not math.isfinite(value) or value < 0:
        raise UsageError(
            f"epsilon is {value:g}", hint="0 (nothing of the vector) or a positive number"
        )
    if value and not LEAST <= value <= MOST:
        raise UsageError(
            f"epsilon is {value:g}, which the arithmetic does not hold",
            hint=f"0, or {LEAST:g} to {MOST:g}; above 10 it says next to nothing anyway",
        )
    return value


def checked(vector: npt.NDArray[np.floating]) -> Array:
    """Return the vector with norm 1 in float64. Raises ReleaseRefused when it is no unit vector."""
    x = np.asarray(vector, np.float64)
    if x.ndim != 1 or len(x) < 3:
        raise ReleaseRefused(
            f"a vector of shape {x.shape}", hint="one identity, (length,), 3 or more"
        )
    if not np.isfinite(x).all():
        raise ReleaseRefused("the vector holds NaN or infinity", hint="nothing is released from it")
    norm = float(np.sqrt(x @ x))
    if abs(norm - 1) > 1e-3:
        raise ReleaseRefused(
            f"the vector has norm {norm:.4g}, not 1", hint="the promise is made on the unit sphere"
        )
    return x / norm


# ---- the sphere ------------------------------------------------------------------------------


def normalised(rows: Array) -> Array:
    """Rows (n, length) with norm 1."""
    unit: Array = rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return unit


def rounded(rows: Array) -> Array:
    """Rows on the grid of 2^-12, and then with norm 1 again."""
    return normalised(np.rint(rows * GRID) / GRID)


def turned(x: Array, cosines: Array, sines: Array, noise: Array) -> Array:
    """Return directions (n, length) with these cosines to x, evenly about it.

    sines: squared, (n,). noise: (n, length) standard normal.
    """
    across = normalised(noise - (noise @ x)[:, None] * x)
    return cosines[:, None] * x + np.sqrt(sines)[:, None] * across


@dataclass(frozen=True, slots=True)
class Cap:
    """PrivUnit's parameters: the cap of directions with cosine `gamma` or more."""

    gamma: float
    p: float  # probability of the cap
    miss: float  # 1 - p, with all its digits
    log_q: float  # logarithm of its share of the sphere


@functools.lru_cache(maxsize=256)
def solve(epsilon: float, length: int) -> Cap:
    """Return the cap with the largest mean cosine: the fixed point gamma = E[cos](gamma).

    E[cos](gamma) = (e^epsilon - 1) M(gamma) / ((e^epsilon - 1) q(gamma) + 1), M = E[W; W >= gamma].
    """
    if epsilon == 0:
        return Cap(0.0, 0.5, 0.5, -math.log(2))
    grown = epsilon + math.log(-math.expm1(-epsilon))  # ln(e^epsilon - 1)

    def excess(gamma: float) -> float:
        share = _log_add(grown + log_cap(gamma, length), 0.0)
        return math.exp(grown + _log_moment(gamma, length) - share) - gamma

    gamma = _bisected(excess)
    log_q = log_cap(gamma, length)
    ahead = epsilon + log_q - math.log1p(-math.exp(log_q))  # ln p / (1 - p)
    return Cap(gamma, 1 / (1 + math.exp(-ahead)), 1 / (1 + math.exp(ahead)), log_q)


def log_cap(gamma: float, length: int) -> float:
    """Return ln P(W >= gamma) for an even direction, gamma in 0..1: ln I_((1 - gamma) / 2)(a, a)."""
    a, x = (length - 1) / 2, (1 - gamma) / 2
    front = a * (math.log(x) + math.log1p(-x)) - math.log(a) - _log_beta(a, a)
    return front + math.log(_beta_fraction(a, a, x))


def _log_moment(gamma: float, length: int) -> float:
    """Return ln E[W; W >= gamma] = ln (1 - gamma^2)^a / (2 a B(a, 1/2)), a = (length - 1) / 2."""
    a = (length - 1) / 2
    return a * (math.log1p(-gamma) + math.log1p(gamma)) - math.log(2 * a) - _log_beta(a, 0.5)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_add(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Evaluate the continued fraction of the incomplete beta function by Lentz' method."""
    tiny = 1e-300
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or tiny)
    value = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / ((1 + term * d) or tiny)
            c = (1 + term / c) or tiny
            value *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return value


def _bisected(falling: Callable[[float], float]) -> float:
    """Return the zero of a falling function in (0, 1 - 1e-12)."""
    low, high = 0.0, 1 - 1e-12
    while high - low > 1e-16 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return low


def bessel_ratio(kappa: float, length: int) -> float:
    """Return I_(d/2)(kappa) / I_(d/2 - 1)(kappa) by its continued fraction (Lentz), d = length.

    >>> round(bessel_ratio(50, 512), 12)
    0.09674570507
    """
    if kappa == 0:
        return 0.0
    value = c = 1e-300
    d = 0.0
    for m in range(100_000):
        term = (length + 2 * m) / kappa
        d = 1 / (term + d)
        c = term + 1 / c
        value *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return value


# ---- drawing ---------------------------------------------------------------------------------


def _in_cap(gamma: float, length: int, entropy: Entropy, count: int) -> tuple[Array, Array]:
    """Draw cosines of directions with cosine `gamma` or more, and the squares of their sines.

    The squared sine s has density s^((d - 3) / 2) / sqrt(1 - s) up to 1 - gamma^2. Far from the equator it
    is drawn without the root and kept with probability gamma / sqrt(1 - s); near it, an even direction is
    drawn until it falls in.
    """
    if gamma * math.sqrt(length) < 0.75:
        return _kept(lambda n: _even(length, entropy, n), lambda w: w >= gamma, count)
    largest = (1 - gamma) * (1 + gamma)

    def drawn(n: int) -> tuple[Array, Array]:
        sines = largest * entropy.uniform(n) ** (2 / (length - 1))
        return np.sqrt(1 - sines), sines

    return _kept(drawn, lambda w: entropy.uniform(len(w)) * w <= gamma, count)


def _outside_cap(gamma: float, length: int, entropy: Entropy, count: int) -> tuple[Array, Array]:
    """Draw cosines of directions with cosine below `gamma`, and the squares of their sines."""
    return _kept(lambda n: _even(length, entropy, n), lambda w: w < gamma, count)


def _even(length: int, entropy: Entropy, count: int) -> tuple[Array, Array]:
    """Draw cosines of even directions and the squares of their sines, from chi-squared sums."""
    along = entropy.normal(count)
    across = -2 * np.log(entropy.uniform(count, (length - 1) // 2)).sum(axis=1)
    if length % 2 == 0:
        across = across + entropy.normal(count) ** 2
    whole = along**2 + across
    return along / np.sqrt(whole), across / whole


def _kept(
    drawn: Callable[[int], tuple[Array, Array]], wanted: Callable[[Array], Choice], count: int
) -> tuple[Array, Array]:
    """Draw until `count` cosines are wanted."""
    cosines, sines = np.empty(0), np.empty(0)
    while len(cosines) < count:
        more, squares = drawn(count - len(cosines))
        keep = wanted(more)
        cosines = np.concatenate([cosines, more[keep]])
        sines = np.concatenate([sines, squares[keep]])
    return cosines, sines


def wood(kappa: float, length: int, entropy: Entropy, count: int) -> tuple[Array, Array]:
    """Draw cosines of the von Mises-Fisher law and the squares of their sines: Wood 1994, VM*.

    b and its use avoid the cancellation of the published form.
    """
    m = length - 1
    b = m / (2 * kappa + math.sqrt(4 * kappa**2 + m**2))
    x0 = (1 - b) / (1 + b)
    c = kappa * x0 + m * math.log1p(-x0 * x0)

    def drawn(n: int) -> tuple[Array, Array]:
        one, two = (
            -2 * np.log(entropy.uniform(n, m // 2)).sum(axis=1) + (m % 2) * entropy.normal(n) ** 2
            for _ in range(2)
        )
        z = one / (one + two)  # Beta(m / 2, m / 2)
        below = 1 - (1 - b) * z
        w = (1 - (1 + b) * z) / below
        return w, 4 * b * z * (1 - z) / below**2

    def wanted(w: Array) -> Choice:
        kept: Choice = kappa * w + m * np.log1p(-x0 * w) - c >= np.log(entropy.uniform(len(w)))
        return kept

    return _kept(drawn, wanted, count)


def _place(number: int, high: int, low: int, k: int) -> int:
    """Return the rank that a number below T stands for: `high` numbers for each of k, then `low`."""
    return number // high if number < high * k else k + (number - high * k) // low


@functools.lru_cache(maxsize=256)
def _exp_times(epsilon: float, scale: int) -> int:
    """Return the whole part of scale e^epsilon, exactly."""
    with localcontext(prec=330):
        exact = Decimal(epsilon).exp() * scale
        return int(exact.to_integral_value(ROUND_FLOOR))
