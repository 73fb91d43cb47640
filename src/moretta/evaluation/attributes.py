"""Do released faces still read as the clear ones did; is protection equal over groups; can one learn from them?

Agreement is with the clear photo's own reading, not with truth: no labels are given. The ceiling of each
figure is the agreement of the clear photo with its mirror image. A face that is not found in the
released photo counts as wrong.
Sources  evaluation.md 7.
Checked  tests/evaluation/test_attributes.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.errors import WeightsRejected, count_of
from moretta.evaluation import faces, readers
from moretta.evaluation.intervals import Estimate, over_people
from moretta.evaluation.report.schema import Subgroup, UtilityPart
from moretta.evaluation.splits import derived_seed

if TYPE_CHECKING:
    import numpy.typing as npt

    from moretta.evaluation.embed import Cache
    from moretta.evaluation.ladder import Layout, Row
    from moretta.records import Pixels

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

LIKE = 5  # years within which two readings of age count as equal
TURN = 10  # degrees within which two readings of the head count as equal
LEARNT_ON = 800  # faces of T whose gender is read for the classifier
LEAST_PEOPLE = 30  # in a group, for its gap to be told
TONES = (("dark", -90.0, 10.0), ("middle", 10.0, 41.0), ("light", 41.0, 90.0))  # ITA, degrees
AGES = (("under 30", 0, 30), ("30 to 49", 30, 50), ("50 and more", 50, 200))
DIRECTIONS = (("head within 15 degrees", 0, 15), ("head turned further", 15, 91))


@dataclass(slots=True)
class Readings:
    """What the readers say about the clear photos, by row; nan where a row was not read."""

    female: Floats  # probability
    years: Floats
    tone: Floats  # degrees
    yaw: Floats  # degrees
    absent: dict[str, str] = field(default_factory=dict)  # reader -> why not


def built() -> tuple[dict[str, readers.Reader], dict[str, str]]:
    """Return the readers that are here, and why others are not."""
    here, absent = {}, {}
    for name in readers.READERS:
        try:
            here[name] = readers.reader(name)
        except WeightsRejected as error:
            absent[name] = error.fault
    return here, absent


def read_clear(found: Sequence[faces.Sample], where: Layout, cache: Cache) -> Readings:
    """Read the clear faces of part E and of up to LEARNT_ON of part T."""
    here, absent = built()
    female, age, tone, yaw = (np.full(len(found), np.nan) for _ in range(4))
    readings = Readings(female, age, tone, yaw, absent)
    rows = np.concatenate([where.rows("T")[:LEARNT_ON], where.rows("E")])
    cut: dict[str, list[Pixels]] = {"age": [], "gender": []}
    for row, (sample, clear) in zip(rows, _clear_photos(found, rows), strict=True):
        readings.tone[row] = readers.skin_tone(clear, sample.clear)
        readings.yaw[row] = readers.head_angles(sample.clear.points)[0]
        for name, crops in cut.items():
            if name in here:
                crops.append(here[name].cut(clear, sample.clear))
    if cut["gender"]:
        readings.female[rows] = here["gender"].probabilities(np.stack(cut["gender"]), cache)[:, 0]
    if cut["age"]:
        readings.years[rows] = readers.years(here["age"].probabilities(np.stack(cut["age"]), cache))
    return readings


def _clear_photos(found: Sequence[faces.Sample], rows: Ints) -> list[tuple[faces.Sample, Pixels]]:
    return [(s, clear) for s, clear, _ in faces.photos([found[int(row)] for row in rows])]


def agreement(
    found: Sequence[faces.Sample], people: Ints, cache: Cache, *, seed: int
) -> tuple[list[UtilityPart], list[str]]:
    """Return how far the released faces read as the clear ones, and what could not be read.

    found: the faces to look at. people: (faces,) whose they are.
    """
    here, absent = built()
    finder = faces.Finder("centerface", cache)
    cut: dict[str, list[tuple[Pixels, Pixels]]] = {name: [] for name in here}
    seen = np.array([sample.anon is not None for sample in found], bool)
    angles: list[tuple[Floats, Floats] | None] = []
    for sample, clear, anon in faces.photos(found):
        for name, reader in here.items():
            before = reader.cut(clear, sample.clear)
            after = reader.cut(anon, sample.anon) if sample.anon else np.zeros_like(before)
            cut[name].append((before, after))
        turned = not faces.upright(sample.clear)
        own = faces.same_face(finder.find(clear, sample.key, turned=turned), sample.clear)
        key = faces.content_key(anon)
        other = faces.same_face(finder.find(anon, key, turned=turned), sample.clear)
        both = (
            own and other and (readers.head_angles(own.points), readers.head_angles(other.points))
        )
        angles.append(both or None)

    def figure(
        name: str,
        values: npt.NDArray[Any],
        net: str,
        definition: str,
        *,
        unit: str = "share",
        ceiling: float | None = 1.0,
        scale: float = 1.0,
        rows: npt.NDArray[np.bool_] | None = None,
    ) -> UtilityPart:
        kept = np.ones(len(people), bool) if rows is None else rows
        exact, owners = np.asarray(values, np.float64)[kept], people[kept]
        return over_everybody(name, exact, owners, net, definition, unit, ceiling, scale, seed)

    parts: list[UtilityPart] = []
    for name, reader in here.items():
        before, after = (np.stack([pair[i] for pair in cut[name]]) for i in (0, 1))
        mirrored = np.ascontiguousarray(before[:, :, ::-1])
        read = [reader.probabilities(each, cache) for each in (before, after, mirrored)]
        if name == "age":
            first, second, third = (readers.years(each) for each in read)
            near = (np.abs(first - second) <= LIKE) & seen
            limit = float((np.abs(first - third) <= LIKE).mean())
            words = (
                f"apparent age within {LIKE} years of that on the clear photo; not found is wrong"
            )
            parts.append(figure("age kept", near, name, words, ceiling=limit))
            words = "mean absolute difference of apparent age, faces that are found"
            parts.append(
                figure(
                    "age difference",
                    np.abs(first - second),
                    name,
                    words,
                    unit="years",
                    ceiling=float(np.abs(first - third).mean()),
                    scale=80,
                    rows=seen,
                )
            )
            continue
        label, again, mirror_label = (each.argmax(1) for each in read)
        limit = float((label == mirror_label).mean())
        words = f"apparent {name} as on the clear photo; not found is wrong"
        parts.append(figure(f"{name} kept", (label == again) & seen, name, words, ceiling=limit))
        if name == "gender":
            for code, word in enumerate(readers.GENDERS):
                flipped = figure(
                    f"{word} read as the other gender",
                    again != code,
                    name,
                    f"of the faces read as {word} on the clear photo, those found in the released one",
                    ceiling=float((mirror_label != code)[label == code].mean())
                    if (label == code).any()
                    else None,
                    rows=(label == code) & seen,
                )
                parts.append(flipped)
        else:
            share = readers.kappa(label[seen], again[seen]) if seen.any() else float("nan")
            parts.append(
                UtilityPart(
                    name=f"{name}, kappa",
                    group="attributes",
                    value=rounded(share),
                    lo=None,
                    hi=None,
                    ceiling=rounded(readers.kappa(label, mirror_label)),
                    unit="",
                    n=int(seen.sum()),
                    net=name,
                    definition="Cohen's kappa of the seven labels before and after, faces that are "
                    "found: agreement beyond what their frequencies give",
                )
            )
    found_both = np.array([each is not None for each in angles], bool)
    apart = np.array([np.abs(each[0] - each[1]) if each else np.full(3, 180.0) for each in angles])
    alike = np.all(apart <= TURN, axis=1)
    words = f"yaw, pitch and roll within {TURN} degrees of the clear photo's; not found is wrong"
    parts.append(figure("pose kept", alike, "centerface", words))
    for place, axis in enumerate(("yaw", "pitch", "roll")):
        words = "mean absolute difference, faces that are found in both"
        parts.append(
            figure(
                f"{axis} difference",
                apart[:, place],
                "centerface",
                words,
                unit="degrees",
                ceiling=0.0,
                scale=180,
                rows=found_both,
            )
        )
    return parts, [f"{name}: {why}" for name, why in absent.items()]


def over_everybody(
    name: str,
    values: Floats,
    people: Ints,
    net: str,
    definition: str,
    unit: str,
    ceiling: float | None,
    scale: float,
    seed: int,
    group: str = "attributes",
) -> UtilityPart:
    """Return a figure's mean over people, values (n,) of `people` (n,), with its interval.

    unit: "share" where values count yes and no, photo by photo; scale: what one stands for in them.
    """
    if len(values):
        own = _by_person(values, people) / scale
        estimate = over_people(own, seed=derived_seed(seed, "utility", name), rate=unit == "share")
    else:
        estimate = Estimate(float("nan"), float("nan"), float("nan"))
    return UtilityPart(
        name=name,
        group=group,
        value=rounded(estimate.v * scale),
        lo=rounded(estimate.lo * scale),
        hi=rounded(estimate.hi * scale),
        ceiling=rounded(ceiling),
        unit=unit,
        n=len(values),
        net=net,
        definition=definition,
    )


def _by_person(values: Floats, people: Ints) -> Floats:
    _, index = np.unique(people, return_inverse=True)
    means: Floats = np.bincount(index, weights=values) / np.bincount(index)
    return means


# ---- groups ----------------------------------------------------------------------------------


def subgroups(
    readings: Readings, where: Layout, best: Row, clear: Row, *, seed: int
) -> tuple[list[Subgroup], list[str]]:
    """Return the deciding attack and coverage by group of people of E, and what could not be told.

    best, clear: rows of the ladder with each E person's own top-1. Gallery: all people of E.
    The gap of a grouping is that of its groups of LEAST_PEOPLE or more, its interval Bonferroni's
    over the groupings.
    """
    people, rows = where.people_in("E"), where.rows("E")
    place = np.searchsorted(people, where.people[rows])

    def mean(values: Floats) -> Floats:
        found: Floats = np.bincount(place, weights=values[rows]) / np.bincount(place)
        return found

    groupings: dict[str, list[tuple[str, npt.NDArray[np.bool_]]]] = {}
    missing = []
    if np.isfinite(readings.female[rows]).all():
        female = mean(readings.female) >= 0.5
        groupings["apparent gender"] = [("female", female), ("male", ~female)]
    else:
        missing.append("subgroups by apparent gender")
    if np.isfinite(readings.years[rows]).all():
        groupings["apparent age"] = _banded(mean(readings.years), AGES)
    else:
        missing.append("subgroups by apparent age")
    groupings["skin tone (ITA, light of the photo in it)"] = _banded(
        mean(np.nan_to_num(readings.tone)), TONES
    )
    groupings["pose"] = _banded(mean(np.abs(readings.yaw)), DIRECTIONS)
    parts: list[Subgroup] = []
    if best.values is None or clear.values is None:
        return [], ["subgroups: no attack was scored"]
    covered = mean(where.processed.astype(np.float64))
    values = {
        f"top-1 of {best.attack} ({best.recogniser})": best.values,
        "top-1 on the clear photos": clear.values,
        "faces that the tool changed": covered,
    }
    for by, groups in groupings.items():
        for metric, own in values.items():
            for group, members in groups:
                if members.any():
                    estimate = over_people(own[members], seed=derived_seed(seed, by, group, metric))
                    parts.append(_group(by, group, metric, int(members.sum()), estimate))
        large = [members for _, members in groups if members.sum() >= LEAST_PEOPLE]
        if len(large) > 1:
            gap = _gap(best.values, large, 0.05 / len(groupings), derived_seed(seed, by, "gap"))
            parts.append(
                _group(by, "largest gap", next(iter(values)), int(sum(map(sum, large))), gap)
            )
    return parts, missing


def _banded(
    values: Floats, bands: Sequence[tuple[str, float, float]]
) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    return [(name, (values >= low) & (values < high)) for name, low, high in bands]


def _gap(
    values: Floats, groups: Sequence[npt.NDArray[np.bool_]], level: float, seed: int
) -> Estimate:
    """Return the largest difference of two groups' means; its interval is that of this very pair."""
    rng = np.random.default_rng(seed)
    means = [float(values[members].mean()) for members in groups]
    high, low = groups[int(np.argmax(means))], groups[int(np.argmin(means))]
    drawn = [
        rng.multinomial(n, np.full(n, 1 / n), 2000) @ values[members] / n
        for members in (high, low)
        for n in [int(members.sum())]
    ]
    apart = drawn[0] - drawn[1]
    ends = np.percentile(apart, [50 * level, 100 - 50 * level])
    return Estimate(max(means) - min(means), float(ends[0]), float(ends[1]))


def _group(by: str, group: str, metric: str, people: int, found: Estimate) -> Subgroup:
    return Subgroup(
        by=by,
        group=group,
        people=people,
        metric=metric,
        v=rounded(found.v),
        lo=rounded(found.lo),
        hi=rounded(found.hi),
    )


# ---- learning from released faces ------------------------------------------------------------


def learning(
    readings: Readings, where: Layout, spaces: Mapping[str, tuple[Floats, Floats]], *, seed: int
) -> tuple[list[UtilityPart], list[str]]:
    """Train a classifier of apparent gender on clear or released faces, test it on either.

    Logistic regression on the first recogniser's vectors, people of T, tested on people of E.
    Labels: each person's gender as read on all their clear photos. Balanced accuracy.
    """
    from sklearn.linear_model import LogisticRegression

    name = next(iter(spaces), None)
    if name is None or "gender" in readings.absent:
        return [], ["training on anonymised photos (TAOTR): no labels of gender"]
    read = np.flatnonzero(np.isfinite(readings.female))
    part = np.asarray(where.part)
    train, test = read[part[read] == "T"], read[part[read] == "E"]
    label = np.zeros(len(part), np.int64)
    for person in np.unique(where.people[read]):
        own = read[where.people[read] == person]
        label[own] = readings.female[own].mean() >= 0.5
    if min((np.bincount(label[rows], minlength=2).min() for rows in (train, test)), default=0) < 10:
        return [], ["training on anonymised photos (TAOTR): fewer than 10 faces of a gender"]
    sides = dict(zip(("real", "anonymised"), spaces[name], strict=True))
    parts: list[UtilityPart] = []
    for taught, taught_on in sides.items():
        scale = taught_on.shape[1] ** 0.5
        model = LogisticRegression(max_iter=1000).fit(taught_on[train] * scale, label[train])
        for asked, asked_on in sides.items():
            right = (model.predict(asked_on[test] * scale) == label[test]).astype(np.float64)
            people = where.people[test]
            own = _by_person(right, people)
            kind = _by_person(label[test].astype(np.float64), people)
            weight = np.where(kind > 0.5, 1 / (kind > 0.5).sum(), 1 / (kind <= 0.5).sum())
            estimate = over_people(own, seed=derived_seed(seed, taught, asked), weights=weight)
            parts.append(
                UtilityPart(
                    name=f"gender learnt on {taught}, asked on {asked}",
                    group="learning",
                    value=rounded(estimate.v),
                    lo=rounded(estimate.lo),
                    hi=rounded(estimate.hi),
                    ceiling=parts[0].value if parts else rounded(estimate.v),
                    unit="share",
                    n=len(test),
                    net=f"{name}, labels of gender",
                    definition="balanced accuracy over people of E, logistic regression on vectors "
                    f"of {count_of(len(train), 'face')} of T",
                )
            )
    return parts, []


def rounded(value: float | None) -> float | None:
    """Return what a report holds of a number: six digits, None where there is none."""
    return round(float(value), 6) if value is not None and np.isfinite(value) else None
