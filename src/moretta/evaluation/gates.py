"""Tests of the evaluation itself: anonymisers whose truth is known, and what must come out.

A failing gate forbids a verdict. Most gates work on drawn vectors, so they need neither photos nor
networks: every person has a direction, every photo is that direction with noise, and an anonymiser
is a function of vectors. Gates about pixels draw pictures and use a recogniser that is a fixed random
projection of the pixels.
Source  evaluation.md 6 (G1 to G15). Not here: what needs photos of people; README of the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.errors import UsageError
from moretta.evaluation import verification
from moretta.evaluation.attackers import ATTACKERS
from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, cosine
from moretta.evaluation.embed import unit
from moretta.evaluation.ladder import LOSS, Layout, Row, attack, baseline
from moretta.evaluation.splits import check_disjoint, probes_of

if TYPE_CHECKING:
    from moretta.evaluation.attackers.attack import Floats, Ints
    from moretta.records import Pixels

PEOPLE = {"T": 150, "V": 60, "E": 100}
FEWER = {"T": 100, "V": 40, "E": 60}  # for gates that draw pictures
PHOTOS = 4
LENGTH = 64
NOISE = 0.7  # length of a photo's noise beside its person's direction
SIDE = 32  # px of drawn pictures
SURROUNDINGS = 0.2  # contrast of what stands around a drawn face, beside the face's own
TRAINED_PAIRS = ("A2-cross", "A4-shift", "A4-procrustes", "A4-ridge", "A4-cca")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One test of the evaluation: what was measured and what it must be."""

    id: str
    what: str
    passed: bool
    value: str
    bound: str


def layout(counts: Mapping[str, int] = PEOPLE) -> Layout:
    """Return PHOTOS photos each of drawn people."""
    parts = [part for part, count in counts.items() for _ in range(count)]
    people = np.repeat(np.arange(len(parts), dtype=np.int64), PHOTOS)
    probe = np.tile(np.arange(PHOTOS) >= PHOTOS - probes_of(PHOTOS), len(parts))
    part = np.repeat(np.array(parts), PHOTOS)
    return Layout(
        people=people, part=part.tolist(), probe=probe, processed=np.ones(len(people), bool)
    )


def drawn(where: Layout, seed: int = 0) -> Floats:
    """Return one unit vector a photo: the person's direction and noise."""
    rng = np.random.default_rng(seed)
    people = unit(rng.normal(size=(int(where.people.max()) + 1, LENGTH)))
    noise = unit(rng.normal(size=(len(where.people), LENGTH))) * NOISE
    return unit(people[where.people] + noise)


def case(where: Layout, clear: Floats, anon: Floats, **more: Any) -> Case:
    """Return vectors as a case, both alignments the same."""
    return Case(
        people=where.people,
        training=np.asarray(where.part) == "T",
        clear=clear,
        anon={"clear": anon},
        seed=0,
        **more,
    )


def _attacker(name: str) -> Attacker:
    (found,) = [each for each in ATTACKERS if each.name == name]
    return found


def _top1(name: str, given: Case, where: Layout) -> Row:
    return attack(_attacker(name), given, where, "drawn")


def _rate(row: Row) -> float:
    return row.all.top1.v if row.all else float("nan")


def _half(row: Row) -> float:
    return max((row.all.top1.hi - row.all.top1.lo) / 2, 0.02) if row.all else 0.02


def _near_chance(rows: Sequence[Row]) -> tuple[bool, str]:
    worst = max(rows, key=lambda row: abs(_rate(row) - row.chance))
    good = all(abs(_rate(row) - row.chance) <= _half(row) for row in rows)
    return good, f"{worst.attack}: {_rate(worst):.3f}, chance {worst.chance:.3f}"


def identity() -> Gate:
    """G1: nothing was done. Every attack must be as good as the recogniser, A0-same perfect."""
    where = layout()
    clear = drawn(where)
    given = case(where, clear, clear)
    best = _rate(baseline(given, where, "drawn"))
    same = _top1("A0-same", given, where)
    other = _rate(_top1("A0-other", given, where))
    trained = [_rate(_top1(name, given, where)) for name in TRAINED_PAIRS]
    good = (
        _rate(same) == 1
        and same.image_top1 == 1
        and abs(other - best) <= 1e-6
        and min(trained) >= best - 0.02
    )
    value = f"A0-same {_rate(same):.3f}, A0-other {other:.3f}, trained {min(trained):.3f} or more"
    return Gate(
        id="G1",
        what="identity: nothing is changed",
        passed=good,
        value=value,
        bound=f"1, {best:.3f}, {best - 0.02:.3f}",
    )


def constant() -> Gate:
    """G2: every released vector is the same. All attacks at chance; ties are not hits."""
    where = layout()
    clear = drawn(where)
    given = case(where, clear, np.repeat(clear[:1], len(clear), axis=0))
    names = ("A0-same", "A0-other", "A1", "A1r", "A2-head", "A2-cross", "A4-anti", "A4-ridge")
    rows = [_top1(name, given, where) for name in names]
    good, value = _near_chance(rows)
    good = good and all(row.status != "broken" or "twin" in row.reason for row in rows)
    for row in rows:
        for tar in row.tar:
            good = good and tar.realised <= 0.05 and tar.rate.v <= tar.realised + 0.03
    return Gate(id="G2", what="one picture for everybody", passed=good, value=value, bound="chance")


def negated() -> Gate:
    """G6: z -> -z with noise. Naive below chance; A4-anti sees it."""
    where = layout()
    clear = drawn(where)
    rng = np.random.default_rng(1)
    anon = unit(-clear + 0.3 * unit(rng.normal(size=clear.shape)))
    given = case(where, clear, anon)
    best = _rate(baseline(given, where, "drawn"))
    other, anti = _top1("A0-other", given, where), _rate(_top1("A4-anti", given, where))
    return Gate(
        id="G6",
        what="identities negated",
        passed=_rate(other) < other.chance and anti >= 0.8 * best,
        value=f"A0-other {_rate(other):.3f}, A4-anti {anti:.3f}",
        bound=f"below {other.chance:.3f}, at least {0.8 * best:.3f}",
    )


def rotated() -> Gate:
    """G7: z -> R z. Naive at chance; A4-procrustes undoes it."""
    where = layout()
    clear = drawn(where)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(LENGTH, LENGTH)))
    given = case(where, clear, clear @ turn)
    best = _rate(baseline(given, where, "drawn"))
    other, found = _top1("A0-other", given, where), _rate(_top1("A4-procrustes", given, where))
    return Gate(
        id="G7",
        what="vectors turned by one rotation",
        passed=abs(_rate(other) - other.chance) <= _half(other) and found >= 0.95 * best,
        value=f"A0-other {_rate(other):.3f}, A4-procrustes {found:.3f}",
        bound=f"chance, at least {0.95 * best:.3f}",
    )


def replaced() -> Gate:
    """G8: every photo gets an independent face. All attacks at chance, A5 cannot link."""
    where = layout()
    clear = drawn(where)
    anon = unit(np.random.default_rng(3).normal(size=clear.shape))
    given = case(where, clear, anon)
    names = ("A0-same", "A0-other", "A1", "A2-head", "A2-cross", "A4-anti", "A4-procrustes")
    rows = [_top1(name, given, where) for name in (*names, "A4-ridge", "A4-cca")]
    good, value = _near_chance(rows)
    auc = rows[names.index("A1")].auc
    return Gate(
        id="G8",
        what="an independent face for every photo",
        passed=good and abs(auc - 0.5) <= 0.05,
        value=f"{value}; A5 AUC {auc:.3f}",
        bound="chance; 0.5 within 0.05",
    )


def sane(rows: Sequence[Row]) -> Gate:
    """G9: no attack is reported below its untrained twin on V, and none stopped with an error."""
    bad = [
        f"{row.recogniser} {row.attack}"
        for row in rows
        if (row.status == "broken" and not row.variant) or row.chosen_at < row.twin_at - LOSS
    ]
    return Gate(
        id="G9",
        what="no attack is weaker than doing nothing",
        passed=not bad,
        value=", ".join(bad) or "none",
        bound="none",
    )


def broken_is_seen() -> Gate:
    """G9 on drawn vectors: training that ruins an attack is called broken, and its twin stands."""
    where = layout()
    clear = drawn(where)
    given = case(where, clear, clear)
    ruined = unit(np.random.default_rng(4).normal(size=clear.shape))

    def candidates(given: Case, rows: Ints) -> list[Candidate]:
        plain = Candidate(label="untrained", score=cosine(given.anon["clear"], given.clear))
        worse = Candidate(label="trained", score=cosine(ruined, given.clear), trained=True)
        return [plain, worse]

    test = Attacker(name="ruined", summary="", gallery="clear", candidates=candidates, trained=True)
    row = attack(test, given, where, "drawn")
    good = row.status == "broken" and row.variant == "untrained" and sane([row]).passed
    return Gate(
        id="G9",
        what="an attack that training made worse is called broken",
        passed=good,
        value=f"{row.status}, {row.variant}",
        bound="broken, untrained",
    )


def shuffled() -> Gate:
    """G10: people renamed on one side. Every attack at chance, or labels leak."""
    where = layout()
    clear = drawn(where)
    other = drawn(where, seed=9)  # other people under the same names
    names = ("A0-same", "A0-other", "A1r", "A2-cross", "A4-ridge")
    good, value = _near_chance([_top1(name, case(where, clear, other), where) for name in names])
    return Gate(
        id="G10", what="people renamed on one side", passed=good, value=value, bound="chance"
    )


def canary() -> Gate:
    """G11: one face in twenty untouched. The rate of all faces rises by that much, not the other."""
    where = layout()
    clear = drawn(where)
    anon = unit(np.random.default_rng(5).normal(size=clear.shape))
    plain = _top1("A0-other", case(where, clear, anon), where)
    best = _rate(baseline(case(where, clear, anon), where, "drawn"))
    people = where.people_in("E")
    missed = np.isin(where.people, people[::20]) & where.probe
    with_missed = anon.copy()
    with_missed[missed] = clear[missed]
    seen = replace(where, processed=~missed)
    row = _top1("A0-other", case(where, clear, with_missed), seen)
    rise = _rate(row) - _rate(plain)
    inner = row.processed.top1.v if row.processed else float("nan")
    share = len(people[::20]) / len(people)
    good = abs(rise - share * best) <= _half(row) and abs(inner - _rate(plain)) <= _half(plain)
    return Gate(
        id="G11",
        what="faces that the tool missed count",
        passed=bool(good),
        value=f"rise {rise:.3f}; changed faces alone {inner:.3f}",
        bound=f"{share * best:.3f}; {_rate(plain):.3f}",
    )


def leak() -> Gate:
    """G13: a person in two parts stops the run."""
    try:
        check_disjoint({"T": ["a", "b"], "V": ["c"], "E": ["d", "a"]})
    except UsageError:
        stopped = True
    else:
        stopped = False
    return Gate(
        id="G13",
        what="a person in two parts stops the run",
        passed=stopped,
        value="stopped" if stopped else "went on",
        bound="stopped",
    )


def repeated() -> Gate:
    """G14: the same case twice gives the same figures."""
    where = layout()
    clear = drawn(where)
    anon = unit(clear + unit(np.random.default_rng(6).normal(size=clear.shape)))
    rows = [_top1("A4-ridge", case(where, clear, anon), where) for _ in range(2)]
    same = rows[0].all == rows[1].all and rows[0].variant == rows[1].variant
    return Gate(id="G14", what="two runs, one result", passed=same, value=str(same), bound="True")


# ---- pixels ----------------------------------------------------------------------------------


def pictures(where: Layout, seed: int = 0) -> Pixels:
    """Return one drawn picture a photo, (n, SIDE, SIDE, 3): a smooth pattern of the person, and noise."""
    import cv2

    rng = np.random.default_rng(seed)
    base = rng.normal(size=(int(where.people.max()) + 1, 12, 12, 3))
    own = base[where.people] + 0.35 * rng.normal(size=(len(where.people), 12, 12, 3))
    rows: Any = [
        cv2.resize(one.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        for one in own
    ]
    made: Pixels = np.clip(np.rint(128 + 40 * np.stack(rows)), 0, 255).astype(np.uint8)
    return made


def seeing(crops: Pixels) -> Floats:
    """Return unit vectors of crops: a fixed random projection of their pixels, twice smoothed."""
    import cv2

    rows: Any = [cv2.resize(crop, (16, 16), interpolation=cv2.INTER_AREA) for crop in crops]
    flat = np.stack(rows).reshape(len(crops), -1).astype(np.float64) / 128 - 1
    projection = np.random.default_rng(11).normal(size=(flat.shape[1], LENGTH))
    return unit(flat @ projection)


def pixel_case(where: Layout, change: Callable[[Pixels], Pixels]) -> Case:
    """Return drawn pictures and what `change` makes of them as a case."""
    clear = pictures(where)
    anon = change(clear)
    return case(
        where,
        seeing(clear),
        seeing(anon),
        clear_crops=clear,
        anon_crops={"clear": anon},
        embed=seeing,
    )


def block_shuffle() -> Gate:
    """G4: a fixed shuffle of 8 x 8 blocks. Naive fails; A3-perm and A3-lin undo it."""
    from moretta.evaluation.attackers.permutation import blocks, whole

    where = layout(FEWER)
    order = np.random.default_rng(7).permutation(64)
    given = pixel_case(where, lambda crops: whole(blocks(crops, 8)[:, order], 8))
    best = _rate(baseline(given, where, "drawn"))
    rates = [_rate(_top1(name, given, where)) for name in ("A0-other", "A3-perm", "A3-lin")]
    good = rates[0] <= 0.2 * best and rates[1] >= 0.95 * best and rates[2] >= 0.9 * best
    return Gate(
        id="G4",
        what="a fixed shuffle of blocks",
        passed=good,
        value="A0-other {:.3f}, A3-perm {:.3f}, A3-lin {:.3f}".format(*rates),
        bound=f"at most {0.2 * best:.3f}, at least {0.95 * best:.3f} and {0.9 * best:.3f}",
    )


def blur() -> Gate:
    """G5: a ladder of blur. Where the naive attack has halved, a restorer gains 0.15; then all fall."""
    import cv2

    where = layout(FEWER)
    rates: list[tuple[float, float]] = []
    best = 1.0
    for width in (2.0, 7.0):

        def blurred(crops: Pixels, width: float = width) -> Pixels:
            rows: Any = [cv2.GaussianBlur(crop, (0, 0), width) for crop in crops]
            soft: Pixels = np.stack(rows)
            return soft

        given = pixel_case(where, blurred)
        best = _rate(baseline(given, where, "drawn"))
        naive = _rate(_top1("A0-other", given, where))
        names = ["A3-lin", "A2-cross", *(["A3-op"] if naive <= 0.5 * best else [])]
        rates.append((naive, max(_rate(_top1(name, given, where)) for name in names)))
    halved = [each for each in rates if each[0] <= 0.5 * best]
    gained = bool(halved) and halved[0][1] >= halved[0][0] + 0.15
    falling = all(
        after <= before + 0.05
        for before, after in zip(
            [max(pair) for pair in rates], [max(pair) for pair in rates[1:]], strict=False
        )
    )
    return Gate(
        id="G5",
        what="blur of growing width",
        passed=gained and falling,
        value="; ".join(f"{naive:.2f} naive, {found:.2f} best" for naive, found in rates),
        bound="0.15 gained where naive has halved; best never rises",
    )


def surrounded(where: Layout, face: Callable[[Pixels], Pixels]) -> Case:
    """Return drawn pictures whose inner quarter is a face that `face` replaces, and what A8 sees.

    The surroundings tell people apart less well than the face: they are noisier.
    """
    inner = np.s_[:, SIDE // 4 : 3 * SIDE // 4, SIDE // 4 : 3 * SIDE // 4]
    clear = pictures(where, seed=3)
    around = 128 + SURROUNDINGS * (clear - 128.0)
    around += np.random.default_rng(12).normal(0, 40, clear.shape)
    around[inner] = clear[inner]
    clear = np.clip(around, 0, 255).astype(np.uint8)
    anon, blank = clear.copy(), clear.copy()
    anon[inner] = face(clear[inner])
    blank[inner] = 128
    return case(
        where,
        seeing(clear),
        seeing(anon),
        clear_crops=clear,
        anon_crops={"clear": anon},
        embed=seeing,
        context={"all but the face": seeing(blank)},
    )


def explained(id_: str, what: str, face: Callable[[Pixels], Pixels]) -> Gate:
    """Best of the attacks on `face` against A8: more than chance must come from the surroundings."""
    where = layout(FEWER)
    given = surrounded(where, face)
    names = ("A0-other", "A1", "A1r", "A3-lin", "A4-anti", "A4-shift", "A4-procrustes", "A4-ridge")
    rows = [_top1(name, given, where) for name in names]
    best, floor = max(rows, key=_rate), _top1("A8", given, where)
    bound = _rate(floor) + 2 * _half(floor)
    return Gate(
        id=id_,
        what=what,
        passed=_rate(best) <= bound,
        value=f"{best.attack} {_rate(best):.3f}",
        bound=f"at most {bound:.3f} (A8 {_rate(floor):.3f})",
    )


def black_face() -> Gate:
    """G3: the face is black, its surroundings stay. Nothing beyond A8."""
    return explained("G3", "a black face, surroundings kept", np.zeros_like)


def one_face() -> Gate:
    """G15: the same face pasted on everybody. Nothing beyond A8."""
    pattern = np.random.default_rng(13).integers(0, 256, (SIDE // 2, SIDE // 2, 3)).astype(np.uint8)
    return explained(
        "G15", "one face pasted on all", lambda face: np.repeat(pattern[None], len(face), 0)
    )


def other_order() -> Gate:
    """G12: other order of rows and other numbers of people change nothing; a planted name is seen."""
    import tempfile
    from pathlib import Path

    from PIL import Image

    from moretta.evaluation.pairs import Pair
    from moretta.evaluation.sidechannels import NAMED, side_channels

    where = layout(FEWER)
    clear = drawn(where)
    anon = unit(clear + unit(np.random.default_rng(14).normal(size=clear.shape)))
    order = np.random.default_rng(15).permutation(len(clear))
    renamed = np.random.default_rng(16).permutation(int(where.people.max()) + 1)
    other = Layout(
        people=renamed[where.people][order],
        part=np.asarray(where.part)[order].tolist(),
        probe=where.probe[order],
        processed=where.processed[order],
    )
    apart = 0.0
    for name in ("A0-other", "A1", "A4-ridge"):
        one = _top1(name, case(where, clear, anon), where)
        two = _top1(name, case(other, clear[order], anon[order]), other)
        apart = max(apart, abs(_rate(one) - _rate(two)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jpg"
        exif = Image.Exif()
        exif[0x013B] = "Ada Example"  # artist
        Image.new("RGB", (8, 8)).save(path, exif=exif)
        pair = Pair(name="a.jpg", person="ada example", original=path, released=path)
        said = side_channels([pair])
    seen = any(line.startswith(NAMED) for line in said)
    return Gate(
        id="G12",
        what="order and names change nothing; a name in the metadata is seen",
        passed=apart <= 1e-6 and seen,
        value=f"{apart:.1e} apart; {'seen' if seen else 'not seen'}",
        bound="1e-06; seen",
    )


def thresholds() -> Gate:
    """Thresholds set on one half of drawn impostors hold on the other half."""
    rng = np.random.default_rng(8)
    first, second = rng.normal(size=(2, 200_000))
    realised = [
        verification.rate_above(second, verification.threshold(first, rate)) / rate
        for rate in verification.RATES
    ]
    good = all(0.5 <= each <= 2 for each in realised)
    return Gate(
        id="thresholds",
        what="realised against target FMR",
        passed=good,
        value=", ".join(f"{each:.2f}" for each in realised),
        bound="0.5 to 2",
    )


GATES: tuple[Callable[[], Gate], ...] = (
    identity,
    constant,
    black_face,
    block_shuffle,
    blur,
    negated,
    rotated,
    replaced,
    broken_is_seen,
    shuffled,
    canary,
    other_order,
    leak,
    repeated,
    one_face,
    thresholds,
)


def self_test() -> list[Gate]:
    """Run every gate; a gate that stops with an error has failed."""
    from threadpoolctl import threadpool_limits

    found = []
    for gate in GATES:
        try:
            with threadpool_limits(1):
                found.append(gate())
        except Exception as error:  # noqa: BLE001 - the fault is shown and forbids a verdict
            name = gate.__name__
            fault = f"{type(error).__name__}: {error}"
            found.append(Gate(id=name, what=name, passed=False, value=fault, bound="no error"))
    return found
