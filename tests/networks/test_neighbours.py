"""Pools on disk: the search is exact, and a pool that does not fit is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moretta.errors import UsageError
from moretta.networks import neighbours

NETWORKS = {"composer": "c" * 64, "features": "f" * 64}


def written(folder, count=100, *, length=8, seed=0, about=None):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in (("rows", (2, 4)), ("vectors", (length,)), ("identities", (6,))):
        np.save(folder / f"{name}.npy", rng.standard_normal((count, *shape)).astype(np.float32))
    manifest = {
        "schema": 1,
        "networks": NETWORKS,
        "count": count,
        "done": count,
        "slots": [0, 1, 1],
    }
    (folder / neighbours.MANIFEST).write_text(json.dumps(manifest | (about or {})))
    return folder


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block", [7, 1000])
def test_the_search_equals_brute_force_and_ties_go_to_the_lowest(metric, block, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    rng = np.random.default_rng(1)
    members = rng.standard_normal((100, 8)).astype(np.float32)
    members[60] = members[41] = members[3]
    wanted = np.concatenate([rng.standard_normal((20, 8)), members[60:61]]).astype(np.float32)
    found = neighbours.exactly(members, wanted, 5, metric)
    for asked, places in zip(wanted.astype(float), found, strict=True):
        if metric == "cosine":
            near = members @ asked / np.linalg.norm(members, axis=1) / np.linalg.norm(asked)
        else:
            near = -np.linalg.norm(members - asked, axis=1)
        np.testing.assert_allclose(near[places], np.sort(near)[::-1][:5], rtol=1e-5)
    assert found[-1][:3].tolist() == [3, 41, 60]


def test_a_pool_opens_as_maps_and_gives_whole_codes(tmp_path):
    pool = neighbours.opened(written(tmp_path / "p"), NETWORKS)
    assert isinstance(pool.rows, np.memmap)
    codes = pool.latents(np.array([4, 9]))
    assert codes.shape == (2, 3, 4)
    np.testing.assert_array_equal(codes[1], pool.rows[9][[0, 1, 1]])
    with pytest.raises(ValueError, match="101 neighbours in a pool of 100"):
        pool.nearest(pool.vectors[:1], 101)
    with pytest.raises(ValueError, match="not finite"):
        pool.nearest(np.full((1, 8), np.nan, np.float32), 1)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"networks": {**NETWORKS, "composer": "d" * 64}}, "drawn with dddddddddddd of composer"),
        ({"networks": {"composer": "c" * 64}}, "drawn with no features"),
        ({"done": 50}, "unfinished: 50 of 100"),
        ({"schema": 2}, "another version"),
        ({"slots": [0, 7]}, "damaged"),
        ({"count": 200, "done": 200}, "damaged"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused(tmp_path, about, said):
    with pytest.raises(UsageError, match=said) as caught:
        neighbours.opened(written(tmp_path / "p", about=about), NETWORKS)
    assert caught.value.hint


def test_a_folder_without_a_pool_and_a_torn_file_are_refused(tmp_path):
    with pytest.raises(UsageError, match="is no pool"):
        neighbours.opened(tmp_path, NETWORKS)
    folder = written(tmp_path / "p")
    (folder / "vectors.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UsageError, match="damaged"):
        neighbours.opened(folder, NETWORKS)


def test_faiss_answers_above_its_size(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    pool = neighbours.opened(written(tmp_path / "p", 400), NETWORKS)
    wanted = np.asarray(pool.vectors[:50]) + np.float32(0.01)
    exact = pool.nearest(wanted, 5)
    monkeypatch.setattr(neighbours, "APPROXIMATE", 300)
    agreed = np.mean(
        [len(set(a) & set(b)) / 5 for a, b in zip(pool.nearest(wanted, 5), exact, strict=True)]
    )
    assert agreed > 0.9
