"""What an attacker is: it gets a Case, and offers candidates that score probes against a gallery.

Everything that all attackers share stands elsewhere and once: who is in which part (splits.py), how a
score becomes a rank (ranking.py), which candidate is taken and what is reported (ladder.py). An
attacker brings only what makes it different, so that none can be scored more kindly than another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from moretta.records import Pixels

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Profile = Literal["quick", "standard", "full"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """Everything there is to attack with, for one recogniser. Rows are faces, the same everywhere."""

    people: Ints  # (n,) number of the person
    training: Flags  # (n,) rows of part T: the only ones an attacker may learn from
    clear: Floats  # (n, length) unit vectors of the originals
    anon: Mapping[str, Floats]  # alignment -> (n, length) unit vectors of what was released
    seed: int
    context: Mapping[str, Floats] | None = None  # name -> (n, features): what the tool left (A8)
    clear_crops: Pixels | None = None  # (n, side, side, 3) on the recogniser's template
    anon_crops: Mapping[str, Pixels] | None = None  # alignment -> the same of what was released
    embed: Callable[[Pixels], Floats] | None = None  # crops -> unit vectors
    foreign: Mapping[str, tuple[Floats, Floats]] | None = (
        None  # other recogniser -> clear, released
    )
    again: Sequence[Floats] | None = None  # vectors of further releases of the same photos


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One variant of an attack.

    score: (probe rows, gallery rows) -> (probes, gallery), higher means more alike.
    trained: whether it learnt from part T; the others are its untrained twins.
    closed: it learns from the gallery that it is given, which may hold no probe: no verification then.
    """

    label: str
    score: Callable[[Ints, Ints], Floats]
    trained: bool = False
    closed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacker:
    """An attack: one file in attackers/, one line in its list.

    candidates: (case, rows to learn from) -> variants. The rows are all of part T or a share of it.
    """

    name: str
    summary: str
    gallery: Literal["clear", "anon"]
    candidates: Callable[[Case, Ints], Iterable[Candidate]]
    same_photo: bool = False  # the probe's own original is in the gallery
    trained: bool = False
    pixels: bool = False  # needs crops and a recogniser, not only vectors
    foreign: bool = False  # needs vectors of another recogniser
    again: bool = False  # needs further releases of the same photos
    since: Profile = "quick"  # the shortest profile that has time for it
    only: tuple[str, ...] = ()  # recognisers that it works with; empty: any
    packages: tuple[str, ...] = ()
    floor: bool = False  # A8: what no tool that changes only faces can go below


def cosine(probes: Floats, gallery: Floats) -> Callable[[Ints, Ints], Floats]:
    """Return the score of two sets of unit vectors over the same rows."""

    def score(probe_rows: Ints, gallery_rows: Ints) -> Floats:
        found: Floats = probes[probe_rows] @ gallery[gallery_rows].T
        return found

    return score


def same_shot(case: Case, rows: Ints, alignment: str) -> tuple[Floats, Floats]:
    """Return pairs of released and clear vectors of the same photos, (pairs, length) each."""
    return case.anon[alignment][rows], case.clear[rows]


def cross_shot(case: Case, rows: Ints, alignment: str) -> tuple[Floats, Floats]:
    """Return pairs of a released vector and a clear one of the same person's next photo."""
    order = rows[np.argsort(case.people[rows], kind="stable")]
    people = case.people[order]
    after = np.arange(1, len(order) + 1)
    last = np.append(people[1:] != people[:-1], True)
    first = np.searchsorted(people, people, side="left")
    partner = np.where(last, first, np.minimum(after, len(order) - 1))
    useful = partner != np.arange(len(order))
    return case.anon[alignment][order[useful]], case.clear[order[partner[useful]]]
