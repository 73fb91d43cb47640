"""Pools are drawn by number: stopped, resumed and grown ones hold the same faces."""

from __future__ import annotations

import numpy as np
import pytest

from moretta.errors import UsageError
from moretta.networks import neighbours
from moretta.weights import pools

torch = pytest.importorskip("torch")

NETWORKS = {"composer": "c" * 64}


class Backend:
    """Draws faces that are their number."""

    def __init__(self, stops=10**9):
        self.drawn, self.stops = [], stops

    def samples(self, count, seed, *, truncation, start):
        for first in range(start, count, 4):
            if first >= self.stops:
                raise KeyboardInterrupt
            end = min(first + 4, count)
            self.drawn += range(first, end)
            numbers = torch.arange(first, end).float()[:, None]
            rows = torch.stack([numbers, numbers + seed, numbers + seed], 1).expand(-1, 3, 5)
            yield first, end, (numbers, numbers, rows, numbers.expand(-1, 6), numbers)


class Features:
    name = "features"

    def of(self, pictures, points, *, maps=None):
        from moretta.networks.features import Seen

        return Seen(pictures.expand(-1, 7) * 2, pictures[:, None])


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(pools, "SAVED", 8)


def made(folder, count, backend=None, **more):
    return pools.build(folder, count, backend or Backend(), Features(), NETWORKS, **more)


def test_it_holds_what_was_drawn_and_keeps_equal_rows_once(tmp_path):
    heard = []
    pool = made(tmp_path / "p", 10, listener=lambda done, count: heard.append((done, count)))
    assert pool.rows.shape == (10, 2, 5)
    np.testing.assert_array_equal(pool.latents(np.array([3]))[0, :, 0], [3, 4, 4])
    np.testing.assert_array_equal(pool.vectors[:, 0], 2 * np.arange(10))
    assert heard == [(0, 10), (4, 10), (8, 10), (10, 10)]


def test_stopped_and_resumed_and_grown_ones_are_as_one_drawn_at_once(tmp_path):
    whole = made(tmp_path / "whole", 30)
    folder = tmp_path / "p"
    with pytest.raises(KeyboardInterrupt):
        made(folder, 20, Backend(stops=12))
    with pytest.raises(UsageError, match="unfinished: 8 of 20"):
        neighbours.opened(folder, NETWORKS)
    again = Backend()
    made(folder, 20, again)
    assert min(again.drawn) == 8
    more = Backend()
    grown = made(folder, 30, more)
    assert min(more.drawn) == 16
    for name in neighbours.ARRAYS:
        np.testing.assert_array_equal(getattr(grown, name), getattr(whole, name))
    idle = Backend()
    assert len(made(folder, 5, idle)) == 30
    assert idle.drawn == []


def test_growth_that_stops_early_leaves_the_pool_usable(tmp_path):
    made(tmp_path / "p", 8)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "p", 40, Backend(stops=12))
    pool = neighbours.opened(tmp_path / "p", NETWORKS)
    assert len(pool) == 8
    np.testing.assert_array_equal(pool.vectors[:, 0], 2 * np.arange(8))


def test_other_pools_and_other_files_are_left_alone(tmp_path):
    made(tmp_path / "p", 4)
    with pytest.raises(UsageError, match="other seed"):
        made(tmp_path / "p", 8, seed=5)
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds no pool"):
        made(tmp_path / "q", 8)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        made(tmp_path / "file" / "p", 8)
    with pytest.raises(UsageError, match="a pool of 0 faces"):
        made(tmp_path / "r", 0)


def test_the_usual_place_is_the_variables_folder_and_hangs_on_networks(monkeypatch, tmp_path):
    monkeypatch.setenv(pools.FOLDER_VARIABLE, str(tmp_path))
    one, other = pools.folder_for(NETWORKS), pools.folder_for({"composer": "d" * 64})
    assert one.parent == other.parent == tmp_path
    assert one != other
    monkeypatch.delenv(pools.FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert pools.folder_for(NETWORKS).parent.name == "pools"


def test_at_first_use_a_small_one_is_made_and_then_it_is_opened(monkeypatch, tmp_path):
    monkeypatch.setenv(pools.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(pools, "SMALL", 12)
    backend = Backend()
    assert pools.existing("", NETWORKS) is None
    assert list(tmp_path.iterdir()) == []
    assert len(pools.ready("", backend, Features(), NETWORKS)) == 12
    assert len(pools.existing("", NETWORKS)) == 12
    assert len(pools.ready("", backend, Features(), NETWORKS)) == 12
    assert backend.drawn == list(range(12))
    with pytest.raises(UsageError, match="is no pool"):
        pools.ready(str(tmp_path / "none"), backend, Features(), NETWORKS)


def test_the_usual_pool_that_is_begun_and_not_done_is_gone_on_with_or_refused(
    monkeypatch, tmp_path
):
    monkeypatch.setenv(pools.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(pools, "SMALL", 12)
    folder = pools.folder_for(NETWORKS)
    with pytest.raises(KeyboardInterrupt):
        made(folder, 40, Backend(stops=8))
    assert pools.existing("", NETWORKS) is None  # 8 of 12 are there
    assert len(pools.ready("", Backend(), Features(), NETWORKS)) == 12
    with pytest.raises(KeyboardInterrupt):
        made(folder, 40, Backend(stops=24))
    about = neighbours.read_manifest(folder)
    assert about["done"] == 24 < about["count"]
    with pytest.raises(UsageError, match="unfinished: 24 of 40"):
        pools.existing("", NETWORKS)
