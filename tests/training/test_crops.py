"""Crops that recipes learn from: who is held out, what is refused, steady points that are kept."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from moretta.errors import UsageError
from moretta.faces import steady
from moretta.training import crops


@pytest.mark.parametrize(
    ("sources", "held"),
    [({"mine": 40}, 0), ({"mine": 30, "lfw": 8}, 2), ({"lfw": 40}, 10), ({"lfw": 3}, 0)],
)
def test_the_last_quarter_of_few_is_held_out(pack, tmp_path, sources, held):
    """As the page says, and of source lfw alone: other sources are not counted."""
    made = crops.wide(pack(tmp_path, wide=sources, side=48), 48)
    assert made.held == held
    assert len(made) <= sum(sources.values())
    assert made.trained > 0
    assert not set(made.people[: made.trained]) & set(made.people[made.trained :])
    assert crops.tight(pack(tmp_path, wide=sources, side=48, tight=12), 48).held == 3


def test_the_last_600_of_many_are_held_out(monkeypatch, pack, tmp_path):
    assert crops.held_of(2400) == crops.held_of(100_000) == 600
    monkeypatch.setattr(crops, "HELD", 4)
    made = crops.wide(pack(tmp_path, wide={"lfw": 24, "mine": 10}, side=48), 48)
    assert (made.held, made.trained) == (4, 30)


def test_a_quick_look_shows_nobody_who_is_held_out(pack, tmp_path):
    folder = pack(tmp_path, wide={"lfw": 40}, side=48)
    held = crops.wide(folder, 48)
    for limit, kept in ((4, 4), (10, 10), (12, 2)):
        made = crops.wide(folder, 48, limit=limit)
        assert (len(made), made.trained) == (limit, kept)
        assert not set(made.people[: made.trained]) & set(held.people[held.trained :])


def test_people_who_are_all_held_out_are_refused(pack, tmp_path):
    folder = pack(tmp_path, wide={"lfw": 8}, side=48)
    table = folder / "wide.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    rows = [",".join([*line[:2], "1", *line[3:]]) for line in lines[1:]]
    table.write_text("\n".join([",".join(lines[0]), *rows]) + "\n")
    with pytest.raises(UsageError, match="nobody is left to train"):
        crops.wide(folder, 48)


@pytest.mark.parametrize("last", ["", ",one", ",nan"])
def test_a_table_without_points_is_refused(pack, tmp_path, last):
    folder = pack(tmp_path, wide={"mine": 8}, tight=8, side=48)
    for table, read in (("wide.csv", crops.wide), ("index.csv", crops.tight)):
        lines = (folder / table).read_text().splitlines()
        cut = [",".join(line.split(",")[:-1]) + last for line in lines]
        (folder / table).write_text("\n".join(cut) + "\n")
        with pytest.raises(UsageError, match="ten numbers"):
            read(folder, 48)


@pytest.fixture
def counted(monkeypatch):
    """Put a quick stand-in in the place of the eight views; return what was looked at."""
    seen = []

    def moved(picture, points, look):
        del look
        seen.append(len(picture))
        return points + 0.01

    monkeypatch.setattr(steady, "steadied", moved)
    return seen


def test_steady_points_are_kept_and_made_anew_where_they_are_torn(counted, tmp_path):
    made, file = crops.drawn(48, 6), tmp_path / "points.npz"
    first = crops.steadied(made, file)
    np.testing.assert_allclose(first.points, made.points + 0.01, atol=1e-6)
    again = crops.steadied(made, file)
    np.testing.assert_array_equal(again.points, first.points)
    assert len(counted) == 6
    whole = file.read_bytes()
    (tmp_path / "other.npy").write_bytes(b"")
    np.save(tmp_path / "other.npy", np.zeros(3))
    for torn in (b"", b"no", whole[: len(whole) // 2], (tmp_path / "other.npy").read_bytes()):
        file.write_bytes(torn)
        again = crops.steadied(made, file)
        np.testing.assert_array_equal(again.points, first.points)
        assert file.read_bytes() == whole
    crops.steadied(crops.drawn(48, 7), file)
    assert len(counted) == 6 + 4 * 6 + 7
