"""Every attacker up the ladder: its variant chosen on V, scored once on E, with chance beside it.

Promise   part E decides nothing; an attack that cannot run is in the table with its reason; one whose
          training made it worse than doing nothing is called broken, and its untrained twin stands
          in the row, so that a clumsy attack never looks like privacy.
Sources   evaluation.md 2 (R3 to R5), 3, 6 (G9), 8.3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np

from moretta.evaluation import ranking, verification
from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Profile, cosine
from moretta.evaluation.intervals import Estimate, over_genuine, over_people
from moretta.evaluation.splits import derived_seed

if TYPE_CHECKING:
    from moretta.evaluation.attackers.attack import Flags, Floats, Ints

GALLERY = 100  # people in the headline's gallery
SIZES = (20, 100, 500)
CURVE = (0.25, 0.5)  # shares of part T; all of it is the row itself
SHUFFLES = 20
LOSS = 0.01  # how much a trained attack may lose against its untrained twin on V
LIMITED = 0.02  # gain of the last doubling of T from which more data would help the attacker
STEPS = tuple(range(1, 21))  # ranks of the curve over k

PROFILES: tuple[Profile, ...] = ("quick", "standard", "full")
FALSE_ALARMS = 0.01  # FPIR of the watch-list
EASIEST = 100  # people in the worst-case subset
LEAST_SEARCHES = 100  # of people who are not on it

Status = Literal["ok", "broken", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Who is where. Rows are faces, as in Case."""

    people: Ints  # (n,)
    part: Sequence[str]  # (n,) "B", "T", "V" or "E"
    probe: Flags  # (n,) the others form the gallery
    processed: Flags  # (n,) the tool changed the face

    def rows(self, part: str) -> Ints:
        """Return the rows of a part."""
        return np.flatnonzero(np.asarray(self.part) == part).astype(np.int64)

    def people_in(self, part: str) -> Ints:
        """Return the people of a part, sorted."""
        return np.unique(self.people[self.rows(part)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Tar:
    """True accept rate at a threshold that was set on V."""

    target: float
    realised: float  # on E
    threshold_from: str
    rate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one attack reached on E."""

    top1: Estimate
    top5: Estimate
    people: int
    probes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Open set: half of E enrolled, all of E searched for."""

    target: float  # FPIR
    realised: float
    found: Estimate  # 1 - FNIR at rank 1
    enrolled: int
    others: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One line of the attack ladder."""

    attack: str
    summary: str
    recogniser: str
    gallery: str
    same_photo: bool
    floor: bool
    status: Status
    reason: str = ""
    variant: str = ""
    rule: str = ""
    size: int = 0  # people in the gallery
    chosen_at: float = float("nan")  # top-1 on V
    twin_at: float = float("nan")  # of the untrained twin on V
    all: Figures | None = None  # every released face
    processed: Figures | None = None  # those that the tool changed
    normalised: Estimate | None = None  # S_1
    chance: float = float("nan")
    measured: float = float("nan")  # chance measured with shuffled people
    measured_spread: float = float("nan")
    by_size: dict[int, float] = field(default_factory=dict)
    by_rank: tuple[float, ...] = ()
    image_top1: float = float("nan")  # the very photo comes first (same_photo only)
    tar: tuple[Tar, ...] = ()
    det: tuple[tuple[float, float], ...] = ()  # (FMR, FNMR) on E
    eer: float = float("nan")
    auc: float = float("nan")
    curve: tuple[tuple[int, float], ...] = ()  # photos of T, top-1 on V
    learnt_from: int = 0  # photos of T
    seconds: float = 0.0
    watchlist: Watch | None = None
    searches: Floats | None = None  # (probes, people) scores on E
    searchers: Ints | None = None  # (probes,) column of the right person
    values: Floats | None = None  # each E person's own top-1, in the order of the people
    margins: tuple[tuple[int, float], ...] = ()  # (row, right score - best wrong one)
    releases: tuple[float, ...] = ()  # top-1 of each release, where several were averaged

    @property
    def limited(self) -> bool:
        """Whether the attack still grows with its data."""
        return len(self.curve) > 1 and self.curve[-1][1] - self.curve[-2][1] > LIMITED


def attack(
    attacker: Attacker,
    case: Case,
    layout: Layout,
    recogniser: str,
    profile: Profile = "full",
) -> Row:
    """Run one attack: choose its variant on V, score it on E."""
    start = time.monotonic()
    row = Row(
        attack=attacker.name,
        summary=attacker.summary,
        recogniser=recogniser,
        gallery=attacker.gallery,
        same_photo=attacker.same_photo,
        floor=attacker.floor,
        status="skipped",
    )
    reason = _not_now(attacker, case, recogniser, profile)
    if reason:
        return replace(row, reason=reason)
    training = np.flatnonzero(case.training).astype(np.int64)
    if attacker.trained and len(np.unique(case.people[training])) < 2:
        return replace(row, reason="too few people to learn from")
    try:
        row = _attacked(attacker, case, layout, row, training)
    except (ValueError, np.linalg.LinAlgError, FloatingPointError) as error:
        row = replace(row, status="broken", reason=f"{type(error).__name__}: {error}")
    return replace(row, seconds=time.monotonic() - start)


def _not_now(attacker: Attacker, case: Case, recogniser: str, profile: Profile) -> str:
    """Return why the attack cannot run here, or nothing."""
    if PROFILES.index(attacker.since) > PROFILES.index(profile):
        return f"takes long: profile {attacker.since}"
    if attacker.only and recogniser not in attacker.only:
        return f"works with {', '.join(attacker.only)}"
    if attacker.again and not case.again:
        return "needs further releases of the same photos: --again"
    if attacker.foreign and not case.foreign:
        return "needs vectors of another recogniser, which come first"
    absent = [name for name in attacker.packages if find_spec(name) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    if attacker.pixels and (case.clear_crops is None or case.embed is None):
        return "needs pictures, and only vectors are there"
    if attacker.floor and not case.context:
        return "no description of the surroundings"
    return ""


def _attacked(attacker: Attacker, case: Case, layout: Layout, row: Row, training: Ints) -> Row:
    tried: list[tuple[float, Candidate, ranking.Rule]] = []
    for candidate in attacker.candidates(case, training):
        tried += [
            (value, candidate, rule)
            for rule, value in on_validation(candidate, layout, same=attacker.same_photo).items()
        ]
    if not tried:
        return replace(row, reason="nothing to try")
    best, candidate, rule = max(tried, key=lambda each: each[0])
    twins = [value for value, each, _ in tried if not each.trained]
    learnt = [value for value, each, _ in tried if each.trained]
    twin = max(twins, default=float("nan"))
    status: Status = "ok"
    reason = ""
    if attacker.trained and not learnt:
        reason = "nothing was learnt; this is its untrained twin"
    elif learnt and twins and max(learnt) < twin - LOSS:
        status = "broken"
        reason = (
            f"training made it worse on V ({max(learnt):.2f} against {twin:.2f}); this is its twin"
        )
    row = replace(
        row,
        status=status,
        reason=reason,
        variant=candidate.label,
        rule=rule,
        chosen_at=best,
        twin_at=twin,
    )
    row = scored(candidate, rule, layout, row, seed=case.seed)
    if attacker.trained and learnt:
        curve = _curve(attacker, case, layout, training, tried)
        row = replace(row, curve=curve, learnt_from=len(training))
    return row


def on_validation(candidate: Candidate, layout: Layout, *, same: bool) -> dict[ranking.Rule, float]:
    """Return top-1 on V by rule, at GALLERY people or as many as there are."""
    rows, people = layout.rows("V"), layout.people_in("V")
    probes = rows[layout.probe[rows]]
    gallery = rows if same else rows[~layout.probe[rows]]
    scores = candidate.score(probes, gallery)
    size = min(GALLERY, len(people))
    found: dict[ranking.Rule, float] = {}
    for rule in ranking.RULES:
        by_person = ranking.person_scores(scores, layout.people[gallery], people, rule)
        own = np.searchsorted(people, layout.people[probes])
        above, equal = ranking.above_and_equal(by_person, own)
        found[rule] = float(
            _by_person(ranking.expected_hits(above, equal, len(people), size, 1), own).mean()
        )
    return found


def _by_person(values: Floats, own: Ints) -> Floats:
    """Return each person's mean over that person's probes."""
    _, index = np.unique(own, return_inverse=True)
    mean: Floats = np.bincount(index, weights=values) / np.bincount(index)
    return mean


def _curve(
    attacker: Attacker,
    case: Case,
    layout: Layout,
    training: Ints,
    tried: Sequence[tuple[float, Candidate, ranking.Rule]],
) -> tuple[tuple[int, float], ...]:
    """Return top-1 on V of the best trained variant, learnt from shares of T (by person)."""
    best, candidate, rule = max(
        (each for each in tried if each[1].trained), key=lambda each: each[0]
    )
    people = np.unique(case.people[training])
    order = np.random.default_rng(derived_seed(case.seed, "curve")).permutation(people)
    points = []
    for share in CURVE:
        chosen = order[: max(2, round(len(order) * share))]
        rows = training[np.isin(case.people[training], chosen)]
        for smaller in attacker.candidates(case, rows):
            if smaller.label == candidate.label:
                values = on_validation(smaller, layout, same=attacker.same_photo)
                points.append((len(rows), values[rule]))
                break
    return (*points, (len(training), best))


def scored(candidate: Candidate, rule: ranking.Rule, layout: Layout, row: Row, *, seed: int) -> Row:
    """Return the row with its figures on E and thresholds from V."""
    rows, people = layout.rows("E"), layout.people_in("E")
    probe = layout.probe[rows]
    columns = np.arange(len(rows)) if row.same_photo else np.flatnonzero(~probe)
    owners = layout.people[rows]
    own = np.searchsorted(people, owners[probe])
    if candidate.closed:  # a full cross would let it learn the probes
        searched = candidate.score(rows[probe], rows[columns])
    else:
        scores = candidate.score(rows, rows)
        searched = scores[np.ix_(probe, columns)]
    by_person = ranking.person_scores(searched, owners[columns], people, rule)
    above, equal = ranking.above_and_equal(by_person, own)
    size = min(GALLERY, len(people))
    count = len(people)

    def figures(chosen: Flags) -> Figures:
        estimates = [
            over_people(
                _by_person(
                    ranking.expected_hits(above[chosen], equal[chosen], count, size, k), own[chosen]
                ),
                seed=derived_seed(seed, "bootstrap"),
            )
            for k in (1, min(5, size))
        ]
        return Figures(
            top1=estimates[0],
            top5=estimates[1],
            people=len(np.unique(own[chosen])),
            probes=int(chosen.sum()),
        )

    everyone = figures(np.ones(len(own), bool))
    processed = layout.processed[rows][probe]
    sizes = np.bincount(np.searchsorted(people, owners[columns]), minlength=count)
    by_chance = float(ranking.chance(sizes.astype(np.float64), size).mean())
    measured = _shuffled(by_person, own, size, seed)
    right = by_person[np.arange(len(own)), own]
    others = by_person.copy()
    others[np.arange(len(own)), own] = -np.inf
    margin = right - others.max(1) if count > 1 else right
    worst = np.argsort(-margin, kind="stable")[:20]
    probes = rows[probe]
    row = replace(
        row,
        size=size,
        all=everyone,
        processed=figures(processed) if processed.any() else None,
        normalised=Estimate(
            *(
                ranking.normalised(value, by_chance)
                for value in (everyone.top1.v, everyone.top1.lo, everyone.top1.hi)
            )
        ),
        chance=by_chance,
        measured=float(np.mean(measured)),
        measured_spread=float(np.std(measured)),
        by_size={
            n: float(_by_person(ranking.expected_hits(above, equal, count, n, 1), own).mean())
            for n in SIZES
            if n <= count
        },
        by_rank=tuple(
            float(_by_person(ranking.expected_hits(above, equal, count, size, k), own).mean())
            for k in STEPS
            if k <= size
        ),
        values=_by_person(ranking.expected_hits(above, equal, count, size, 1), own),
        margins=tuple((int(probes[i]), float(margin[i])) for i in worst),
        watchlist=watchlist(by_person, own, seed=seed),
        searches=by_person,
        searchers=own,
    )
    if row.same_photo:
        first = searched.argmax(1)
        row = replace(row, image_top1=float((columns[first] == np.flatnonzero(probe)).mean()))
    return row if candidate.closed else _verified(candidate, layout, row, scores)


def over_releases(rows: Sequence[Row], *, seed: int) -> Row:
    """Return the first row with its top-1 averaged over releases of the same photos, person by person.

    rows: one attack, learnt and chosen anew on each release. What a method draws by chance is then in
    the mean and, through the people, in the interval. Evaluation.md 9: at least 3 for a headline.
    """
    first = rows[0]
    values = [row.values for row in rows if row.values is not None]
    if first.all is None or first.values is None or len(values) < 2:
        return first
    mean: Floats = np.mean(values, axis=0)
    top1 = over_people(mean, seed=derived_seed(seed, "bootstrap"))
    bounds = (ranking.normalised(value, first.chance) for value in (top1.v, top1.lo, top1.hi))
    return replace(
        first,
        all=replace(first.all, top1=top1),
        normalised=Estimate(*bounds),
        values=mean,
        releases=tuple(float(own.mean()) for own in values),
    )


def watchlist(by_person: Floats, own: Ints, *, seed: int) -> Watch | None:
    """Return how many of the enrolled half of the people are found at FALSE_ALARMS, or None if too few.

    by_person: (probes, people). own: (probes,) column of the right person. A mated search counts when
    the right person has the highest score and that is above the threshold; the threshold is the score
    that a share FALSE_ALARMS of the searches of people who are not enrolled exceeds, on E itself.
    """
    count = by_person.shape[1]
    enrolled = np.zeros(count, bool)
    order = np.random.default_rng(derived_seed(seed, "enrolled")).permutation(count)
    enrolled[order[: count // 2]] = True
    mated = enrolled[own]
    if (~mated).sum() < LEAST_SEARCHES or not mated.any():
        return None
    listed = by_person[:, enrolled]
    highest = listed.max(1)
    limit = verification.threshold(highest[~mated], FALSE_ALARMS)
    right = by_person[np.arange(len(own)), own][mated]
    rivals = (listed[mated] >= right[:, None] - ranking.TIE).sum(1)  # the right one among them
    found = (right > limit) / rivals * (right >= highest[mated] - ranking.TIE)
    people = np.searchsorted(np.unique(own[mated]), own[mated])
    return Watch(
        target=FALSE_ALARMS,
        realised=verification.rate_above(highest[~mated], limit),
        found=over_people(_by_person(found, people), seed=derived_seed(seed, "watch-list")),
        enrolled=int(enrolled.sum()),
        others=int((~enrolled).sum()),
    )


def easiest(row: Row, vectors: Floats, layout: Layout, *, seed: int) -> tuple[int, Estimate] | None:
    """Return top-1 among the people whose released photos are easiest to tell apart, and how many.

    vectors: (n, length) of the released photos. People of E are ordered by the distance of the nearest
    stranger from their mean minus that of their own farthest photo; the best EASIEST are kept, at most
    half of all. They were chosen by these photos: the interval is conditional on that.
    """
    people, rows = layout.people_in("E"), layout.rows("E")
    if row.searches is None or row.searchers is None or len(people) < 4:
        return None
    place = np.searchsorted(people, layout.people[rows])
    means = np.zeros((len(people), vectors.shape[1]))
    np.add.at(means, place, vectors[rows])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    away = 1 - means @ vectors[rows].T
    own = place[None] == np.arange(len(people))[:, None]
    ease = np.where(own, np.inf, away).min(1) - np.where(own, away, -np.inf).max(1)
    chosen = np.sort(np.argsort(-ease, kind="stable")[: min(EASIEST, len(people) // 2)])
    kept = np.isin(row.searchers, chosen)
    own_column = np.searchsorted(chosen, row.searchers[kept])
    above, equal = ranking.above_and_equal(row.searches[np.ix_(kept, chosen)], own_column)
    hit = ranking.expected_hits(above, equal, len(chosen), len(chosen), 1)
    found = over_people(_by_person(hit, own_column), seed=derived_seed(seed, "easiest"))
    return len(chosen), found


def _shuffled(by_person: Floats, own: Ints, size: int, seed: int) -> list[float]:
    """Return top-1 with the gallery's people renamed at random, SHUFFLES times."""
    rng = np.random.default_rng(derived_seed(seed, "shuffle"))
    found = []
    for _ in range(SHUFFLES):
        renamed = rng.permutation(by_person.shape[1])
        above, equal = ranking.above_and_equal(by_person, renamed[own])
        hit = ranking.expected_hits(above, equal, by_person.shape[1], size, 1)
        found.append(float(_by_person(hit, own).mean()))
    return found


def comparisons(scores: Floats, people: Ints, *, same: bool) -> tuple[Floats, Floats, Ints]:
    """Return genuine scores, impostor scores and whose the genuine ones are, out of a full cross.

    scores: (n, n) of all faces of a part. same: genuine are the photos with themselves, otherwise other
    photos of the person.
    """
    diagonal = np.eye(len(people), dtype=bool)
    alike = people[:, None] == people[None]
    genuine = diagonal if same else alike & ~diagonal
    owner = np.broadcast_to(people[:, None], alike.shape)
    return scores[genuine], scores[~alike], owner[genuine]


def _verified(candidate: Candidate, layout: Layout, row: Row, scores: Floats) -> Row:
    rows, validation = layout.rows("E"), layout.rows("V")
    genuine, impostor, owners = comparisons(scores, layout.people[rows], same=row.same_photo)
    _, before, _ = comparisons(
        candidate.score(validation, validation), layout.people[validation], same=row.same_photo
    )
    tar = []
    for rate in verification.RATES:
        if verification.reportable(len(before), rate) and len(genuine):
            limit = verification.threshold(before, rate)
            accepted = (genuine > limit).astype(np.float64)
            tar.append(
                Tar(
                    target=rate,
                    realised=verification.rate_above(impostor, limit),
                    threshold_from="V, the attack's own impostors",
                    rate=over_genuine(accepted, owners),
                )
            )
    steps: Floats = (
        np.quantile(impostor, 1 - np.geomspace(1e-4, 1, 40)) if len(impostor) else np.zeros(0)
    )
    det = tuple(
        (
            verification.rate_above(impostor, float(s)),
            1 - verification.rate_above(genuine, float(s)),
        )
        for s in steps
    )
    return replace(
        row,
        tar=tuple(tar),
        det=det,
        eer=verification.equal_error_rate(genuine, impostor),
        auc=verification.area(genuine, impostor),
    )


def baseline(case: Case, layout: Layout, recogniser: str) -> Row:
    """Return the row of clear probes against the clear gallery: what the recogniser can do at best."""
    row = Row(
        attack="clear",
        summary="no anonymisation: clear probe, clear gallery",
        recogniser=recogniser,
        gallery="clear",
        same_photo=False,
        floor=False,
        status="ok",
        variant="cosine",
    )
    candidate = Candidate(label="cosine", score=cosine(case.clear, case.clear))
    values = on_validation(candidate, layout, same=False)
    rule = max(values, key=lambda each: values[each])
    row = replace(row, rule=rule, chosen_at=values[rule])
    return scored(candidate, rule, layout, row, seed=case.seed)


Listener = Callable[[str], None]


def climb(
    attackers: Sequence[Attacker],
    case: Case,
    layout: Layout,
    recogniser: str,
    profile: Profile = "full",
    *,
    listener: Listener | None = None,
) -> list[Row]:
    """Run every attacker against one recogniser's case."""
    rows = []
    for attacker in attackers:
        if listener:
            listener(f"{recogniser}: {attacker.name}")
        rows.append(attack(attacker, case, layout, recogniser, profile))
    return rows
