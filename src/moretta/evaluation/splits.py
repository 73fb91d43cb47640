"""People into parts: T trains the attackers, V chooses among them, E is scored once.

Promise   no person is in two parts; the same photos give the same parts whatever their files are called.
Sources   evaluation.md 1.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

from moretta.errors import UsageError

SHARES = {"T": 0.60, "V": 0.15, "E": 0.25}


def derived_seed(seed: int, *parts: str) -> int:
    """Return 63 bits that depend on the run's seed and on content, never on file names.

    >>> derived_seed(0, "a") == derived_seed(0, "a") != derived_seed(0, "b")
    True
    """
    text = "|".join([str(seed), *parts]).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def in_order(contents: Mapping[str, Sequence[str]], seed: int) -> list[str]:
    """Return the people in an order that only the seed and the content of their photos decide.

    contents: person -> content hashes of that person's photos.
    """

    def key(person: str) -> tuple[int, list[str]]:
        hashes = sorted(contents[person])
        return derived_seed(seed, "split", *hashes), hashes

    return sorted(contents, key=key)


def parts(
    contents: Mapping[str, Sequence[str]],
    seed: int,
    *,
    reserved: Collection[str] = (),
    shares: Mapping[str, float] | None = None,
) -> dict[str, str]:
    """Return each person's part. reserved: people the anonymiser learnt from; they form part B.

    E and V get their shares first, rounded, T the rest, so that small sets still have all three.
    """
    wanted = shares or SHARES
    people = [person for person in in_order(contents, seed) if person not in reserved]
    evaluated = round(len(people) * wanted["E"])
    validated = round(len(people) * wanted["V"])
    chosen = {person: "B" for person in reserved if person in contents}
    for place, person in enumerate(people):
        part = "E" if place < evaluated else "V" if place < evaluated + validated else "T"
        chosen[person] = part
    return chosen


def check_disjoint(people: Mapping[str, Collection[str]]) -> None:
    """Raise UsageError when a person is in two parts: every figure would be worth nothing."""
    seen: dict[str, str] = {}
    for part, members in people.items():
        for person in members:
            if person in seen:
                raise UsageError(
                    f"a person is in part {seen[person]} and in part {part}",
                    hint="every person belongs to one part only",
                )
            seen[person] = part


def probes_of(count: int) -> int:
    """Return how many of a person's `count` photos are probes; the others form the gallery.

    >>> [probes_of(n) for n in (2, 3, 4, 5, 10)]
    [1, 1, 1, 2, 4]
    """
    return max(1, count * 2 // 5)
