"""Group faces by person from a recogniser's vectors: average linkage, without the matrix of all pairs.

Promise   the groups are those of average linkage on cosines, cut at `least`: the mean cosine between
          the faces of two groups that could still be joined is below it. Faces of one photo are never
          in one group.
How       the mean cosine of two groups is the product of their mean vectors, so a group is one row.
          In each round all pairs of groups that are each other's nearest are joined; average linkage
          is reducible, so the order of joins does not matter, and a group whose nearest was not
          touched keeps it. Memory grows with the faces, not with their pairs.
Sources   Murtagh 1983, "A survey of recent advances in hierarchical clustering algorithms".
Checked   tests/faces/test_group.py: the plain algorithm, one best pair at a time, as second route.
Measured  docs/persons.md, by benchmarks/grouping.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]  # (n, length)

LEAST = 0.42  # mean cosine; docs/persons.md has the error at others
BLOCK = 1024  # rows of cosines computed at once
NEVER = -2.0  # below every cosine


def grouped(vectors: Vectors, photos: Sequence[int], *, least: float = LEAST) -> list[int]:
    """Return each face's group, numbered from 0 in the order of their first faces.

    vectors: (faces, length), unit length; one that is not finite is a group of its own.
    photos: the number of each face's photo; two faces of one photo are two persons.
    least: mean cosine from which two groups are one.

    >>> grouped(np.eye(2, dtype=np.float32)[[0, 1, 0]], photos=[0, 1, 2])
    [0, 1, 0]
    """
    groups = _copies(vectors, photos)
    finite = np.array([np.isfinite(vector).all() for vector in vectors], bool)
    sums = np.where(finite[:, None], vectors, 0).astype(np.float64)
    members = {rows[0]: rows for rows in groups}
    for rows in groups:
        sums[rows[0]] = sums[rows].sum(axis=0)
    _join(members, sums, photos, {rows[0] for rows in groups if finite[rows[0]]}, least)
    labels = [0] * len(vectors)
    ordered = sorted(members.values(), key=min)
    for number, rows in enumerate(ordered):
        for row in rows:
            labels[row] = number
    return labels


def _copies(vectors: Vectors, photos: Sequence[int]) -> list[list[int]]:
    """Return rows that are equal to the last bit as one list: copies of a photo cost no rounds."""
    first: dict[bytes, list[int]] = {}
    lists: list[list[int]] = []
    for row, vector in enumerate(vectors):
        have = first.get(vector.tobytes())
        if have is not None and photos[row] not in {photos[one] for one in have}:
            have.append(row)
        else:
            lists.append(first.setdefault(vector.tobytes(), [row]) if have is None else [row])
    return lists


def _join(
    members: dict[int, list[int]],
    sums: npt.NDArray[np.float64],
    photos: Sequence[int],
    alive: set[int],
    least: float,
) -> None:
    """Join groups in place until no two that may meet have a mean cosine of `least`.

    members: group -> its rows, a group being named by one of them. sums: (faces, length), the sum of
    a group's vectors in the row that names it. alive: the groups that may be joined.
    """
    seen_in = {group: {photos[row] for row in members[group]} for group in alive}
    groups_in: dict[int, set[int]] = {}
    for group, where in seen_in.items():
        for photo in where:
            groups_in.setdefault(photo, set()).add(group)
    nearest: dict[int, tuple[int, float]] = {}
    while len(alive) > 1:
        index = np.array(sorted(alive))
        means = (sums[index] / [[len(members[group])] for group in index.tolist()]).astype("f4")
        ask = [i for i, group in enumerate(index.tolist()) if group not in nearest]
        column = {group: i for i, group in enumerate(index.tolist())}
        for start in range(0, len(ask), BLOCK):
            rows = ask[start : start + BLOCK]
            cosines = means[rows] @ means.T
            for row, cosine in zip(rows, cosines, strict=True):
                group = int(index[row])
                rivals = {one for photo in seen_in[group] for one in groups_in[photo]}
                cosine[[column[one] for one in rivals]] = NEVER  # itself among them
            best = cosines.argmax(axis=1)
            for row, column_of_best, cosine in zip(rows, best, cosines, strict=True):
                nearest[int(index[row])] = int(index[column_of_best]), float(cosine[column_of_best])
        done = {group for group in alive if nearest[group][1] < least}
        alive -= done
        for group in done:
            for photo in seen_in[group]:
                groups_in[photo].discard(group)
        pairs = [(a, b) for a in alive if (b := nearest[a][0]) > a and nearest[b][0] == a]
        if alive and not pairs:  # a circle of equal cosines
            a = max(alive, key=lambda group: nearest[group][1])
            pairs = [(a, nearest[a][0])]
        gone = set()
        for a, b in pairs:
            members[a] = members[a] + members.pop(b)
            sums[a] += sums[b]
            for photo in seen_in[b]:
                groups_in[photo].discard(b)
                groups_in[photo].add(a)
            seen_in[a] |= seen_in.pop(b)
            alive.discard(b)
            gone |= {a, b}
        for group in list(nearest):
            if group not in alive or group in gone or nearest[group][0] in gone:
                del nearest[group]
