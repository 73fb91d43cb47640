"""What the choice of new identities tells of a person who is in many photos.

    python benchmarks/album.py --data ../shared/data/eval/lfw --people 120

A person's photo is drawn over again and again, each time with a fresh identity that fits, as `newface` does
(its truncation too). Only identities less alike than a limit to the old one may be chosen; the last row is the
limit in use, and what the judge finds near is drawn anew, four times at most, the least like kept. For each:
how often the judge finds the first drawing near or knows it, and how well an attacker does who has k such
releases and another photo of everybody: people of the same apparent age and gender are ranked by how unlike
(or like) they are to the identities that he reads in the releases, on average. Half is chance.

The k releases are of one photo: what its surroundings tell is the same in all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer import crop_of, pasted, rates
from people import faces_of

from moretta.faces.crop import points_in
from moretta.faces.recognise import Recogniser
from moretta.methods import method, newface
from moretta.networks import pool as pools
from moretta.weights import load
from moretta.weights.backends import composer, stand_ins

LIMITS = (2.0, pools.TOO_NEAR, 0.2, 0.1, 0.0)
PHOTOS = (1, 5, 20)
DRAWN = 60  # of each person: enough for 20 releases under every limit but the last
LEAST = 15  # people of one kind


def main() -> None:
    """Draw, choose, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--people", type=int, default=120)
    given = parser.parse_args()
    torch.set_num_threads(1)
    people = faces_of(given.data, given.people)
    made = drawings(people)
    near = load.catalogue()["sface"].thresholds["far_1e-2"]
    print("limit  near  SFace 1e-3 same, other  then: rank by unlike, in the first 5 %, by like")
    for limit in LIMITS:
        row = chosen(made, limit, near=None)
        print(f"{limit:5.2f}  {row}")
    print(f"{pools.TOO_NEAR:5.2f}, near drawn anew  {chosen(made, pools.TOO_NEAR, near=near)}")


@torch.inference_mode()
def drawings(people: list[Any]) -> dict[str, Any]:
    """Draw everybody DRAWN times; return what judge and attacker see, each (people, DRAWN, ...)."""
    backend, (pool, head), judge = composer(), stand_ins(), Recogniser("sface")
    truncation = newface.Newface().truncation
    rng = np.random.default_rng(1)
    found: dict[str, list[Any]] = {name: [] for name in ("asked", "same", "other", "read")}
    elsewhere, kinds = [], []
    for number, (photo, face, photo2, face2) in enumerate(people):
        view = crop_of(photo, face, number)
        one = {"pictures": picture_of(view), "points": torch.from_numpy(points_in(view))[None]}
        second = crop_of(photo2, face2, number)
        old = backend.identity(one["pictures"], one["points"].float())[0]
        wanted = head.read(old.numpy())
        fit = pools.members(pool, wanted, "age,gender")
        members = pool.identities[rng.choice(fit, DRAWN)]
        crowd = torch.from_numpy(pools.crowds(pool, head, members[:1]))
        codes = backend.known(
            one["pictures"].expand(DRAWN, -1, -1, -1),
            torch.from_numpy(rng.standard_normal((DRAWN, 64))).float(),
            level=0,
        )
        faces = torch.cat(
            [
                backend.redrawn(
                    one["pictures"].expand(len(some), -1, -1, -1),
                    one["points"].float().expand(len(some), -1, -1),
                    torch.from_numpy(members[some]),
                    codes[some],
                    crowd=crowd.expand(len(some), -1, -1),
                    truncation=torch.tensor(truncation),
                )
                for some in np.split(np.arange(DRAWN), range(15, DRAWN, 15))
            ]
        ).clamp(-1, 1)
        levels = ((faces + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        before, another = judge.embed(photo, [face])[0], judge.embed(photo2, [face2])[0]
        after = np.concatenate([judge.embed(pasted(photo, face, view, x), [face]) for x in levels])
        found["asked"].append(members @ old.numpy())
        found["same"].append(after @ before)
        found["other"].append(after @ another)
        points = one["points"].float().expand(DRAWN, -1, -1)
        found["read"].append(backend.identity(faces, points).numpy())
        elsewhere.append(
            backend.identity(picture_of(second), torch.from_numpy(points_in(second))[None].float())[
                0
            ].numpy()
        )
        kinds.append((wanted.band, wanted.gender))
    return {name: np.stack(values) for name, values in found.items()} | {
        "elsewhere": np.stack(elsewhere),
        "kinds": np.array([list(dict.fromkeys(kinds)).index(kind) for kind in kinds]),
    }


def chosen(made: dict[str, Any], limit: float, *, near: float | None) -> str:
    """Choose under the limit, attack, and say what came out."""
    first: list[tuple[float, float]] = []
    ranks: dict[int, list[float]] = {k: [] for k in PHOTOS}
    for person, asked in enumerate(made["asked"]):
        alike = made["same"][person]
        allowed = np.flatnonzero(asked < limit)
        first += [(alike[at], made["other"][person][at]) for at in allowed]
        out = released(allowed, alike, near)
        same_kind = np.flatnonzero(made["kinds"] == made["kinds"][person])
        if len(same_kind) < LEAST:
            continue
        me = int(np.flatnonzero(same_kind == person)[0])
        cosines = made["read"][person] @ made["elsewhere"][same_kind].T
        for k in PHOTOS:
            if len(out) >= k:
                mean = cosines[out[:k]].mean(0)
                ranks[k].append(float((np.delete(mean, me) < mean[me]).mean()))
    same, other = np.array(first).T
    told = rates("sface", same, other)
    parts = [
        f"{100 * told['same 1e-2']:.1f} %  {100 * told['same 1e-3']:.1f} %, {100 * told['other 1e-3']:.1f} %"
    ]
    for k, each in ranks.items():
        if len(each) < LEAST:
            parts.append(f"{k}: too few")
            continue
        below = np.array(each)
        parts.append(
            f"{k} ({len(each)} people): {below.mean():.2f}, {100 * (below < 0.05).mean():.0f} %, {100 * (below > 0.95).mean():.0f} %"
        )
    return "  ".join(parts)


def released(allowed: np.ndarray, alike: np.ndarray, near: float | None) -> list[int]:
    """Which drawings come out: all, or those that the judge's second thoughts leave."""
    if near is None:
        return list(allowed)
    out, tries = [], []
    redraws = method("newface").redraws
    for at in allowed:
        tries.append(at)
        if alike[at] < near or len(tries) > redraws:
            out.append(min(tries, key=lambda one: alike[one]))
            tries = []
    return out


def picture_of(view: Any) -> torch.Tensor:
    """A crop's pixels as (1, 3, side, side), -1..1."""
    return torch.from_numpy(view.pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


if __name__ == "__main__":
    main()
