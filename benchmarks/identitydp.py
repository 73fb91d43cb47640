"""What an epsilon does: to the identity vector, to a face drawn from it, and to the clock.

    python benchmarks/identitydp.py table
    python benchmarks/identitydp.py sensitivity
    python benchmarks/identitydp.py speed --data ../shared/data/eval/lfw --count 60
    python benchmarks/identitydp.py ladder --data ../shared/data/eval/lfw --count 400 --out scratch/dp

`table`: mean cosine of a vector and its release. `sensitivity`: the largest L1 distance among public
identities. `speed`: CPU ms a release, releases/s of the ledger, faces/s beside newface in the same run.
`ladder`: up to three photos each of `count` people, every face released and drawn once a setting, before
the judge covers any; then the evaluation's attackers that work on vectors, with `pool` A3-lin and A3-perm
on pixels, and the attack on the released vector itself, beside what theory says; and the true accept rate at FAR
1e-3 of SFace and, with --facenet, of FaceNet, against the same photo and another one. Settings that are
done lie in `out` and are not drawn again. Prints Markdown; writes figures.json and identitydp.svg.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moretta.networks.pool import COUNT, SEED, random_identities
from moretta.privacy.entropy import Predictable
from moretta.privacy.ledger import Ledger
from moretta.privacy.mechanisms import (
    MECHANISMS,
    FinitePool,
    Mechanism,
    checked,
    guess_bound,
    mechanism,
)
from moretta.records import Charge

EPSILONS = (1, 5, 10, 20, 50, 100, 200, 500)
COMPARED = ("pool", "privunit", "laplace")
ON_PIXELS = ("A3-lin", "A3-perm")  # of the attackers that need pixels; the others take minutes each


def table(draws: int) -> None:
    """Print mean cosines: closed forms where there are, else `draws` releases."""
    shown = ("privunit", "laplace", "laplace-compat", "l2-laplace", "vmf")
    for length in (48, 128, 512):
        members = random_identities(COUNT, SEED, length)
        columns: list[Mechanism] = [FinitePool(members), *(mechanism(one) for one in shown)]
        columns = [one for one in columns if one.name != "laplace-compat" or length != 128]
        print(f"\n**{length} numbers**\n")
        print("| epsilon | " + " | ".join(one.name for one in columns) + " |")
        print("|" + "---|" * (len(columns) + 1))
        x, entropy = checked(random_identities(1, 77, length)[0]), Predictable(1)
        for epsilon in (1, 2, *EPSILONS[1:]):
            cells = []
            for one in columns:
                if one.name in ("pool", "privunit", "vmf"):
                    value = one.expected_cosine(epsilon, length)
                else:
                    parts = [
                        one.sample(x, epsilon, entropy, 2000) @ x for _ in range(draws // 2000)
                    ]
                    value = float(np.concatenate(parts).mean())
                cells.append(f"{value:.4f}".lstrip("0"))
            print(f"| {epsilon} | " + " | ".join(cells) + " |")


def sensitivity() -> None:
    """Print the largest L1 distance between two of the first 20,000 public identities."""
    members, most = random_identities(20_000, SEED), 0.0
    for start in range(0, len(members), 100):
        for other in range(start, len(members), 2000):
            apart = np.abs(members[start : start + 100, None] - members[None, other : other + 2000])
            most = max(most, float(apart.sum(2).max()))
    print(f"{most:.4f} of at most {2 * members.shape[1] ** 0.5:.4f}")


def speed(data: Path | None, count: int) -> None:
    """Print milliseconds a release, releases/s, faces/s."""
    members = random_identities(COUNT, SEED)
    x = random_identities(1, 5)[0]
    print("| mechanism | CPU ms a release |\n|---|---|")
    for name in MECHANISMS:
        one, epsilon = mechanism(name, members), 0.0 if name == "uniform" else 1.0
        one.release(x, epsilon)
        times = []
        for _ in range(50):
            start = time.process_time()
            one.release(x, epsilon)
            times.append(time.process_time() - start)
        print(f"| {name} | {1000 * float(np.median(times)):.2f} |")
    charge = Charge(mechanism="pool", epsilon=1.0, delta=0.0, cap=1e9, shared=False)
    with tempfile.TemporaryDirectory() as folder, Ledger(f"{folder}/l.sqlite", bytes(32)) as ledger:
        for label, n in (("new", 500), ("remembered", 500)):
            start = time.perf_counter()
            for i in range(n):
                ledger.release("anna", i.to_bytes(4, "big"), charge, lambda: bytes(192))
            print(f"ledger, {label}: {n / (time.perf_counter() - start):.0f} releases/s")
    if data is not None:
        _pipeline(data, count)


def _pipeline(data: Path, count: int) -> None:
    from moretta.api import Anonymizer

    people = sorted(one for one in data.iterdir() if one.is_dir())[:count]
    with tempfile.TemporaryDirectory() as folder:
        for person in people:
            source = min(person.iterdir())
            shutil.copy(source, Path(folder) / f"{person.name}{source.suffix}")
        given = {"newface": {}, "identitydp": {"epsilon": 1.0}}
        runs = {}
        for name, own in given.items():
            extra = {"ledger": f"{folder}-ledger.sqlite"} if own else {}
            one = Anonymizer(name, settings=own, **extra)
            one.find(np.zeros((64, 64, 3), np.uint8))
            start = time.perf_counter()
            summary = one.run(folder, f"{folder}-{name}", jobs=1)
            runs[name] = summary.faces / (time.perf_counter() - start)
            print(f"{name}: {runs[name]:.1f} faces/s, {summary.faces} faces, start-up included")
            shutil.rmtree(f"{folder}-{name}")
        print(f"identitydp / newface: {runs['identitydp'] / runs['newface']:.2f}")
        for path in Path(folder).parent.glob(f"{Path(folder).name}-ledger*"):
            path.unlink()


# ---- the ladder ------------------------------------------------------------------------------


def ladder(
    data: Path, count: int, out: Path, epsilons: tuple[float, ...], *, facenet: bool
) -> None:
    """Draw, attack, print and write the figure."""
    out.mkdir(parents=True, exist_ok=True)
    faces = _Faces(data, count, facenet=facenet)
    settings: list[tuple[str, float]] = [("pool", 0.0)]
    settings += [(name, float(e)) for name in COMPARED for e in epsilons if e]
    rows = []
    for name, epsilon in settings:
        path = out / f"{name}-{epsilon:g}-{faces.key}.npz"
        if not path.exists():
            start = time.perf_counter()
            np.savez_compressed(path.with_suffix(".part.npz"), **faces.drawn(name, epsilon))
            path.with_suffix(".part.npz").replace(path)
            print(f"{name} {epsilon:g}: {time.perf_counter() - start:.0f} s", flush=True)
        with np.load(path) as kept:
            row = faces.attacked(dict(kept), pixels=name == COMPARED[0])
        bound = guess_bound(epsilon, row["people scored"])
        rows.append({"mechanism": name, "epsilon": epsilon, **row, "bound": bound})
    people = rows[0]["people scored"]
    report = {"people": faces.people, "faces": len(faces.views), "date": time.strftime("%F")}
    (out / "figures.json").write_text(json.dumps({**report, "rows": rows}, indent=1))
    attacks = [key for key in rows[0] if key.startswith("A")]
    rates = [key for key in rows[0] if key.startswith("TAR")]
    keys = [
        *attacks,
        *rates,
        "best",
        "upper",
        "release, same",
        "release, other",
        "bound",
        "found",
        "looks",
    ]
    print(f"\n{faces.people} people, {len(faces.views)} faces, {people} people scored\n")
    print("| mechanism | epsilon | " + " | ".join(keys) + " |")
    print("|" + "---|" * (len(keys) + 2))
    for row in rows:
        cells = [f"{100 * row[key]:.1f}" if key in row else "" for key in keys]
        print(f"| {row['mechanism']} | {row['epsilon']:g} | " + " | ".join(cells) + " |")
    _figure(rows, people, out / "identitydp.svg")


class _Faces:
    """The people's photos, their faces, and everything that does not hang on a setting."""

    def __init__(self, data: Path, count: int, *, facenet: bool) -> None:
        from PIL import Image

        from moretta.api import Anonymizer
        from moretta.evaluation.ladder import Layout
        from moretta.evaluation.splits import parts, probes_of
        from moretta.faces.detect import yunet
        from moretta.faces.recognise import JUDGE, Recogniser
        from moretta.faces.steady import held
        from moretta.methods import method

        self.method = method("identitydp")
        self.finder, self.judge = Anonymizer("solid"), Recogniser(JUDGE)
        look = yunet.build("cpu", 1)
        self.photos, self.faces, owner, probe = [], [], [], []
        contents: dict[str, list[str]] = {}
        folders = [one for one in sorted(data.iterdir()) if len(list(one.iterdir())) > 1]
        for person in folders[:: max(1, len(folders) // count)][:count]:
            found = []
            for path in sorted(person.iterdir())[:3]:
                photo = np.asarray(Image.open(path).convert("RGB"))
                seen = self.finder.find(photo)
                middle = np.array(photo.shape[1::-1]) / 2
                seen.sort(key=lambda face, m=middle: float(np.abs(face.points.mean(0) - m).sum()))
                if seen:
                    face = held(photo, seen[0], look)
                    found.append((photo, face, hashlib.sha256(path.read_bytes()).hexdigest()))
            if len(found) > 1:
                contents[person.name] = [digest for *_, digest in found]
                first = len(found) - probes_of(len(found))
                for i, (photo, face, _) in enumerate(found):
                    self.photos.append(photo)
                    self.faces.append(face)
                    owner.append(person.name)
                    probe.append(i >= first)
        names = sorted(contents)
        where = parts(contents, 0)
        self.people = len(names)
        self.key = hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest()[:8]
        numbers = np.array([names.index(one) for one in owner], np.int64)
        self.layout = Layout(
            people=numbers,
            part=[where[one] for one in owner],
            probe=np.array(probe),
            processed=np.ones(len(numbers), bool),
        )
        self.views, self.masks = [], []
        for i, (photo, face) in enumerate(zip(self.photos, self.faces, strict=True)):
            self._view(photo, face, i, int(numbers[i]))
        pairs = list(zip(self.photos, self.faces, strict=True))
        self.recognisers = {JUDGE: self.judge}
        if facenet:
            self.recognisers["facenet"] = Recogniser("facenet")
        self.clear = {
            name: np.concatenate([one.embed(p, [f]) for p, f in pairs]).astype(float)
            for name, one in self.recognisers.items()
        }
        self.crops = np.stack([self.judge.crop(p, f) for p, f in pairs])
        self._own: tuple[np.ndarray, list[tuple[str, str]]] | None = None

    def _view(self, photo: np.ndarray, face: Any, seed: int, person: int) -> None:
        from moretta.faces import crop as crops
        from moretta.faces import mask as masks

        chosen = self.method
        wider = masks.stretch(face, scale=chosen.mask_scale, feather=chosen.mask_feather)
        alpha, bounds = masks.redraw(
            face, photo.shape, scale=chosen.mask_scale * wider, feather=chosen.mask_feather
        )
        view = crops.align(
            photo, face, alpha, template="wide", side=chosen.side, seed=seed, identity=person,
            stretch=wider,
        )  # fmt: skip
        self.views.append(view)
        self.masks.append((alpha, bounds))

    def drawn(self, name: str, epsilon: float) -> dict[str, np.ndarray]:
        """Release and draw every face once; return vectors and what a user would still see."""
        from moretta.faces import crop as crops
        from moretta.methods import settings
        from moretta.pipeline import budget

        released: dict[int, bytes] = {}
        ledger = Ledger(sqlite3.connect(":memory:"), os.urandom(32))

        def caught(at: int, inner: Any) -> Any:
            def guarded(charge: Charge, draw: Any) -> bytes:
                released[at] = inner(charge, draw)
                return released[at]

            return guarded

        views = [
            replace(view, guard=caught(i, budget.guard(ledger, view)))
            for i, view in enumerate(self.views)
        ]
        given = {"mechanism": name, "epsilon": epsilon, "cap": 1e9, "accept_weak_epsilon": True}
        edit = self.method.build(settings(self.method, given), "cpu")
        pasted, found = [], 0
        for photo, face, view, (alpha, bounds), edited in zip(
            self.photos, self.faces, self.views, self.masks, edit(views), strict=True
        ):
            canvas = photo.copy()
            crops.paste(canvas, edited.pixels, view, alpha, bounds)
            pasted.append(canvas)
            found += any(one.box.overlap(face.box) > 0.3 for one in self.finder.find(canvas))
        pairs = list(zip(pasted, self.faces, strict=True))
        after = {
            f"after {name}": np.concatenate([one.embed(p, [f]) for p, f in pairs])
            for name, one in self.recognisers.items()
        }
        own, looks = self.own()
        now = self._looks(self._identities(pasted))
        kept = np.mean([a == b for a, b in zip(looks, now, strict=True)])
        if released:
            vectors = np.stack([np.frombuffer(released[i], np.float32) for i in range(len(views))])
        else:  # epsilon 0: no release; any member of the pool stands for one
            vectors = random_identities(len(views), 999)
        return {
            **after,
            "crops": np.stack([self.judge.crop(p, f) for p, f in pairs]),
            "released": vectors,
            "own": own,
            "found": np.array(found / len(views)),
            "looks": np.array(kept),
        }

    def attacked(self, kept: dict[str, np.ndarray], *, pixels: bool) -> dict[str, Any]:
        """Run the attackers, some on pixels too if asked; each variant chosen on V and scored on E."""
        from moretta.evaluation.attackers import ATTACKERS
        from moretta.evaluation.attackers.attack import Case
        from moretta.evaluation.ladder import attack
        from moretta.faces.recognise import JUDGE

        def case(clear: np.ndarray, anon: np.ndarray, **crops: Any) -> Case:
            return Case(
                people=self.layout.people,
                training=np.asarray(self.layout.part) == "T",
                clear=clear.astype(float),
                anon={"clear": anon.astype(float)},
                seed=0,
                **crops,
            )

        row: dict[str, Any] = {}
        given = case(
            self.clear[JUDGE],
            kept[f"after {JUDGE}"],
            clear_crops=self.crops,
            anon_crops={"clear": kept["crops"]},
            embed=lambda crops: self.judge.embed_crops(crops).astype(float),
        )
        best, upper, chosen = 0.0, 0.0, -1.0
        for attacker in ATTACKERS:
            if attacker.floor:
                continue
            if attacker.pixels and not (pixels and attacker.name in ON_PIXELS):
                continue
            result = attack(attacker, given, self.layout, "sface")
            if result.all is None:
                continue
            row[attacker.name] = result.all.top1.v
            row["people scored"] = result.all.people
            if not attacker.same_photo and result.chosen_at > chosen:  # the choice is V's
                chosen, best, upper = result.chosen_at, result.all.top1.v, result.all.top1.hi
        row |= {"best": best, "upper": upper}
        given = case(kept["own"], kept["released"])
        for attacker in ATTACKERS[:2]:  # A0-same and A0-other, on the released vector itself
            result = attack(attacker, given, self.layout, "identity")
            label = "release, same" if attacker.same_photo else "release, other"
            row[label] = result.all.top1.v if result.all else float("nan")
        for name, clear in self.clear.items():
            row |= self._accepted(name, clear, kept[f"after {name}"])
        return row | {"found": float(kept["found"]), "looks": float(kept["looks"])}

    def _accepted(self, name: str, clear: np.ndarray, after: np.ndarray) -> dict[str, float]:
        """Return the true accept rates at FAR 1e-3: against the same photo, and against the next one."""
        from moretta.faces.recognise import threshold

        people = self.layout.people
        members = [np.flatnonzero(people == one) for one in np.unique(people)]
        following = np.empty(len(people), int)
        for rows in members:
            following[rows] = np.roll(rows, -1)
        least = threshold("1e-3", name)
        return {
            f"TAR {name}, same": float(((after * clear).sum(1) > least).mean()),
            f"TAR {name}, other": float(((after * clear[following]).sum(1) > least).mean()),
        }

    def own(self) -> tuple[np.ndarray, list[tuple[str, str]]]:
        """Return the photos' identity vectors and how they look."""
        if self._own is None:
            vectors = self._identities(self.photos)
            self._own = vectors, self._looks(vectors)
        return self._own

    def _identities(self, photos: list[np.ndarray]) -> np.ndarray:
        import torch

        from moretta.networks.identity import Identity
        from moretta.weights import load

        network = Identity.from_tensors(load.tensors("dlib"), load.tensors("identity"))
        rows = []
        with torch.inference_mode():
            for photo, face in zip(photos, self.faces, strict=True):
                picture = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float()
                rows.append(
                    network.of(picture, torch.from_numpy(face.points)[None].float()).numpy()
                )
        return np.concatenate(rows)

    @staticmethod
    def _looks(vectors: np.ndarray) -> list[tuple[str, str]]:
        from moretta.networks.traits import TraitsHead
        from moretta.weights import load

        head = TraitsHead.from_tensors(load.tensors("identity"))
        return [(one.band, one.gender) for one in (head.read(vector) for vector in vectors)]


def theory(name: str, epsilon: float, people: int, trials: int = 2000) -> float:
    """Top-1 of the nearest vector among `people` evenly spread ones, for one released vector."""
    gallery = random_identities(people, 31).astype(float)
    chosen, entropy = mechanism(name, random_identities(COUNT, SEED)), Predictable(7)
    hits, each = 0, max(1, trials // people)
    for at, x in enumerate(gallery):
        answers = chosen.sample(checked(x), epsilon, entropy, each)
        hits += int(((answers @ gallery.T).argmax(axis=1) == at).sum())
    return hits / (each * people)


def _figure(rows: list[dict[str, Any]], people: int, path: Path) -> None:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    FigureCanvasSVG(figure)
    left, right = figure.subplots(1, 2)
    floor = next(row for row in rows if row["epsilon"] == 0)
    epsilons = sorted({row["epsilon"] for row in rows if row["epsilon"]})
    for name, colour in zip(COMPARED, ("#1f77b4", "#e07b00", "#2ca02c"), strict=True):
        own = sorted(
            (r for r in rows if r["mechanism"] == name and r["epsilon"]), key=lambda r: r["epsilon"]
        )
        x = [row["epsilon"] for row in own]
        left.plot(x, [row["best"] for row in own], "o-", color=colour, label=f"{name}, drawn face")
        left.plot(
            x, [row["release, other"] for row in own], "x:", color=colour, label=f"{name}, vector"
        )
        left.plot(x, [theory(name, e, people) for e in x], "--", color=colour, alpha=0.6, lw=1)
        right.plot(
            [r["best"] for r in own], [r["looks"] for r in own], "o-", color=colour, label=name
        )
    left.plot(
        epsilons,
        [guess_bound(e, people) for e in epsilons],
        color="#808080",
        label="bound on any attack on the vector",
    )
    left.axhline(floor["best"], color="#d62728", ls="-.", label="floor: epsilon 0")
    left.set(xscale="log", xlabel="epsilon", ylabel=f"top-1 among {people}", ylim=(-0.03, 1.03))
    left.legend(frameon=False, fontsize=7)
    right.plot([floor["best"]], [floor["looks"]], "s", color="#d62728", label="epsilon 0")
    right.set(xlabel=f"best attack on the drawn face, top-1 among {people}", xlim=(-0.03, 1.03))
    right.set(ylabel="same apparent age band and gender", ylim=(-0.03, 1.03))
    right.legend(frameon=False, fontsize=7)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("table", "sensitivity", "speed", "ladder"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--epsilons", default=",".join(map(str, EPSILONS)))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--facenet", action="store_true", help="the catalogue's facenet, if found")
    given = parser.parse_args()
    if given.what == "table":
        table(given.draws)
    elif given.what == "sensitivity":
        sensitivity()
    elif given.what == "speed":
        speed(given.data, given.count)
    elif given.data is None or given.out is None:
        parser.error("ladder needs --data and --out")
    else:
        import torch

        torch.set_num_threads(1)
        epsilons = tuple(float(one) for one in given.epsilons.split(","))
        ladder(given.data, given.count, given.out, epsilons, facenet=given.facenet)


if __name__ == "__main__":
    main()
