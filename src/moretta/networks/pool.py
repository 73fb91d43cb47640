"""Public synthetic identities: nobody's vectors, drawn from a fixed seed. numpy alone, no torch.

Promise   the same pool on every machine, from nothing but a seed and the traits head.
Assumes   the sphere of networks.identity, on which people's vectors are spread evenly enough.
Not here  epsilon: choosing evenly among members that look like a person says how that person
          looks. Whoever needs a bound chooses over all members (IdentityDP).
Sources   Barattin et al. 2023 (FALCO): a pool of 60,000. Labels, rare kinds and fallbacks are ours.
Checked   tests/networks/test_pool.py; shares of each kind in docs/networks.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Identities = npt.NDArray[np.float32]  # (n, 48), unit vectors
    Labels = npt.NDArray[np.int8]  # (n,), places in BANDS or GENDERS
    Probabilities = npt.NDArray[np.float64]

LENGTH = 48  # numbers of an identity: see networks.identity

#: Bands of apparent age, and the first year of each but the first. They are cut where a face that
#: does not fit its surroundings shows most: at the ends of growth and at the first signs of age.
BANDS = ("child", "youth", "adult", "middle", "senior")  # 0-12, 13-19, 20-39, 40-59, 60 and more
BAND_STARTS = (13, 20, 40, 60)
GENDERS = ("male", "female")  # as UTKFace labels how a face looks

Match = Literal["none", "age", "gender", "age,gender"]
MATCHES: tuple[Match, ...] = ("none", "age", "gender", "age,gender")

COUNT = 60_000
SEED = 1
LEAST = 300  # members of each kind (band and gender), where MOST draws hold as many
MOST = 180_000  # vectors drawn in the search for rare kinds

#: New identities this near to the old one are drawn again: 0.35 is exceeded by 0.7 % of random pairs.
TOO_NEAR = 0.35

#: Members whose mean a drawing is truncated towards. Of 64 random vectors of 48 numbers the mean has the
#: length 1/8; that of people who look alike is several times as long.
CROWD = 64

_TRIES = 16
_GRID = 2**20  # vectors are rounded to this, so that no machine's last bit shows
_BLOCK = 30_000  # vectors drawn at once


class Head(Protocol):
    """What labels a pool: networks.traits.TraitsHead."""

    def probabilities(self, identities: Identities) -> tuple[Probabilities, Probabilities]:
        """(n, 48) -> probabilities of BANDS (n, 5), and of the second of GENDERS (n,)."""


class Wanted(Protocol):
    """What a member should look like: networks.traits.Traits."""

    @property
    def band(self) -> str:
        """One of BANDS."""

    @property
    def gender(self) -> str:
        """One of GENDERS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """N synthetic identities with how the traits head sees them. All arrays are read-only."""

    identities: Identities  # (N, 48) float32 unit vectors
    bands: Labels  # (N,) int8, places in BANDS
    genders: Labels  # (N,) int8, places in GENDERS
    band_confidences: npt.NDArray[np.float32]  # (N,) probability of that band
    gender_confidences: npt.NDArray[np.float32]  # (N,) probability of that gender

    def __len__(self) -> int:
        return len(self.identities)

    def shares(self) -> npt.NDArray[np.float64]:
        """Return the share of each kind, (5, 2): rows as BANDS, columns as GENDERS."""
        return _counts(self.bands, self.genders) / len(self)


def random_identities(count: int, seed: int, length: int = LENGTH) -> Identities:
    """Draw `count` identities uniformly on the unit sphere -> (count, length) float32.

    The first rows of a larger draw are a smaller draw. Components are multiples of 2^-20, so
    norms are 1 within 2e-6 and the bits do not depend on how a machine adds up.

    >>> bool((random_identities(2, 7) == random_identities(5, 7)[:2]).all())
    True
    """
    return _drawn(np.random.Generator(np.random.PCG64(seed)), count, length)


def build(count: int, seed: int, head: Head, *, least: int = LEAST, most: int = MOST) -> Pool:
    """Build the pool of `count` identities: the same for the same seed and head.

    Its members are the first `count` of `random_identities(most, seed)`, but for one thing: where
    a kind (band and gender) has fewer than `least` of them, the next vectors of that stream that
    are of this kind take the places of the last members of the most common kind, until there are
    `least` (a fortieth of `count`, if that is fewer) or the stream of `most` ends. So every kind can be chosen from, and the rest is uniform.
    The default pool is `build(COUNT, SEED, head)`; it takes less than a second.
    """
    if count < 1:
        raise ValueError(f"a pool of {count}")
    rng = np.random.Generator(np.random.PCG64(seed))
    kept = _labelled(_drawn(rng, count, LENGTH), head)
    found = _counts(kept["bands"], kept["genders"])
    missing = np.maximum(min(least, count // (4 * found.size)) - found, 0)
    free = iter(_last_of_most_common(kept["bands"], kept["genders"], found))
    for block in _blocks(rng, most - count):
        if not missing.any():
            break
        drawn = _labelled(block, head)
        for at, kind in enumerate(zip(drawn["bands"], drawn["genders"], strict=True)):
            if missing[kind]:
                missing[kind] -= 1
                place = next(free)
                for name, values in drawn.items():
                    kept[name][place] = values[at]
    for each in kept.values():
        each.flags.writeable = False
    return Pool(**kept)


def labelled(identities: Identities, head: Head) -> Pool:
    """Return identities (N, 48) as a pool, as the head sees them. They are copied."""
    kept = _labelled(np.array(identities, np.float32), head)
    for each in kept.values():
        each.flags.writeable = False
    return Pool(**kept)


def fewest(pool: Pool, match: Match) -> tuple[int, str]:
    """Return how many members the rarest kind has that `match` can ask for, and its name ("" for all)."""
    found = []
    for band, gender in _kinds(match):
        agree = np.ones(len(pool), bool)
        if band is not None:
            agree &= pool.bands == BANDS.index(band)
        if gender is not None:
            agree &= pool.genders == GENDERS.index(gender)
        found.append((int(agree.sum()), ", ".join(filter(None, (band, gender)))))
    return min(found)


def choose(pool: Pool, wanted: Wanted | None, match: Match, rng: np.random.Generator) -> int:
    """Return the index of a member that looks as `wanted` says, evenly among all that do.

    match: what must agree: "none", "age" (the band), "gender" or "age,gender". `None` as wanted
    agrees with all. It never fails: where no member agrees, age is dropped first, then gender.
    Raises ValueError for another match.
    """
    found = members(pool, wanted, match)
    return int(found[rng.integers(len(found))])


def stranger(
    pool: Pool,
    old: npt.NDArray[np.float32],
    wanted: Wanted | None,
    match: Match,
    rng: np.random.Generator,
) -> tuple[int, bool]:
    """Choose as `choose` does, again while the member is `TOO_NEAR` to an identity, 16 times at most.

    old: (length,), unit length. Returns the last one's place, and whether it is far enough.
    """
    for _ in range(_TRIES):
        index = choose(pool, wanted, match, rng)
        if float(pool.identities[index] @ old) < TOO_NEAR:
            return index, True
    return index, False


def members(pool: Pool, wanted: Wanted | None, match: Match) -> npt.NDArray[np.int64]:
    """Return the places of the members that look as `wanted` says; see `choose`."""
    if match not in MATCHES:
        raise ValueError(f"match {match!r} is none of {', '.join(MATCHES)}")
    if wanted is not None and match != "none":
        band = pool.bands == BANDS.index(wanted.band)
        gender = pool.genders == GENDERS.index(wanted.gender)
        tries = {"age": [band], "gender": [gender], "age,gender": [band & gender, gender]}[match]
        for each in tries:
            if each.any():
                return np.flatnonzero(each)
    return np.arange(len(pool))


def crowds(pool: Pool, head: Head, identities: Identities) -> Identities:
    """Return for each identity CROWD members that look as it does: (n, 48) -> (n, CROWD, 48).

    Their mean is what a drawing of it is truncated towards. They are the first of that apparent age and
    gender, again from the start where there are fewer, so they tell nothing that the identity does not.
    """
    made = labelled(identities, head)
    alike = (pool.bands == made.bands[:, None]) & (pool.genders == made.genders[:, None])
    some = [np.flatnonzero(row) if row.any() else np.arange(len(pool)) for row in alike]
    return pool.identities[np.stack([np.resize(row, CROWD) for row in some])]


def _kinds(match: Match) -> list[tuple[str | None, str | None]]:
    bands = BANDS if "age" in match else (None,)
    genders = GENDERS if "gender" in match else (None,)
    return [(band, gender) for band in bands for gender in genders]


# ---- building --------------------------------------------------------------------------------


def _drawn(rng: np.random.Generator, count: int, length: int) -> Identities:
    normal = rng.standard_normal((count, length))
    unit = normal / np.sqrt((normal**2).sum(axis=1, keepdims=True))
    rounded: Identities = (np.rint(unit * _GRID) / _GRID).astype(np.float32)
    return rounded


def _blocks(rng: np.random.Generator, count: int) -> Iterator[Identities]:
    for start in range(0, count, _BLOCK):
        yield _drawn(rng, min(_BLOCK, count - start), LENGTH)


def _labelled(identities: Identities, head: Head) -> dict[str, npt.NDArray[Any]]:
    """The fields of a Pool."""
    bands, female = head.probabilities(identities)
    genders = female >= 0.5
    return {
        "identities": identities,
        "bands": bands.argmax(axis=1).astype(np.int8),
        "genders": genders.astype(np.int8),
        "band_confidences": bands.max(axis=1).astype(np.float32),
        "gender_confidences": np.where(genders, female, 1 - female).astype(np.float32),
    }


def _counts(bands: Labels, genders: Labels) -> npt.NDArray[np.int64]:
    kinds = bands.astype(np.int64) * len(GENDERS) + genders
    counts: npt.NDArray[np.int64] = np.bincount(kinds, minlength=len(BANDS) * len(GENDERS))
    return counts.reshape(len(BANDS), len(GENDERS))


def _last_of_most_common(
    bands: Labels, genders: Labels, found: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    band, gender = np.unravel_index(int(found.argmax()), found.shape)
    places: npt.NDArray[np.int64] = np.flatnonzero((bands == band) & (genders == gender))[::-1]
    return places
