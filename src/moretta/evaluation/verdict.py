"""The headline and its words: which attack decides, which band its upper bound falls into.

Source  evaluation.md 8.2. Words: "no attack we ran exceeded X". Never more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moretta.errors import count_of
from moretta.evaluation.attackers import ATTACKERS, decides
from moretta.evaluation.intervals import Estimate, paired_difference
from moretta.evaluation.ladder import SHUFFLES

if TYPE_CHECKING:
    from moretta.evaluation.gates import Gate
    from moretta.evaluation.ladder import Row, Tar

LEAST_PEOPLE = 100
NONE = ("no verdict", "insufficient")  # words of a headline that is no verdict: exit code 3
LEAST_BASELINE = 0.90  # top-1 of the recogniser on clear photos
MOST_WITHOUT_OUTPUT = 0.01
BAND_LIMITS = ((0.02, "no leak found by the attacks run", "green"), (0.10, "weak leak", "amber"))
BAND_LIMITS_ABOVE = ((0.50, "substantial leak", "red"), (float("inf"), "recognisable", "red"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an evaluation concludes."""

    words: str
    light: str
    sentence: str
    notes: tuple[str, ...]
    best: Row | None  # chosen on V
    highest: Row | None  # the largest upper bound on E of all that may decide
    floor: Row | None
    tar: Tar | None
    relative: float | None
    above_floor: Estimate | None


def deciding(row: Row, scenario: str, trained_with: Collection[str]) -> bool:
    """Whether a row may decide the headline."""
    kinds = {attacker.name: attacker for attacker in ATTACKERS}
    return (
        row.attack in kinds
        and decides(kinds[row.attack], scenario)
        and row.recogniser not in trained_with
        and row.all is not None
    )


def verdict(
    rows: Sequence[Row],
    baselines: Sequence[Row],
    gates: Sequence[Gate],
    *,
    scenario: str,
    profile: str,
    trained_with: Collection[str] = (),
    without_output: float = 0.0,
    coverage: float = 1.0,
) -> Verdict:
    """Return the headline: the attack that did best on V, by its upper bound on E."""
    fit = {row.recogniser: row for row in baselines if row.all and row.all.top1.v >= LEAST_BASELINE}
    offered = [
        row for row in rows if deciding(row, scenario, trained_with) and row.recogniser in fit
    ]
    best = max(offered, key=lambda row: row.chosen_at, default=None)  # ties: the first, not by E
    floors = [row for row in rows if row.floor and row.all and row.recogniser in fit]
    floor = max(floors, key=lambda row: row.chosen_at, default=None)
    if best is None or best.all is None or best.normalised is None:
        return _none(
            "no recogniser that may decide knows people on the clear photos in 90 of 100 cases",
            floor,
        )
    tar = next((each for each in best.tar if each.target == 1e-3), None)
    clear = fit[best.recogniser].normalised
    relative = best.normalised.v / clear.v if clear and clear.v > 0 else None
    above = None
    if floor is not None and floor.values is not None and best.values is not None:
        above = paired_difference(best.values, floor.values, seed=0)
    notes = _notes(rows, best, floor, above, profile, coverage)
    words, light = _band(best, tar, notes, profile)
    failed = [gate.id for gate in gates if not gate.passed]
    if failed:
        words, light = "no verdict", "grey"
        notes = (f"gates failed: {', '.join(failed)}", *notes)
    elif without_output > MOST_WITHOUT_OUTPUT:
        words, light = "no verdict", "grey"
        notes = (f"{without_output:.1%} of the photos have no output", *notes)
    elif best.all.people < LEAST_PEOPLE:
        words, light = "insufficient", "grey"
        notes = (
            f"{count_of(best.all.people, 'person', 'people')} in part E; {LEAST_PEOPLE} are needed",
            *notes,
        )
    top = best.all.top1
    over = f", mean of {count_of(len(best.releases), 'release')}" if best.releases else ""
    highest = max(offered, key=_upper)
    sentence = (
        f"Of the attacks that count in scenario {scenario}, none that we ran exceeded "
        f"{_upper(highest):.1%} top-1 among {count_of(best.size, 'person', 'people')} (chance "
        f"{best.chance:.1%}; upper 95 % bound of {highest.attack} with {highest.recogniser}). "
        f"The one that was best on part V, {best.attack} with {best.recogniser}, named "
        f"{top.v:.1%} of the people on part E{over}, 95 % interval {top.lo:.1%} to {top.hi:.1%}; "
        f"its upper bound decides."
    )
    return Verdict(
        words=words,
        light=light,
        sentence=sentence,
        notes=notes,
        best=best,
        highest=highest,
        floor=floor,
        tar=tar,
        relative=relative,
        above_floor=above,
    )


def _upper(row: Row) -> float:
    return row.all.top1.hi if row.all else 0.0


def _band(best: Row, tar: Tar | None, notes: Sequence[str], profile: str) -> tuple[str, str]:
    upper = best.normalised.hi if best.normalised else float("inf")
    for limit, words, light in (*BAND_LIMITS, *BAND_LIMITS_ABOVE):
        if upper > limit:
            continue
        if limit == BAND_LIMITS[0][0]:
            flat = not any("data-limited" in note for note in notes)
            if profile == "quick" or not flat or tar is None or tar.rate.v > 0.01:
                continue
        return words, light
    raise AssertionError("the last band has no limit")


def _notes(
    rows: Sequence[Row],
    best: Row,
    floor: Row | None,
    above: Estimate | None,
    profile: str,
    coverage: float,
) -> tuple[str, ...]:
    notes = []
    if profile == "quick":
        notes.append("attackers limited: profile quick cannot give the best band")
    limited = sorted({f"{row.attack} ({row.recogniser})" for row in rows if row.limited})
    if limited:
        notes.append(f"attacker data-limited: {', '.join(limited)} still grow with more people")
    if floor is not None and above is not None and above.lo <= 0:
        notes.append("limited by context, not by the face: A8 does as well without the face")
    if coverage < 0.99:
        notes.append(f"the tool changed {coverage:.1%} of the faces; the others count as they are")
    return tuple(notes)


def _none(why: str, floor: Row | None) -> Verdict:
    return Verdict(
        words="no verdict",
        light="grey",
        sentence=f"No verdict: {why}.",
        notes=(),
        best=None,
        highest=None,
        floor=floor,
        tar=None,
        relative=None,
        above_floor=None,
    )


def chance_gate(row: Row | None) -> tuple[bool, str]:
    """Return whether chance as measured with renamed people is chance as calculated (G10)."""
    if row is None or row.all is None:
        return True, "no attack to check"
    bound = max(0.02, 4 * row.measured_spread / SHUFFLES**0.5)  # a mean of SHUFFLES renamings
    good = abs(row.measured - row.chance) <= bound
    return good, f"{row.measured:.3f} measured, {row.chance:.3f} calculated, bound {bound:.3f}"
