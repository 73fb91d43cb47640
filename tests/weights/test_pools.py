"""Pools are drawn by number: stopped, resumed and grown ones hold the same faces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from moretta.errors import UsageError
from moretta.networks import neighbours, pool
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
            identities = torch.from_numpy(pool.random_identities(end, seed, 6)[first:end])
            rows = torch.stack([numbers, numbers + seed, numbers + seed], 1).expand(-1, 3, 5)
            yield first, end, (numbers, numbers, rows, identities, numbers)


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
    with pytest.raises(UsageError, match="unfinished: 8 of 20") as caught:
        neighbours.opened(folder, NETWORKS)
    assert caught.value.hint == f"moretta pool build --count 20 --output {folder} goes on with it"
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


@pytest.mark.parametrize("stops", [12, 24])
def test_growth_that_stops_leaves_the_pool_usable_and_goes_on(tmp_path, stops):
    made(tmp_path / "p", 8)
    told = pools.told(str(tmp_path / "p"))
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "p", 40, Backend(stops=stops))
    assert pools.told(str(tmp_path / "p")) == told
    kept = neighbours.opened(tmp_path / "p", NETWORKS)
    assert len(kept) == 8
    np.testing.assert_array_equal(kept.vectors[:, 0], 2 * np.arange(8))
    done = stops - stops % 8
    idle = Backend()
    assert len(made(tmp_path / "p", done, idle)) == done  # they are there already
    assert idle.drawn == []
    more = Backend()
    grown = made(tmp_path / "p", 40, more)
    assert min(more.drawn) == done
    np.testing.assert_array_equal(grown.vectors[:, 0], 2 * np.arange(40))


STAGES = ("mkdir", "part", "manifest", "arrays", "flushed")


@pytest.mark.parametrize("stage", STAGES)
def test_a_first_build_that_is_stopped_at_any_moment_goes_on(tmp_path, monkeypatch, stage):
    """Each stage ends as a kill would end it: nothing is tidied up."""
    whole = made(tmp_path / "whole", 20)
    folder, note, mapped = tmp_path / "p", pools._note, pools._mapped

    class Killed(BaseException):
        pass

    def noted(where, about):
        if stage == "part":
            (where / pools.PART).write_bytes(pools._written(about)[:70])
            raise Killed
        if stage == "flushed" and about["done"]:
            raise Killed
        note(where, about)
        if stage == "manifest":
            raise Killed

    def opened(path, shape, done):
        if stage == "arrays" and path.name == "vectors.npy":
            path.write_bytes(b"\x93NUM")
            raise Killed
        return mapped(path, shape, done)

    with monkeypatch.context() as patch:
        patch.setattr(pools, "_note", noted)
        patch.setattr(pools, "_mapped", opened)
        with pytest.raises((Killed, KeyboardInterrupt)):
            made(folder, 20, Backend(stops=0 if stage == "mkdir" else 10**9))
    left = {path.name for path in folder.iterdir()}
    assert (pools.PART in left) == (stage == "part")
    assert (neighbours.MANIFEST in left) == (stage in STAGES[2:])
    again = made(folder, 20)
    for name in neighbours.ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_a_build_that_was_killed_goes_on_in_another_process(tmp_path):
    """By kill -9, in the bundled networks, before and after the first saving."""
    folder = tmp_path / "p"
    words = [sys.executable, "-m", "moretta", "pool", "build", "--output", folder, "--count"]
    for wanted in (0, 16):
        with subprocess.Popen([*words, "4000"], stderr=subprocess.DEVNULL) as running:
            until = time.monotonic() + 60
            while running.poll() is None and time.monotonic() < until:
                found = folder / neighbours.MANIFEST
                if found.exists() and json.loads(found.read_text())["done"] >= wanted:
                    break
                time.sleep(0.001)
            os.kill(running.pid, signal.SIGKILL)
        assert neighbours.read_manifest(folder)["done"] >= wanted
    done = neighbours.read_manifest(folder)["done"]
    ended = subprocess.run(
        [*words, str(done + 16)], check=True, capture_output=True, text=True, timeout=60
    )
    assert f"{done + 16} synthetic faces" in ended.stdout


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("letter.txt", "mine"),
        (pools.PART, "mine"),
        (pools.PART, '{\n "schema": 1,\n "networks": {\n  "composer": "dd'),
        ("rows.npy", ""),
    ],
)
def test_a_foreign_file_is_never_taken_for_a_pool(tmp_path, name, content):
    folder = tmp_path / "q"
    folder.mkdir()
    (folder / name).write_text(content)
    with pytest.raises(UsageError, match="is not empty and holds no pool") as caught:
        made(folder, 8)
    assert "MORETTA_POOLS" in caught.value.hint
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, content)]


@pytest.mark.parametrize("harm", ["gone", "cut", "empty"])
def test_an_array_that_was_harmed_is_not_gone_on_with(tmp_path, harm):
    folder = tmp_path / "p"
    with pytest.raises(KeyboardInterrupt):
        made(folder, 20, Backend(stops=12))
    path = folder / "vectors.npy"
    content = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes(content[:200] if harm == "cut" else b"")
    with pytest.raises(UsageError, match="is damaged"):
        made(folder, 20)


def test_identities_that_are_not_those_of_the_seed_are_refused_everywhere(monkeypatch, tmp_path):
    monkeypatch.setenv(pools.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(pools, "SMALL", 8)
    folder = pools.folder_for(NETWORKS)
    made(folder, 8)
    harmed = np.load(folder / "identities.npy")
    harmed[3, 2] += 2**-20
    np.save(folder / "identities.npy", harmed)
    for opened in (
        lambda: pools.existing("", NETWORKS),
        lambda: pools.existing(str(folder), NETWORKS),
        lambda: pools.ready("", Backend(), Features(), NETWORKS),
        lambda: made(folder, 8),
    ):
        with pytest.raises(UsageError, match="its identities are not those of its seed"):
            opened()


def test_other_pools_and_other_files_are_left_alone(tmp_path):
    made(tmp_path / "p", 4)
    with pytest.raises(UsageError, match="other seed"):
        made(tmp_path / "p", 8, seed=5)
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
    assert neighbours.read_manifest(folder)["done"] == 24
    assert len(pools.existing("", NETWORKS)) == 12  # growth that was stopped takes nothing away
    about = neighbours.read_manifest(folder) | {"count": 40}
    (folder / neighbours.MANIFEST).write_text(json.dumps(about))  # a first build of 40
    with pytest.raises(UsageError, match="unfinished: 24 of 40"):
        pools.existing("", NETWORKS)
