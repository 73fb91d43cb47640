"""One evaluation from beginning to end: two folders in, a report out.

Order of work: pair, find faces, split people, then one recogniser after the other: crops, vectors,
every attacker. Gates before, verdict after. Two runs give the same report but for times.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from moretta import __version__
from moretta.errors import UsageError, WeightsRejected, count_of
from moretta.evaluation import attributes, faces, ladder, require_extra, verification
from moretta.evaluation.attackers import ATTACKERS
from moretta.evaluation.attackers.attack import Case
from moretta.evaluation.attackers.head import learnt
from moretta.evaluation.embed import RECOGNISERS, Cache, Embedder, embedder, vectors
from moretta.evaluation.forensic import equalised, residual_features, told_apart
from moretta.evaluation.gates import Gate, sane, self_test
from moretta.evaluation.intervals import over_genuine
from moretta.evaluation.ladder import Layout, Row
from moretta.evaluation.pairs import FOLDERS, Pairing, paired
from moretta.evaluation.report import schema
from moretta.evaluation.sidechannels import side_channels
from moretta.evaluation.splits import SHARES, check_disjoint, parts, probes_of
from moretta.evaluation.utility import utility
from moretta.evaluation.verdict import (
    LEAST_BASELINE,
    MOST_WITHOUT_OUTPUT,
    Verdict,
    chance_gate,
    deciding,
    verdict,
)
from moretta.evaluation.verdict import LEAST_PEOPLE as LEAST_SCORED

if TYPE_CHECKING:
    from moretta.evaluation.attackers.attack import Floats, Ints
    from moretta.evaluation.intervals import Estimate
    from moretta.records import Face

PROFILES: dict[str, tuple[tuple[str, ...], bool]] = {  # recognisers, mirror images too
    "quick": (("sface",), False),
    "standard": (RECOGNISERS, True),
    "full": (RECOGNISERS, True),
}
SAME_PICTURE = 0.9  # cosine from which two near-equal pictures under two names are one
LEAST_PEOPLE = 12  # in all: fewer cannot be split
VERSIONS = ("numpy", "scipy", "scikit-learn", "onnxruntime", "opencv-python-headless", "torch")
Listener = Callable[[str], None]


class Options(BaseModel):
    """How an evaluation runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: Literal["quick", "standard", "full"] = "standard"
    scenario: Literal["published", "bystander", "series"] = "bystander"
    identities: str = FOLDERS
    labelled: Literal["centre", "largest"] = "centre"
    seed: int = Field(0, ge=0)
    recognisers: tuple[str, ...] = ()  # empty: those of the profile
    trained_with: tuple[str, ...] = ()
    again: tuple[Path, ...] = ()  # further releases of the same photos: other seeds, other keys
    cache: Path | None = None
    method: dict[str, Any] = Field(default_factory=dict)  # what is known about the tool
    gates: bool = True  # the self-test before anything else


def evaluate(
    original: Path, anonymised: Path, options: Options, *, listener: Listener | None = None
) -> schema.Report:
    """Evaluate the output of any tool. Raises UsageError for folders and labels that do not fit."""
    require_extra()
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # more threads change sums in the last digit, and fight each other
        return _evaluated(original, anonymised, options, listener)


def _evaluated(
    original: Path, anonymised: Path, options: Options, listener: Listener | None
) -> schema.Report:
    start, say = time.monotonic(), listener or (lambda _: None)
    pairing = paired(original, anonymised, options.identities)
    cache = Cache(options.cache)
    say(f"finding faces in {count_of(len(pairing.pairs), 'photo')}")
    finder = faces.Finder("yunet", cache)
    found, ledger = faces.samples(
        pairing.pairs, finder, rule=options.labelled, same_person=_alike(options)
    )
    others = [released_again(found, original, folder, options, finder) for folder in options.again]
    telling = side_channels([sample.pair for sample in found])
    where = placed(found, pairing, options.seed)
    _refuse_few(where)
    gates = self_test() if options.gates else []
    cache.save()
    around = faces.surroundings(found)
    rows: list[Row] = []
    baselines: list[Row] = []
    linked: list[schema.Linkability] = []
    forensic: dict[str, float | None] = {}
    networks: list[schema.RecogniserPart] = []
    spaces: dict[str, tuple[Floats, Floats]] = {}
    stages: dict[str, tuple[Floats, Floats]] = {}
    diverse: list[schema.UtilityPart] = []
    wanted, flip = PROFILES[options.profile]
    for name in options.recognisers or wanted:
        try:
            network = embedder(name)
        except WeightsRejected as error:
            networks.append(_absent(name, flip, options, error))
            continue
        say(f"{name}: vectors of {count_of(len(found), 'face')}")
        case = _case(found, where, network, around, cache, options.seed, flip=flip)
        case = replace(
            case,
            foreign=dict(spaces),
            again=[
                vectors(
                    network,
                    faces.released_crops(other, network.template, network.side),
                    cache=cache,
                    flip=flip,
                )
                for other in others
            ],
        )
        cache.save()
        spaces[name] = (case.clear, case.anon["clear"])
        stages.update(_stages(network, case, where))
        base = ladder.baseline(case, where, name)
        baselines.append(base)
        rows += ladder.climb(ATTACKERS, case, where, name, options.profile, listener=say)
        linked += linkability(case, where, name)
        diverse += diversity(case, where, name, seed=options.seed)
        if not forensic:
            forensic = {name: _forensic(case, where)}
        networks.append(_network(network, base, flip, options))
        cache.save()
    say("utility")
    useful, not_measured = utility(found, where, cache, spaces, seed=options.seed, stages=stages)
    useful += diverse
    if not options.again:
        not_measured.append("diversity: needs further releases of the same photos (--again)")
    readings = attributes.read_clear(found, where, cache)
    learnable, no_learning = attributes.learning(readings, where, spaces, seed=options.seed)
    useful, not_measured = useful + learnable, not_measured + no_learning
    cache.save()
    gates += _in_run(rows, baselines, where, ledger)
    without = ledger.no_output / max(ledger.photos, 1)

    def conclude(rows: Sequence[Row]) -> Verdict:
        return verdict(
            rows,
            baselines,
            gates,
            scenario=options.scenario,
            profile=options.profile,
            trained_with=options.trained_with,
            without_output=without,
            coverage=ledger.coverage,
        )

    concluded = conclude(rows)
    if concluded.best is not None and others:
        say(f"{concluded.best.attack} on {count_of(len(others), 'further release')}")
        averaged = _over_releases(concluded.best, others, where, around, cache, options)
        rows = [averaged if row is concluded.best else row for row in rows]
        concluded = conclude(rows)
        cache.save()
    best = concluded.best
    groups: list[schema.Subgroup] = []
    if best is not None:
        own = next(row for row in baselines if row.recogniser == best.recogniser)
        groups, ungrouped = attributes.subgroups(readings, where, best, own, seed=options.seed)
        not_measured += ungrouped
    return schema.Report(
        schema=schema.SCHEMA,
        run=schema.Run(
            utc=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - start, 1),
            moretta=__version__,
            seed=options.seed,
            profile=options.profile,
            scenario=options.scenario,
            threads=1,
            versions=_versions(),
        ),
        data=_data(original, anonymised, found, where, options),
        method=options.method,
        coverage=schema.Coverage(
            photos=ledger.photos,
            excluded={**pairing.excluded, **ledger.excluded},
            processed=ledger.processed,
            missed=ledger.missed,
            no_output=ledger.no_output,
            attacker_undetected=ledger.attacker_undetected,
            strangers=pairing.strangers,
            share=_number(ledger.coverage),
        ),
        recognisers=networks,
        attacks=[_attack(row, options) for row in (*baselines, *rows)],
        linkability=linked,
        forensic=forensic,
        utility=useful,
        subgroups=groups,
        not_measured=not_measured,
        gates=[
            schema.GatePart(
                id=gate.id, what=gate.what, passed=gate.passed, value=gate.value, bound=gate.bound
            )
            for gate in gates
        ],
        headline=_headline(concluded),
        worst=[
            schema.Worst(photo=found[row].key[:16], margin=round(margin, 4))
            for row, margin in (best.margins if best else ())
        ],
        worst_people=_worst_people(best, where, spaces, options),
        limits=[*telling, *_limits(networks, concluded, cache, options)],
    )


def placed(found: Sequence[faces.Sample], pairing: Pairing, seed: int) -> Layout:
    """Return who is in which part, and which photos are probes; by content only."""
    contents: dict[str, list[str]] = {}
    for sample in found:
        contents.setdefault(sample.pair.person, []).append(sample.key)
    part = parts(contents, seed, reserved=pairing.reserved)
    check_disjoint({p: {who for who, own in part.items() if own == p} for p in set(part.values())})
    # people are numbered by their content, so that their names change nothing
    order = sorted(contents, key=lambda person: sorted(contents[person]))
    number = {person: i for i, person in enumerate(order)}
    seen: dict[str, int] = {}
    probe = []
    for sample in found:  # ordered by content: the last ones of each person are probes
        person = sample.pair.person
        place = seen.get(person, 0)
        seen[person] = place + 1
        count = len(contents[person])
        probe.append(place >= count - probes_of(count))
    return Layout(
        people=np.array([number[s.pair.person] for s in found], np.int64),
        part=[part[s.pair.person] for s in found],
        probe=np.array(probe, bool),
        processed=np.array([s.state == "processed" for s in found], bool),
    )


def foreseen(photos: Mapping[str, int]) -> str:
    """Return what keeps an evaluation of these people from a verdict, in a line; "" for nothing.

    photos: person -> photos, as pairs.photos_of counts them. Raises UsageError for fewer people than
    can be split, as `evaluate` would when everything is done.
    """
    count = sum(number > 1 for number in photos.values())
    if count < LEAST_PEOPLE:
        raise _too_few(count)
    scored = round(count * SHARES["E"])
    if scored >= LEAST_SCORED:
        return ""
    return (
        f"{count_of(count, 'person', 'people')} with two photos or more, {scored} of them in part E: the"
        f" verdict will be insufficient, it needs {LEAST_SCORED} there, of about"
        f" {LEAST_SCORED / SHARES['E']:.0f}"
    )


def _refuse_few(where: Layout) -> None:
    count = len(np.unique(where.people)) if len(where.people) else 0
    if count < LEAST_PEOPLE or min(len(where.people_in(p)) for p in "VE") < 2:
        raise _too_few(count)


def _too_few(count: int) -> UsageError:
    return UsageError(
        f"{count_of(count, 'person', 'people')} with two photos or more: too few to attack",
        hint=f"{LEAST_PEOPLE} can be split at all; 400 give an answer (100 of them in part E)",
    )


def _case(
    found: Sequence[faces.Sample],
    where: Layout,
    network: Embedder,
    around: Floats,
    cache: Cache,
    seed: int,
    *,
    flip: bool,
) -> Case:
    pictures = faces.crops(found, network.template, network.side)

    def embed(crops: Any) -> Floats:
        return vectors(network, crops, cache=cache, flip=flip)

    return Case(
        people=where.people,
        training=np.asarray(where.part) == "T",
        clear=embed(pictures.clear),
        anon={name: embed(crops) for name, crops in pictures.anon.items()},
        seed=seed,
        context={
            "colour and gradients around the face": around,
            "the recogniser on what is left of its crop": embed(pictures.context),
        },
        clear_crops=pictures.clear,
        anon_crops=pictures.anon,
        embed=embed,
    )


def _alike(options: Options) -> Callable[[Any, Face, Any, Face], bool]:
    """Return whether two near-equal pictures under two names show one face (cosine above 0.9)."""
    from moretta.faces.recognise import Recogniser

    judge: list[Recogniser] = []  # built for the first pair only: there may be none

    def alike(first: Any, face: Face, second: Any, other: Face) -> bool:
        if not judge:
            judge.append(Recogniser("sface"))
        one, two = judge[0].embed(first, [face])[0], judge[0].embed(second, [other])[0]
        return float(one @ two) > SAME_PICTURE

    return alike


def _over_releases(
    best: Row,
    others: Sequence[Sequence[faces.Sample]],
    where: Layout,
    around: Floats,
    cache: Cache,
    options: Options,
) -> Row:
    """Return the row that decides with its top-1 averaged over this and all further releases.

    An attack that takes all releases together, or other recognisers' vectors of this one, stays as it is.
    """
    attacker = next(one for one in ATTACKERS if one.name == best.attack)
    if attacker.again or attacker.foreign:
        return best
    network = embedder(best.recogniser)
    flip = PROFILES[options.profile][1]
    runs = [best]
    for other in others:
        case = _case(other, where, network, around, cache, options.seed, flip=flip)
        runs.append(ladder.attack(attacker, case, where, best.recogniser, options.profile))
    return ladder.over_releases(runs, seed=options.seed)


def released_again(
    found: Sequence[faces.Sample],
    original: Path,
    folder: Path,
    options: Options,
    finder: faces.Finder,
) -> list[faces.Sample]:
    """Return the same faces with their released version in another folder.

    Raises UsageError when a photo is missing there: what is averaged must be there for every face.
    """
    there = {pair.name: pair for pair in paired(original, folder, options.identities).pairs}
    chosen = []
    for sample in found:
        pair = there.get(sample.pair.name)
        if pair is None or pair.released is None:
            raise UsageError(
                f"--again {folder} has no {sample.pair.name}",
                hint="a further release holds every photo that the first one holds",
            )
        chosen.append(faces.released_in(sample, pair, finder))
    return chosen


def _stages(network: Embedder, case: Case, where: Layout) -> dict[str, tuple[Floats, Floats]]:
    """Return a second feature space for KID: dlib's stages on clear and released faces of E."""
    deep = getattr(network, "stages", None)
    if deep is None or case.clear_crops is None or case.anon_crops is None:
        return {}
    rows = where.rows("E")
    return {"dlib's stages": (deep(case.clear_crops[rows]), deep(case.anon_crops["clear"][rows]))}


def diversity(case: Case, where: Layout, recogniser: str, *, seed: int) -> list[schema.UtilityPart]:
    """Return how much two releases of one photo are alike: 1 means that nothing was drawn anew."""
    if not case.again:
        return []
    rows, validation = where.rows("E"), where.rows("V")
    scores = case.clear[validation] @ case.clear[validation].T
    _, impostor, _ = ladder.comparisons(scores, where.people[validation], same=False)
    if not verification.reportable(len(impostor), 1e-2):
        return []
    limit = verification.threshold(impostor, 1e-2)
    own = np.mean(
        [(case.anon["clear"][rows] * other[rows]).sum(1) > limit for other in case.again], axis=0
    )
    share = over_genuine(own.astype(np.float64), where.people[rows])
    return [
        schema.UtilityPart(
            name=f"one face in two releases, {recogniser}",
            group="diversity",
            value=_number(share.v),
            lo=_number(share.lo),
            hi=_number(share.hi),
            ceiling=1.0,
            unit="share",
            n=len(rows),
            net=recogniser,
            definition="pairs of releases of one photo above the cosine that one in a hundred pairs "
            "of different people on clear photos of V exceeds: 1 means that no new face is drawn",
        )
    ]


def _worst_people(
    best: Row | None,
    where: Layout,
    spaces: dict[str, tuple[Floats, Floats]],
    options: Options,
) -> schema.WorstPeople | None:
    if best is None:
        return None
    found = ladder.easiest(best, spaces[best.recogniser][1], where, seed=options.seed)
    if found is None:
        return None
    count, top1 = found
    return schema.WorstPeople(
        people=count,
        attack=best.attack,
        recogniser=best.recogniser,
        top1=_interval(top1),
        chance=round(1 / count, 6),
    )


def linkability(case: Case, where: Layout, recogniser: str) -> list[schema.Linkability]:
    """A5: two released photos of one person, no clear photo at all.

    Case ii: seeds as shipped. With further releases also i (one photo released twice) and iii (two
    photos, each from another release: other seeds or other keys), in the recogniser's own vectors.
    """
    validation, rows = where.rows("V"), where.rows("E")
    training = np.flatnonzero(case.training)
    raw = case.anon["clear"]
    features: dict[str, Floats] = {"the recogniser's vectors": raw}
    if len(np.unique(case.people[training])) > 1:
        space = learnt(raw[training], case.people[training], 0.3, turned=False)
        features["a head learnt on anonymised faces"] = space(raw)
    for name, values in (case.context or {}).items():
        features[f"surroundings: {name}"] = values
    found = []
    crosses = [
        ("two released photos of one person", name, values, values, False)
        for name, values in features.items()
    ]
    for other in case.again or ():
        crosses.append(("one photo released twice", "the recogniser's vectors", raw, other, True))
        crosses.append(
            ("two photos in two releases", "the recogniser's vectors", raw, other, False)
        )
    for kind, name, values, others, same in crosses:
        of = {
            part: ladder.comparisons(values[r] @ others[r].T, where.people[r], same=same)
            for part, r in (("V", validation), ("E", rows))
        }
        genuine, impostor, owners = of["E"]
        tar = []
        for rate in verification.RATES:
            if verification.reportable(len(of["V"][1]), rate) and len(genuine):
                limit = verification.threshold(of["V"][1], rate)
                share = over_genuine((genuine > limit).astype(np.float64), owners)
                realised = verification.rate_above(impostor, limit)
                tar.append(_tar(rate, realised, "V, released against released", share))
        found.append(
            schema.Linkability(
                case=kind,
                recogniser=recogniser,
                features=name,
                auc=_number(verification.area(genuine, impostor)),
                eer=_number(verification.equal_error_rate(genuine, impostor)),
                d_sys=_number(verification.linkability(genuine, impostor, fitted_on=of["V"][:2])),
                tar=tar,
            )
        )
    return found


def _forensic(case: Case, where: Layout) -> float | None:
    """A7 on a sample: the AUC of telling released faces from clear ones."""
    if case.clear_crops is None or case.anon_crops is None:
        return None
    train, test = where.rows("T")[:400], where.rows("E")[:400]
    rows = np.concatenate([train, test])

    def described(crops: Any, found: Floats) -> Floats:
        return np.hstack([found[rows], residual_features(equalised(crops[rows]))])

    first = np.arange(len(train), dtype=np.int64)
    second = np.arange(len(train), len(rows), dtype=np.int64)
    return _number(
        told_apart(
            described(case.clear_crops, case.clear),
            described(case.anon_crops["clear"], case.anon["clear"]),
            first,
            second,
        )
    )


def _in_run(
    rows: Sequence[Row], baselines: Sequence[Row], where: Layout, ledger: faces.Ledger
) -> list[Gate]:
    """Return the gates that this very run must pass."""
    best = max((row.all.top1.v for row in baselines if row.all), default=0.0)
    good, value = chance_gate(max(rows, key=lambda r: _or_zero(r.chosen_at), default=None))
    return [
        Gate(
            id="baseline",
            what="a recogniser knows people on the clear photos",
            passed=best >= LEAST_BASELINE,
            value=f"{best:.3f} top-1",
            bound=f"{LEAST_BASELINE}",
        ),
        sane(rows),
        Gate(
            id="G10",
            what="chance, measured",
            passed=good,
            value=value,
            bound="within 0.02, or four standard errors of the renamings",
        ),
        Gate(
            id="output",
            what="photos without a released version",
            passed=ledger.no_output <= MOST_WITHOUT_OUTPUT * ledger.photos,
            value=f"{ledger.no_output} of {ledger.photos}",
            bound=f"{MOST_WITHOUT_OUTPUT:.0%}",
        ),
    ]


# ---- into the schema -------------------------------------------------------------------------


def _number(value: float | None) -> float | None:
    return round(float(value), 6) if value is not None and math.isfinite(value) else None


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _interval(found: Estimate) -> schema.Interval:
    return schema.Interval(v=_number(found.v), lo=_number(found.lo), hi=_number(found.hi))


def _tar(target: float, realised: float, source: str, rate: Estimate) -> schema.TarPart:
    return schema.TarPart(
        fmr_target=target,
        fmr_realised=round(realised, 6),
        threshold_from=source,
        v=round(rate.v, 6),
        lo=round(rate.lo, 6),
        hi=round(rate.hi, 6),
    )


def _rates(found: ladder.Figures | None) -> schema.Rates | None:
    if found is None:
        return None
    return schema.Rates(
        top1=_interval(found.top1),
        top5=_interval(found.top5),
        people=found.people,
        probes=found.probes,
    )


def _attack(row: Row, options: Options) -> schema.AttackPart:
    return schema.AttackPart(
        id=row.attack,
        summary=row.summary,
        recogniser=row.recogniser,
        trained_with=row.recogniser in options.trained_with,
        decides=deciding(row, options.scenario, options.trained_with),
        gallery=row.gallery,
        same_photo=row.same_photo,
        status=row.status,
        reason=row.reason,
        variant=row.variant,
        person_score=row.rule,
        N=row.size,
        selected_on="V",
        v_top1=_number(row.chosen_at),
        v_twin=_number(row.twin_at),
        end_to_end=_rates(row.all),
        conditional=_rates(row.processed),
        S1=_interval(row.normalised) if row.normalised else None,
        chance=_number(row.chance),
        chance_measured=_number(row.measured),
        chance_sd=_number(row.measured_spread),
        by_n={str(n): round(value, 6) for n, value in row.by_size.items()},
        by_rank=[round(value, 6) for value in row.by_rank],
        image_top1=_number(row.image_top1),
        tar=[_tar(t.target, t.realised, t.threshold_from, t.rate) for t in row.tar],
        det=[(round(a, 6), round(b, 6)) for a, b in row.det],
        eer=_number(row.eer),
        auc=_number(row.auc),
        curve=[(count, round(value, 6)) for count, value in row.curve],
        learnt_from=row.learnt_from,
        seconds=round(row.seconds, 1),
        watchlist=schema.Watchlist(
            fpir_target=row.watchlist.target,
            fpir_realised=round(row.watchlist.realised, 6),
            tpir=_interval(row.watchlist.found),
            enrolled=row.watchlist.enrolled,
            others=row.watchlist.others,
        )
        if row.watchlist
        else None,
    )


def _network(network: Embedder, base: Row, flip: bool, options: Options) -> schema.RecogniserPart:
    tar = next((each for each in base.tar if each.target == 1e-3), None)
    return schema.RecogniserPart(
        id=network.name,
        sha256=network.sha256,
        flip=flip,
        trained_with=network.name in options.trained_with,
        clear_top1=_interval(base.all.top1)
        if base.all
        else schema.Interval(v=None, lo=None, hi=None),
        clear_tar_1e_3=_interval(tar.rate) if tar else None,
        measured=True,
        reason="",
    )


def _absent(
    name: str, flip: bool, options: Options, error: WeightsRejected
) -> schema.RecogniserPart:
    return schema.RecogniserPart(
        id=name,
        sha256="",
        flip=flip,
        trained_with=name in options.trained_with,
        clear_top1=schema.Interval(v=None, lo=None, hi=None),
        clear_tar_1e_3=None,
        measured=False,
        reason=error.fault,
    )


def _headline(found: Verdict) -> schema.Headline:
    best, tar = found.best, found.tar
    figures = best.all if best else None
    return schema.Headline(
        verdict=found.words,
        light=found.light,
        sentence=found.sentence,
        notes=list(found.notes),
        H=_number(figures.top1.hi) if figures else None,
        attack=best.attack if best else "",
        recogniser=best.recogniser if best else "",
        N=best.size if best else None,
        chance=_number(best.chance) if best else None,
        top1=_interval(figures.top1) if figures else None,
        S1_hi=_number(best.normalised.hi) if best and best.normalised else None,
        highest_upper=_number(found.highest.all.top1.hi)
        if found.highest and found.highest.all
        else None,
        highest_attack=f"{found.highest.attack} ({found.highest.recogniser})"
        if found.highest
        else "",
        tar_1e_3=_tar(tar.target, tar.realised, tar.threshold_from, tar.rate) if tar else None,
        relative_leak=_number(found.relative),
        a8=_interval(found.floor.all.top1) if found.floor and found.floor.all else None,
        above_a8=schema.Difference(
            v=round(found.above_floor.v, 6),
            lo=round(found.above_floor.lo, 6),
            hi=round(found.above_floor.hi, 6),
        )
        if found.above_floor
        else None,
        people=figures.people if figures else 0,
        probes=figures.probes if figures else 0,
        releases=[_number(each) for each in best.releases] if best else [],
    )


def _data(
    original: Path,
    anonymised: Path,
    found: Sequence[faces.Sample],
    where: Layout,
    options: Options,
) -> schema.Data:
    used = sorted(set(where.part))
    rows: dict[str, Ints] = {part: where.rows(part) for part in used}
    return schema.Data(
        original=original.name,
        anonymized=anonymised.name,
        people=len(np.unique(where.people)),
        photos=len(found),
        parts={
            part: {"people": len(where.people_in(part)), "photos": len(own)}
            for part, own in rows.items()
        },
        part_hashes={
            part: hashlib.sha256("".join(found[i].key for i in own).encode()).hexdigest()
            for part, own in rows.items()
        },
        labelled=f"the face that is {'nearest the centre' if options.labelled == 'centre' else 'largest'}",
        duplicates=f"perceptual hashes that differ in at most {faces.NEAR_DUPLICATE} of 64 bits",
        gallery="two photos in five of each person are probes, at least one; the others the gallery",
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _limits(
    networks: Sequence[schema.RecogniserPart],
    found: Verdict,
    cache: Cache,
    options: Options,
) -> list[str]:
    limits = [f"{net.id} was not measured: {net.reason}" for net in networks if not net.measured]
    limits += [
        f"{net.id} was part of the tool's training: it is marked and decides nothing"
        for net in networks
        if net.trained_with and net.measured
    ]
    limits += [f"the cache file {name} was damaged and made anew" for name in cache.damaged]
    if len([net for net in networks if net.measured and not net.trained_with]) < 2:
        limits.append("fewer than two independent recognisers attacked")
    if options.profile == "quick":
        limits.append("profile quick: one recogniser, no mirror images")
    limits += [
        "A8 has no general picture network: colour, gradients and the recogniser stand in for it",
        (
            "recognisers that learnt from web collections may know people of these photos: that helps "
            "the attacker"
        ),
        "attacks give lower bounds: another attacker may do better",
    ]
    return limits
