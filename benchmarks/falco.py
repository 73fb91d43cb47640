"""What FALCO hides, keeps and costs, beside solid, pixelate, newface and the plain swap, in one run.

    MORETTA_WEIGHTS=FOLDER python benchmarks/falco.py --data ../shared/data/eval/lfw --count 300 --out scratch/falco

One photo a person, people with two photos or more; the face nearest the centre. Every condition edits the
same crops and pastes them as the pipeline does, but nothing is covered: the judge's policy would hide what
is compared. SFace, and FaceNet where its file is found, were in no loss.

same, other   share of edited faces above the threshold of FAR 1e-3 against the same photo, another photo
released      the same, when the faces that SFace knows in the same photo are covered, as the pipeline does
attributes    distance of attribute features to the old photo (summed over tokens): less is nearer
code          cosine of the composer's attribute codes, of the drawn and of the old face
detected, points   by YuNet; the five points' median error in % of the distance of the eyes
loss cosine   mean cosine to the old face in dlib's network, which is in the loss
linked        row matching: rank-1 share of outputs whose copied rows, inverted again, are nearest to
              those of their own photo among all; surroundings are made grey, so that only the face tells
seconds       CPU seconds a face, batch 8

Prints the Markdown table; writes figures.json (each condition once: a run goes on with what is there) and
sheet.png, which must stay outside the repository.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from people import faces_of, found_again
from PIL import Image

from moretta.api import Anonymizer
from moretta.faces import crop as crops
from moretta.faces import mask as masks
from moretta.faces.crop import points_in
from moretta.faces.recognise import JUDGE, Recogniser
from moretta.methods import method, settings
from moretta.networks.backend import pictures_of
from moretta.networks.features import distance
from moretta.weights import backends, load

FALCO: dict[str, dict[str, Any]] = {
    "falco": {},
    "falco, steps 0 (the swap)": {"steps": 0},
    "falco, steps 10": {"steps": 10},
    "falco, steps 25": {"steps": 25},
    "falco, steps 100": {"steps": 100},
    "falco, m 0": {"target": 0.0},
    "falco, m 0.25": {"target": 0.25},
    "falco, m 0.5": {"target": 0.5},
    "falco, m 0.75": {"target": 0.75},
    "falco, m 1": {"target": 1.0},
    "falco, re-sampled rows": {"resample": "yes"},
    "falco, nearest neighbour alone": {"neighbours": 1},
    "falco, euclidean": {"metric": "euclidean"},
    "falco, compat, m 0": {"compat": True, "target": 0.0},
}
CONDITIONS = [
    ("solid", "solid", {}),
    ("pixelate", "pixelate", {}),
    ("newface", "newface", {}),
    *((name, "falco", given) for name, given in FALCO.items()),
]
COLUMNS = (
    "same sface",
    "other sface",
    "other sface, released",
    "same facenet",
    "other facenet",
    "attributes",
    "code",
    "detected",
    "points",
    "loss cosine",
    "linked",
    "seconds",
)


def edited(
    people: list[Any], name: str, given: dict[str, Any]
) -> tuple[list[np.ndarray], float, list[dict[str, float]]]:
    """Return every photo with its face edited, CPU seconds a face, and the method's own figures."""
    chosen = method(name)
    edit = chosen.build(settings(chosen, given), "cpu")
    tasks = []
    for i, (photo, face, _, _) in enumerate(people):
        if chosen.template == "window":
            alpha, bounds = masks.cover(
                face, photo.shape, scale=chosen.mask_scale, fills_view=chosen.fills_view
            )
            crop = crops.cut(photo, face, alpha, bounds, seed=i)
        else:
            scale, feather = chosen.mask_scale, chosen.mask_feather
            wider = masks.stretch(face, scale=scale, feather=feather)
            alpha, bounds = masks.redraw(face, photo.shape, scale=scale * wider, feather=feather)
            crop = crops.align(
                photo, face, alpha, template="wide", side=chosen.side, seed=i, stretch=wider
            )
        tasks.append((crop, alpha, bounds))
    begun = time.process_time()
    answers = edit([crop for crop, _, _ in tasks])
    spent = (time.process_time() - begun) / len(people)
    made = []
    for (photo, *_), (crop, alpha, bounds), answer in zip(people, tasks, answers, strict=True):
        canvas = photo.copy()
        crops.paste(canvas, answer.pixels, crop, alpha, bounds, match_colour=chosen.match_colour)
        made.append(canvas)
    return made, spent, [dict(answer.figures) for answer in answers]


class Judge:
    """What is compared with: the photos themselves, seen once."""

    def __init__(self, people: list[Any]) -> None:
        self.people = people
        self.backend = backends.composer()
        self.features = backends.features("features", self.backend)
        self.finder = Anonymizer("solid")
        names = ["sface", *(["facenet"] if load.present("facenet") else [])]
        self.recognisers = {name: Recogniser(name) for name in names}  # the judge comes first
        self.vectors = {
            (which, name): np.concatenate(
                [network.embed(one[2 * at], [one[2 * at + 1]]) for one in people]
            )
            for name, network in self.recognisers.items()
            for at, which in enumerate(("same", "other"))
        }
        self.before = self.seen([one[0] for one in people])

    @torch.inference_mode()
    def seen(self, photos: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """Tokens, codes, identities and the rows of a second inversion, of the faces in photos."""
        views = []
        for photo, (_, face, _, _) in zip(photos, self.people, strict=True):
            nothing = np.zeros((1, 1), np.float32)
            views.append(
                crops.align(photo, face, nothing, template="wide", side=self.backend.side, seed=0)
            )
        pictures = pictures_of([view.pixels for view in views])
        points = torch.from_numpy(np.stack([points_in(view) for view in views])).float()
        made: dict[str, list[torch.Tensor]] = {}
        for shown, where in zip(pictures.split(16), points.split(16), strict=True):
            identities, maps = self.backend.seen(shown, where)
            inside = self.backend.composed(torch.zeros_like(shown), shown)
            rows = self.backend.rows(
                self.backend.identity(inside, where), self.backend.attributes(inside)
            )
            copied = [r for r in range(rows.shape[1]) if r not in self.backend.identity_rows]
            parts = {
                "tokens": self.features.of(shown, where, maps=maps).tokens,
                "codes": self.backend.attributes(shown),
                "identities": identities,
                "rows": rows[:, copied].flatten(1),
            }
            for key, value in parts.items():
                made.setdefault(key, []).append(value)
        return {key: torch.cat(value) for key, value in made.items()}

    def figures(self, photos: list[np.ndarray]) -> dict[str, float]:
        """Everything that is measured of one condition."""
        row: dict[str, float] = {}
        for name, network in self.recognisers.items():
            now = np.concatenate(
                [network.embed(p, [one[1]]) for p, one in zip(photos, self.people, strict=True)]
            )
            limit = load.catalogue()[name].thresholds["far_1e-3"]
            for which in ("same", "other"):
                cosines = (now * self.vectors[which, name]).sum(1)
                if name == JUDGE and which == "same":
                    covered = cosines > limit
                row[f"{which} {name}"] = float((cosines > limit).mean())
                row[f"{which} {name}, released"] = float(((cosines > limit) & ~covered).mean())
                row[f"{which} {name}, mean cosine"] = float(cosines.mean())
        after, before = self.seen(photos), self.before
        row["attributes"] = float(distance(after["tokens"], before["tokens"]).mean())
        row["code"] = float(torch.cosine_similarity(after["codes"], before["codes"]).mean())
        row["loss cosine"] = float((after["identities"] * before["identities"]).sum(1).mean())
        gaps = torch.cdist(after["rows"], before["rows"])
        row["linked"] = float((gaps.argmin(1) == torch.arange(len(gaps))).float().mean())
        row["detected"], off = found_again(self.finder, photos, [one[1] for one in self.people])
        if row["detected"]:
            row["points"] = off
        return row


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="names of conditions, separated by ;")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "figures.json"
    people = faces_of(given.data, given.count)
    digests = backends.digests("features")
    kept = json.loads(path.read_text()) if path.exists() else {}
    if (kept.get("people"), kept.get("networks")) != (len(people), digests):
        kept = {"people": len(people), "networks": digests, "conditions": {}}
    judge = Judge(people)
    shown = [one[0] for one in people]
    rows = [sample(shown)]
    if "no edit" not in kept["conditions"]:
        kept["conditions"]["no edit"] = judge.figures(shown)
    for name, used, options in CONDITIONS:
        wanted = given.only is None or name in given.only.split(";")
        if name in kept["conditions"] or not wanted:
            continue
        photos, seconds, own = edited(people, used, options)
        row = judge.figures(photos) | {"seconds": seconds}
        if own[0]:
            gap = [abs(one["cosine"] - one["target"]) for one in own if one]
            row |= {"gap to target": float(np.mean(gap))}
            row |= {"steps": float(np.mean([one["steps"] for one in own if one]))}
        kept["conditions"][name] = row | {"date": time.strftime("%F")}
        path.write_text(json.dumps(kept, indent=1))
        rows.append(sample(photos))
        print(f"{name}: {json.dumps(row)}", flush=True)
    Image.fromarray(np.vstack(rows)).save(given.out / "sheet.png")
    print(f"\n{len(people)} people\n\n| | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name, row in kept["conditions"].items():
        cells = [f"{row[key]:.3g}" if key in row else "" for key in COLUMNS]
        print(f"| {name} | {' | '.join(cells)} |")


def sample(photos: list[np.ndarray]) -> np.ndarray:
    """A line of at most 16 photos."""
    some = photos[:: max(1, len(photos) // 16)][:16]
    return np.hstack([np.asarray(Image.fromarray(one).resize((160, 160))) for one in some])


if __name__ == "__main__":
    main()
