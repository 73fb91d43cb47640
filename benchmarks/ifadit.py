"""What `ifadit` hides, what its key brings back, and what other keys bring: on people who trained nothing.

    python benchmarks/ifadit.py --data ../shared/data/eval/lfw --count 300 --out scratch/ifadit --facenet

Two photos a person, the face nearest the centre. One process draws and writes files, another one reads
them again, with the secrets, and scores (facts of iFADIT, section 4: never a tensor in memory). Before
the judge covers anything. Every row is kept in --out, so that a run goes on where it stopped.

Prints the tables of docs/ifadit.md; figures.json holds all numbers, sheet.png (outside the repository)
the pictures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from moretta.api import Anonymizer
from moretta.faces import crop as crops
from moretta.faces import mask as masks
from moretta.faces.crop import points_in
from moretta.faces.detect import yunet
from moretta.faces.recognise import JUDGE, Recogniser, threshold
from moretta.faces.steady import held
from moretta.methods import method, settings
from moretta.methods.ifadit import Ifadit, noise_seed, turns
from moretta.networks.backend import pictures_of, pixels_of
from moretta.networks.pool import random_identities
from moretta.networks.traits import TraitsHead
from moretta.pipeline import recovery
from moretta.records import Crop, Face
from moretta.weights import load
from moretta.weights.backends import composer

METHOD = method("ifadit")
FAR = "1e-3"
CHANNELS = {"png": 0, "jpeg 90": 90, "jpeg 75": 75}
#: Rows that `ifadit` draws: settings, and who has one secret: each photo or each person.
KEYED: dict[str, tuple[dict[str, Any], str]] = {
    "rotation, record": ({"match": "none"}, "record"),
    "rotation, subject": ({"match": "none"}, "subject"),
    "rotation, matched": ({"match": "age,gender"}, "record"),
    "rotation, level 2": ({"match": "none", "level": 2}, "record"),
    "rotation, matched, level 2": ({"match": "age,gender", "level": 2}, "record"),
    "flow": ({"match": "none", "pseudonym": "flow"}, "record"),
}
#: Rows that the composer draws with an identity from elsewhere: not reversible.
UNKEYED = ("own", "random identity", "another's identity", "mean identity")


def main() -> None:
    """Draw, score in a second process, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--facenet", action="store_true", help="the catalogue's facenet, if found")
    parser.add_argument("--wrong-keys", type=int, default=100)
    parser.add_argument("--some", type=int, default=30, help="faces for wrong keys and diversity")
    parser.add_argument("--rows", nargs="*", choices=[*KEYED, *UNKEYED], help="only these")
    parser.add_argument("--score", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    names = given.rows or [*KEYED, *UNKEYED]
    people = faces_of(given.data, given.count, given.out)
    if not given.score:
        for name in names:
            write(name, people, given.out)
        subprocess.run([sys.executable, *sys.argv, "--score"], check=True)
        return
    figures = scored(names, people, given)
    (given.out / "figures.json").write_text(json.dumps(figures, indent=1))
    report(figures)


# ---- people ----------------------------------------------------------------------------------


def faces_of(folder: Path, count: int, out: Path) -> list[tuple[Any, Face, Any, Face]]:
    """Return (photo, face, other photo, its face) of `count` people; the faces are kept in `out`.

    Their points are held, as those of a face that is to be drawn are.
    """
    kept = out / f"faces-{count}.npz"
    people = sorted(one for one in folder.iterdir() if one.is_dir())
    chosen = [
        sorted(person.iterdir())[:2]
        for person in people[:: max(1, len(people) // count)][:count]
        if len(list(person.iterdir())) > 1
    ]
    photos = [[np.asarray(Image.open(path).convert("RGB")) for path in pair] for pair in chosen]
    if not kept.exists():
        look = points_look()
        seen = [[(photo, central(photo, every(photo))) for photo in pair] for pair in photos]
        found = [[face and held(photo, face, look) for photo, face in pair] for pair in seen]
        np.savez(
            kept,
            found=[all(pair) for pair in found],
            boxes=[[corners(face) for face in pair] for pair in found],
            points=[[face.points if face else np.zeros((5, 2)) for face in pair] for pair in found],
        )
    stored = np.load(kept)
    made = []
    for pair, good, boxes, points in zip(
        photos, stored["found"], stored["boxes"], stored["points"], strict=True
    ):
        if good:
            faces = [
                Face(box=crops.Box(*map(float, b)), points=p, score=1.0, detector="yunet")
                for b, p in zip(boxes, points, strict=True)
            ]
            made.append((pair[0], faces[0], pair[1], faces[1]))
    return made


@cache
def finder() -> Anonymizer:
    """One finder for everything."""
    return Anonymizer("solid")


@cache
def points_look() -> Any:
    """One YuNet for points that hold still."""
    return yunet.build("cpu", 1)


def every(photo: np.ndarray) -> list[Face]:
    """All faces of a photo."""
    return list(finder().find(photo))


def central(photo: np.ndarray, faces: Sequence[Face]) -> Face | None:
    """Return the face nearest the centre."""
    middle = np.array(photo.shape[1::-1]) / 2
    return min(faces, key=lambda one: np.abs(one.points.mean(0) - middle).sum(), default=None)


def corners(face: Face | None) -> tuple[float, ...]:
    """Return its box as numbers."""
    return (face.box.left, face.box.top, face.box.right, face.box.bottom) if face else (0.0,) * 4


def secret(*parts: object) -> bytes:
    """Return a secret of its own for everything that is named."""
    return hashlib.sha256(repr(parts).encode()).digest()


# ---- drawing ---------------------------------------------------------------------------------


def secrets_of(name: str, count: int) -> tuple[list[bytes], list[bytes]]:
    """Return the secrets of the first and of the second photos."""
    scope = KEYED[name][1] if name in KEYED else "record"
    first = [secret(name, i, 0) for i in range(count)]
    return first, first if scope == "subject" else [secret(name, i, 1) for i in range(count)]


def view(photo: Any, face: Face, key: bytes, seed: int) -> Crop:
    """Return the crop that the pipeline would hand to the method."""
    return replace(recovery.aligned(photo, face, key), seed=seed)


def pasted(photo: Any, crop: Crop, pixels: Any) -> Any:
    """Paste as the pipeline does."""
    scale, feather = METHOD.mask_scale, METHOD.mask_feather
    stretch = masks.stretch(crop.face, scale=scale, feather=feather)
    alpha, bounds = masks.redraw(crop.face, photo.shape, scale=scale * stretch, feather=feather)
    canvas = photo.copy()
    crops.paste(canvas, pixels, crop, alpha, bounds)
    return canvas


@cache
def editor(name: str) -> Callable[[Sequence[Crop]], list[Any]]:
    """Return what draws a row: crops with secrets to pixels."""
    if name in KEYED:
        edit = METHOD.build(settings(METHOD, KEYED[name][0]), "cpu")
        return lambda found: [one.pixels for one in edit(found)]
    return lambda found: drawn_with(found, asked_of(name, own_of(found)))


@torch.inference_mode()
def own_of(found: Sequence[Crop]) -> np.ndarray:
    """Identities of crops, (n, 48)."""
    backend = composer_once()
    return np.concatenate(
        [backend.identity(*inputs(found[i : i + 16])).numpy() for i in range(0, len(found), 16)]
    )


@torch.inference_mode()
def drawn_with(found: Sequence[Crop], asked: np.ndarray) -> list[Any]:
    """Draw given identities into crops, as the method does at level 0."""
    backend, made = composer_once(), []
    for start in range(0, len(found), 16):
        batch = found[start : start + 16]
        pictures, points = inputs(batch)
        noise = [
            np.random.default_rng(noise_seed(one.secret or b"", one.seed)).standard_normal(64)
            for one in batch
        ]
        code = backend.known(pictures, torch.from_numpy(np.stack(noise)).float(), level=0)
        identities = torch.from_numpy(asked[start : start + 16]).float()
        faces = backend.draw(backend.context(pictures), points, backend.rows(identities, code))
        made += pixels_of(backend.composed(pictures, faces))
    return made


def inputs(found: Sequence[Crop]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and points as the backend takes them."""
    points = np.stack([points_in(one) for one in found])
    return pictures_of([one.pixels for one in found]), torch.from_numpy(points).float()


@cache
def composer_once() -> Any:
    """Return the composer."""
    return composer()


def asked_of(name: str, own: np.ndarray) -> np.ndarray:
    """Identities of the rows without a key."""
    if name == "own":
        return own
    if name == "random identity":
        return random_identities(len(own), 11)
    if name == "another's identity":
        return np.roll(own, 7, 0)
    mean = own.mean(0)
    return np.repeat(mean[None] / np.linalg.norm(mean), len(own), 0)


def write(name: str, people: Sequence[Any], out: Path) -> None:
    """Draw both photos of everybody and write them through each channel; what is there stays."""
    folder = out / name.replace(", ", "-").replace(" ", "_").replace("'", "")
    if (folder / "done").exists():
        return
    folder.mkdir(exist_ok=True)
    first, second = secrets_of(name, len(people))
    started = time.process_time()
    for place, keys in enumerate((first, second)):
        found = [
            view(one[2 * place], one[2 * place + 1], keys[i], 2 * i + place)
            for i, one in enumerate(people)
        ]
        for i, pixels in enumerate(editor(name)(found)):
            whole = pasted(people[i][2 * place], found[i], pixels)
            for channel, quality in CHANNELS.items():
                if place == 0 and quality:
                    path = folder / f"{i}-{place}-{quality}.jpg"
                    Image.fromarray(whole).save(path, "JPEG", quality=quality)
                elif channel == "png":
                    Image.fromarray(whole).save(folder / f"{i}-{place}.png")
    (folder / "done").write_text(f"{time.process_time() - started:.0f} s of CPU time\n")
    print(f"{name}: drawn", file=sys.stderr)


# ---- scoring: a process of its own, which reads files -----------------------------------------


def read(name: str, i: int, out: Path, *, place: int = 0, channel: str = "png") -> Any:
    """Read one picture of a row."""
    folder = out / name.replace(", ", "-").replace(" ", "_").replace("'", "")
    quality = CHANNELS[channel]
    file = f"{i}-{place}-{quality}.jpg" if quality else f"{i}-{place}.png"
    return np.asarray(Image.open(folder / file).convert("RGB"))


def refound(photo: Any, face: Face) -> tuple[Face, bool]:
    """Return the face as found anew at its place, or as it was, and whether it was found."""
    near = [one for one in every(photo) if one.box.overlap(face.box) > 0.3]
    if not near:
        return face, False
    return held(photo, max(near, key=lambda one: one.box.overlap(face.box)), points_look()), True


def scored(names: Sequence[str], people: Sequence[Any], given: Any) -> dict[str, Any]:
    """Return all figures."""
    judges = {"sface": Recogniser("sface")}
    if given.facenet:
        judges["facenet"] = Recogniser("facenet")
    same = {k: embedded(r, [(p, f) for p, f, _, _ in people]) for k, r in judges.items()}
    other = {k: embedded(r, [(p, f) for _, _, p, f in people]) for k, r in judges.items()}
    own = own_of([view(p, f, bytes(32), 0) for p, f, _, _ in people])
    figures: dict[str, Any] = {
        "people": len(people),
        "date": time.strftime("%F"),
        "clear, other photo": {k: share(k, same[k], other[k]) for k in judges},
        "rows": {},
    }
    sheet = [[small(p) for p, *_ in people[:16]]]
    for name in names:
        kept = given.out / f"row-{name.replace(', ', '-').replace(' ', '_')}.json"
        if kept.exists():
            figures["rows"][name] = json.loads(kept.read_text())
            continue
        row = hiding(name, people, given.out, judges, same, other, own, sheet)
        if name in KEYED:
            row |= returning(name, people, given, judges, same, other, own, sheet)
        figures["rows"][name] = row
        kept.write_text(json.dumps(row))
        print(name, json.dumps(row), file=sys.stderr)
    Image.fromarray(np.vstack([np.hstack(row) for row in sheet])).save(given.out / "sheet.png")
    return figures


def hiding(
    name: str,
    people: Sequence[Any],
    out: Path,
    judges: dict[str, Recogniser],
    same: dict[str, Any],
    other: dict[str, Any],
    own: np.ndarray,
    sheet: list[Any],
) -> dict[str, Any]:
    """Recognition, linkage between two pseudonyms of a person, and what is kept."""
    shown = [read(name, i, out) for i in range(len(people))]
    sheet.append([small(one) for one in shown[:16]])
    row: dict[str, Any] = {}
    for key, judge in judges.items():
        now = embedded(judge, [(p, o[1]) for p, o in zip(shown, people, strict=True)])
        seconds = [(read(name, i, out, place=1), one[3]) for i, one in enumerate(people)]
        later = embedded(judge, seconds)
        for which, vectors in (("same", same), ("other", other)):
            taken = (now * vectors[key]).sum(1) > threshold(FAR, key)
            if key == JUDGE and which == "same":
                covered = taken
            row[f"{key} {which}"] = float(taken.mean())
            row[f"{key} {which}, released"] = float((taken & ~covered).mean())
        row[f"{key} linkage AUC"] = area(now @ later.T)
    found = [refound(p, o[1]) for p, o in zip(shown, people, strict=True)]
    row["detected"] = float(np.mean([ok for _, ok in found]))
    gaps = [
        100
        * np.linalg.norm(face.points - one[1].points, axis=1).mean()
        / np.linalg.norm(one[1].points[0] - one[1].points[1])
        for (face, ok), one in zip(found, people, strict=True)
        if ok
    ]
    row["points, % of eye distance, median"] = float(np.median(gaps))
    head = TraitsHead.from_tensors(load.tensors("identity"))
    seen = own_of([view(p, f, bytes(32), 0) for p, (f, _) in zip(shown, found, strict=True)])
    pairs = [(head.read(a), head.read(b)) for a, b in zip(own, seen, strict=True)]
    row["same apparent gender"] = float(np.mean([a.gender == b.gender for a, b in pairs]))
    row["same apparent band"] = float(np.mean([a.band == b.band for a, b in pairs]))
    row["cosine to own"] = float((own * seen).sum(1).mean())
    return row


def returning(
    name: str,
    people: Sequence[Any],
    given: Any,
    judges: dict[str, Recogniser],
    same: dict[str, Any],
    other: dict[str, Any],
    own: np.ndarray,
    sheet: list[Any],
) -> dict[str, Any]:
    """What the right key brings back from files, what wrong keys bring, and how keys differ."""
    asked = Ifadit.model_validate(KEYED[name][0])
    keys, _ = secrets_of(name, len(people))
    truth = turns(asked)[0](keys, own.astype(float))
    row: dict[str, Any] = {}
    for channel in CHANNELS:
        shown = [read(name, i, given.out, channel=channel) for i in range(len(people))]
        faces = [refound(p, o[1])[0] for p, o in zip(shown, people, strict=True)]
        views = [view(p, f, k, 0) for p, f, k in zip(shown, faces, keys, strict=True)]
        row[f"carrier, uncorrected, {channel}"] = float((own_of(views) * truth).sum(1).mean())
        row[f"carrier, {channel}"] = float((recovery.carriers(views) * truth).sum(1).mean())
        back = [
            recovery.recover_faces(p, [f], [k], settings=asked)
            for p, f, k in zip(shown, faces, keys, strict=True)
        ]
        for i, one in enumerate(back):
            Image.fromarray(one).save(given.out / "back.png")
            back[i] = np.asarray(Image.open(given.out / "back.png"))
        if channel == "png":
            sheet.append([small(one) for one in back[:16]])
        for key, judge in judges.items():
            now = embedded(judge, [(p, o[1]) for p, o in zip(back, people, strict=True)])
            row[f"{key} recovered, {channel}"] = share(key, now, same[key])
            row[f"{key} recovered, other photo, {channel}"] = share(key, now, other[key])
    row |= wrong_keys(name, people, given, judges, same)
    row |= diversity(name, people, given, judges)
    return row


def wrong_keys(
    name: str,
    people: Sequence[Any],
    given: Any,
    judges: dict[str, Recogniser],
    same: dict[str, Any],
) -> dict[str, Any]:
    """Recover with keys that are not the right one."""
    asked = Ifadit.model_validate(KEYED[name][0])
    hits: dict[str, list[Any]] = {key: [] for key in judges}
    for i in range(min(given.some, len(people))):
        shown = read(name, i, given.out)
        face, _ = refound(shown, people[i][1])
        views = [view(shown, face, secret("wrong", i, j), 0) for j in range(given.wrong_keys)]
        back = [
            pasted(shown, v, one)
            for v, one in zip(views, recovery.recovered(views, settings=asked), strict=True)
        ]
        for key, judge in judges.items():
            now = embedded(judge, [(p, people[i][1]) for p in back])
            hits[key] += list(now @ same[key][i])
    return {
        f"{key} wrong keys": float(np.mean(np.array(values) > threshold(FAR, key)))
        for key, values in hits.items()
    } | {"wrong keys tried": given.wrong_keys * min(given.some, len(people))}


def diversity(
    name: str, people: Sequence[Any], given: Any, judges: dict[str, Recogniser]
) -> dict[str, Any]:
    """Twenty keys for each of some faces."""
    cosines: dict[str, list[Any]] = {key: [] for key in judges}
    upper = np.triu_indices(20, 1)
    for photo, face, _, _ in people[: given.some]:
        views = [view(photo, face, secret("many", j), j) for j in range(20)]
        made = [pasted(photo, v, one) for v, one in zip(views, editor(name)(views), strict=True)]
        for key, judge in judges.items():
            now = embedded(judge, [(one, face) for one in made])
            cosines[key] += list((now @ now.T)[upper])
    made_of: dict[str, Any] = {}
    for key, values in cosines.items():
        made_of[f"{key} diversity"] = float(1 - np.mean(values))
        made_of[f"{key} distinct"] = float(np.mean(np.array(values) <= threshold(FAR, key)))
    return made_of


# ---- measures --------------------------------------------------------------------------------


def embedded(judge: Recogniser, shown: Sequence[tuple[Any, Face]]) -> np.ndarray:
    """One unit vector a face."""
    return judge.embed_crops(np.stack([judge.crop(photo, face) for photo, face in shown]))


def share(judge: str, a: np.ndarray, b: np.ndarray) -> float:
    """Share of pairs that a recogniser calls one person."""
    return float(((a * b).sum(1) > threshold(FAR, judge)).mean())


def area(scores: np.ndarray) -> float:
    """Area under the ROC curve: the diagonal against the rest."""
    mine, rest = np.diag(scores), np.sort(scores[~np.eye(len(scores), dtype=bool)])
    return float(np.searchsorted(rest, mine).mean() / len(rest))


def small(photo: Any) -> Any:
    """A picture for the sheet."""
    return np.asarray(Image.fromarray(photo).resize((160, 160)))


def report(figures: dict[str, Any]) -> None:
    """Print the Markdown tables."""
    rows = figures["rows"]
    judges = [k for k in ("sface", "facenet") if k in figures["clear, other photo"]]
    clear = ", ".join(f"{k} {100 * v:.1f} %" for k, v in figures["clear, other photo"].items())
    print(f"{figures['people']} people, {figures['date']}; clear, other photo: {clear}\n")
    shown = ("same", "other", "same, released", "other, released", "linkage AUC")
    columns = [f"{k} {w}" for k in judges for w in shown]
    columns += ["same apparent gender", "same apparent band", "cosine to own", "detected"]
    columns += ["points, % of eye distance, median"]
    table(rows, columns)
    columns = [f"{w}, {c}" for c in CHANNELS for w in ("carrier, uncorrected", "carrier")]
    columns += [f"{k} recovered, {c}" for k in judges for c in CHANNELS]
    columns += [f"{k} recovered, other photo, png" for k in judges]
    columns += [f"{k} {w}" for k in judges for w in ("wrong keys", "diversity", "distinct")]
    table({k: v for k, v in rows.items() if k in KEYED}, columns)


def table(rows: dict[str, Any], columns: Sequence[str]) -> None:
    """Print one."""
    plain = ("cosine", "carrier", "AUC", "diversity")
    print(f"| | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name, row in rows.items():
        cells = []
        for column in columns:
            value = row[column]
            if "points" in column:
                cells.append(f"{value:.1f}")
            elif any(word in column for word in plain):
                cells.append(f"{value:.2f}")
            else:
                cells.append(f"{100 * value:.1f} %")
        print(f"| {name} | {' | '.join(cells)} |")
    print()


if __name__ == "__main__":
    main()
