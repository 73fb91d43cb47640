"""StyleID measured: curves of privacy and utility, orders compared, attacks, speed.

    python benchmarks/styleid.py --data ../shared/data/eval/lfw --count 100 --out scratch/styleid --facenet

One photo a person, people with two photos or more, none of whom trained anything. Prints the tables of
docs/styleid.md; what is done is kept in --out/figures.json, so that a call goes on where it was.
--plots docs writes the plots of the page.

curves      every variant at eleven strengths, auto, and other methods: recognised at FAR 1e-3 in the same
            and in another photo (SFace, FaceNet), rank-1 among the people, detection, five points
orders      channels by D, by identity alone, by variance, at random: identity change at equal attribute
            change; 95 % intervals by bootstrap over people
gates       what the trained swapper gains: identity and attribute change beside the ranked channels and the
            locked rows alone, and attribute change at equal identity change; --swapper FILE for one that
            does not ship
attacks     rows that were not swapped tell the swapped ones: from the code, and from the picture
speed       faces a second of the whole pipeline, one process
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import torch
from composer import stretched
from people import faces_of, found_again

from moretta.api import Anonymizer
from moretta.faces import crop as crops
from moretta.faces import mask as masks
from moretta.faces.crop import points_in
from moretta.faces.recognise import JUDGE, Recogniser, threshold
from moretta.methods import method, settings
from moretta.networks import pool as pools
from moretta.networks import ranking as ranks
from moretta.networks.backend import pictures_of, pixels_of
from moretta.networks.ranking import BundledPanel, Pairs, Readers
from moretta.networks.regions import REGIONS
from moretta.networks.traits import TraitsHead
from moretta.pipeline.options import options
from moretta.pipeline.protect import Picture, Protector
from moretta.weights import backends, load

SHARES = [round(0.1 * i, 1) for i in range(11)]
FINE = [0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0]
STEPS = 30  # of inversion, in the attack on pictures


class Bench:
    """The people, their crops, and what was measured so far."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.out = given.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "figures.json"
        self.figures: dict[str, Any] = (
            json.loads(self.path.read_text()) if self.path.exists() else {"count": given.count}
        )
        networks = ("composer", "styleid", *(["swapper"] if load.present("swapper") else []))
        held = {"count": given.count} | {name: load.entry(name).sha256 for name in networks}
        if any(self.figures.setdefault(key, value) != value for key, value in held.items()):
            raise SystemExit(f"{self.path} is of other people or weights: another --out")
        torch.set_num_threads(1)
        self.backend = backends.composer()
        self.people = faces_of(given.data, given.count)
        self.finder = Anonymizer("solid")
        names = ["sface", *(["facenet"] if given.facenet else [])]
        self.judges = {name: Recogniser(name) for name in names}
        self.before, self.other = (
            {
                name: np.concatenate([judge.embed(p[at], [p[at + 1]]) for p in self.people])
                for name, judge in self.judges.items()
            }
            for at in (0, 2)
        )
        self.views = [
            crops.align(
                photo,
                face,
                np.zeros((1, 1), np.float32),
                template="wide",
                side=self.backend.side,
                seed=i,
                stretch=stretched(face),
            )
            for i, (photo, face, _, _) in enumerate(self.people)
        ]
        self.ranking = backends.ranking()
        self.pictures = pictures_of([view.pixels for view in self.views])
        self.points = torch.from_numpy(np.stack([points_in(v) for v in self.views])).float()
        self.latents()

    @torch.no_grad()
    def latents(self) -> None:
        """Rows of the faces and of their targets, as the method chooses them."""
        head = TraitsHead.from_tensors(load.tensors("identity"))
        pool = pools.build(pools.COUNT, pools.SEED, head)
        self.own = torch.cat(
            [
                self.backend.identity(a, b)
                for a, b in zip(self.pictures.split(16), self.points.split(16), strict=True)
            ]
        )
        noise = torch.from_numpy(
            np.stack([np.random.default_rng(v.seed).standard_normal(64) for v in self.views])
        ).float()
        code = torch.cat(
            [
                self.backend.known(a, b, level=0)
                for a, b in zip(self.pictures.split(16), noise.split(16), strict=True)
            ]
        )
        chosen = [
            pools.choose(pool, head.read(one), "age,gender", np.random.default_rng(view.seed))
            for one, view in zip(self.own.numpy(), self.views, strict=True)
        ]
        asked = torch.from_numpy(pool.identities[chosen])
        self.pairs = Pairs(
            self.pictures,
            self.points,
            self.backend.rows(self.own, code),
            self.backend.rows(asked, code),
        )
        panel = BundledPanel.of(self.backend, load.tensors("identity"))
        self.readers = Readers.fitted(self.backend, panel, self.pairs)

    def keep(self, key: str, value: Any) -> None:
        """Note a result."""
        self.figures[key] = value
        self.path.write_text(json.dumps(self.figures))
        print(key, json.dumps(value)[:300], flush=True)

    def pasted(self, drawn: list[Any], name: str = "styleid") -> list[Any]:
        """Photos with these crops in them, through the pipeline's mask."""
        chosen, done = method(name), []
        for (photo, face, _, _), view, edited in zip(self.people, self.views, drawn, strict=True):
            canvas = photo.copy()
            scale = chosen.mask_scale * stretched(face)
            alpha, bounds = masks.redraw(
                face, photo.shape, scale=scale, feather=chosen.mask_feather
            )
            crops.paste(canvas, edited, view, alpha, bounds)
            done.append(canvas)
        return done

    def judged(self, photos: list[Any]) -> dict[str, float]:
        """Recognised, ranked, found again."""
        row: dict[str, float] = {}
        for name, judge in self.judges.items():
            after = np.concatenate(
                [judge.embed(p, [f]) for p, (_, f, _, _) in zip(photos, self.people, strict=True)]
            )
            for label, gallery in (("same", self.before[name]), ("other", self.other[name])):
                cosines = after @ gallery.T
                own = np.diag(cosines)
                taken = own > threshold("1e-3", name)
                if name == JUDGE and label == "same":
                    covered = taken
                row[f"{name} {label}"] = float(taken.mean())
                row[f"{name} {label}, released"] = float((taken & ~covered).mean())
                row[f"{name} {label} rank-1"] = float((own >= cosines.max(1)).mean())
        faces = [one[1] for one in self.people]
        row["detected"], row["points"] = found_again(self.finder, photos, faces)
        return row

    @torch.no_grad()
    def changes(self, pictures: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """d_id and d_at of each face, against the photo's own crop."""
        did, dat = [], []
        for start in range(0, len(pictures), 16):
            part = slice(start, start + 16)
            now, have = self.readers(pictures[part], self.points[part])
            _, had = self.readers(self.pictures[part], self.points[part])
            did.append(ranks.identity_distance(now, self.own[part]).numpy())
            dat.append(ranks.attribute_distance(have, had).numpy())
        return np.concatenate(did), np.concatenate(dat)


def conditions() -> dict[str, tuple[str, dict[str, Any]]]:
    """Every row of the first table: label -> method, settings."""
    made: dict[str, tuple[str, dict[str, Any]]] = {}
    for share in SHARES:
        made[f"latent {share}"] = ("styleid", {"share": share})
    for share in SHARES:
        made[f"pixel {share}"] = ("styleid", {"variant": "pixel", "share": share})
    if load.present("swapper"):
        for share in SHARES:
            made[f"swapper {share}"] = ("styleid", {"variant": "swapper", "share": share})
        made["swapper auto"] = ("styleid", {"variant": "swapper", "adapt": "auto"})
        made["swapper 1, code drawn"] = ("styleid", {"variant": "swapper", "code": "drawn"})
        made["swapper 1 then pixel, face"] = ("styleid", {"variant": "swapper", "region": "face"})
    made["latent auto"] = ("styleid", {"adapt": "auto"})
    made["pixel auto"] = ("styleid", {"variant": "pixel", "adapt": "auto"})
    for space in ("numbers", "groups", "rows"):
        made[f"latent 0.5, {space}"] = ("styleid", {"features": space, "share": 0.5})
    made["latent 1, code drawn"] = ("styleid", {"code": "drawn", "share": 1.0})
    made["latent 1, level 2"] = ("styleid", {"level": 2, "share": 1.0})
    for region in ("face", "features"):
        made[f"latent 1 then pixel, {region}"] = ("styleid", {"region": region, "share": 1.0})
        made[f"pixel, {region}"] = ("styleid", {"variant": "pixel", "region": region})
    made["newface"] = ("newface", {})
    return made


def curves(bench: Bench, wanted: str) -> None:
    """Measure every variant at every strength, and the classical methods."""
    if "original" not in bench.figures:
        bench.keep("original", bench.judged([p for p, *_ in bench.people]))
    for label, (name, given) in conditions().items():
        if label in bench.figures or (wanted and label not in wanted.split(";")):
            continue
        chosen = method(name)
        drawn = chosen.build(settings(chosen, given), "cpu")(bench.views)
        pixels = [one.pixels for one in drawn]
        row = bench.judged(bench.pasted(pixels, name))
        did, dat = bench.changes(pictures_of(pixels))
        row |= {"d_id": float(did.mean()), "d_at": float(dat.mean())}
        if "share" in drawn[0].figures:
            row["share"] = float(np.mean([one.figures["share"] for one in drawn]))
        bench.keep(label, row)
    for name in ("pixelate", "solid"):
        if name not in bench.figures:
            chosen = method(name)
            edit, photos = chosen.build(settings(chosen), "cpu"), []
            for photo, face, _, _ in bench.people:
                alpha, bounds = masks.cover(
                    face, photo.shape, scale=chosen.mask_scale, fills_view=chosen.fills_view
                )
                view = crops.cut(photo, face, alpha, bounds, seed=0)
                canvas = photo.copy()
                crops.paste(canvas, edit([view])[0].pixels, view, alpha, bounds)
                photos.append(canvas)
            bench.keep(name, bench.judged(photos))


@torch.no_grad()
def orders(bench: Bench, seeds: int) -> None:
    """Compare orders of the channels at equal attribute change."""
    if "orders" in bench.figures:
        return
    one = bench.ranking.spaces["channels"]
    source, target = (bench.backend.styles(r) for r in (bench.pairs.sources, bench.pairs.targets))
    variance = ((target - source) ** 2).mean(0).numpy()
    wanted = {
        "D": one.order,
        "identity alone": np.argsort(-one.did),
        "variance": np.argsort(-variance),
    } | {f"random {s}": np.random.default_rng(s).permutation(len(one.did)) for s in range(seeds)}
    curve: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, order in wanted.items():
        moved = []
        for weights in ranks.strengths(order, FINE):
            pictures = []
            for start in range(0, len(bench.pairs), 16):
                part = bench.pairs[start : start + 16]
                many = torch.from_numpy(weights).float().expand(len(part), -1)
                styles = ranks.swapped_styles(
                    bench.backend, part.sources, part.targets, many, "channels"
                )
                pictures.append(bench.readers.drawn(part, styles))
            moved.append(bench.changes(torch.cat(pictures)))
        curve[name] = (np.stack([a for a, _ in moved]), np.stack([b for _, b in moved]))
        print(name, curve[name][0].mean(1).round(3), flush=True)
    drawn = [curve[f"random {s}"] for s in range(seeds)]
    curve["random"] = tuple(np.mean([each[i] for each in drawn], 0) for i in (0, 1))  # type: ignore[assignment]
    did, dat = curve["D"]
    made: dict[str, Any] = {}
    rng = np.random.default_rng(0)
    people = rng.integers(0, did.shape[1], (2000, did.shape[1]))
    for name in ("random", "variance", "identity alone"):
        rows = []
        for at in range(1, len(FINE) - 1):
            theirs, cost = curve[name]
            equal = np.array([np.interp(dat[at].mean(), cost.mean(1), p) for p in theirs.T])
            gap = did[at] - equal
            low, high = np.quantile(gap[people].mean(1), [0.025, 0.975])
            plain = (did[at] - theirs[at]).mean()
            rows.append([FINE[at], gap.mean(), low, high, plain])
        made[name] = np.round(rows, 4).tolist()
    made["curves"] = {
        name: [np.round(each.mean(1), 4).tolist() for each in curve[name]]
        for name in ("D", "identity alone", "variance", "random")
    }
    bench.keep("orders", made)


@torch.no_grad()
def gates(bench: Bench) -> None:
    """Compare the swapper with ranked channels and with its locked rows alone, at every strength."""
    if "gates" in bench.figures or not load.present("swapper"):
        return
    swapper = backends.swapper(bench.backend, bench.ranking)
    order = bench.ranking.spaces["channels"].order
    curve: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    opened = []
    for name in ("ranked channels", "locked rows", "swapper"):
        moved = []
        for share in FINE:
            pictures = []
            for start in range(0, len(bench.pairs), 16):
                part = bench.pairs[start : start + 16]
                if name == "ranked channels":
                    weights = torch.from_numpy(ranks.strengths(order, [share] * len(part))).float()
                    styles = ranks.swapped_styles(
                        bench.backend, part.sources, part.targets, weights, "channels"
                    )
                else:
                    gate = swapper(part.sources, part.targets)
                    if name == "swapper":
                        opened.append(gate.mean((0, 2)).numpy())
                    else:
                        gate = (gate == 1).float()
                    styles = bench.backend.styles(
                        ranks.swapped(part.sources, part.targets, share * gate)
                    )
                pictures.append(bench.readers.drawn(part, styles))
            moved.append(bench.changes(torch.cat(pictures)))
        curve[name] = (np.stack([a for a, _ in moved]), np.stack([b for _, b in moved]))
        print(name, [each.mean(1).round(3).tolist() for each in curve[name]], flush=True)
    did, dat = curve["swapper"]
    people = np.random.default_rng(0).integers(0, did.shape[1], (2000, did.shape[1]))
    made: dict[str, Any] = {"mean gates": np.round(np.mean(opened, 0), 3).tolist()}
    for name in ("ranked channels", "locked rows"):
        theirs, cost = curve[name]
        reach = np.maximum.accumulate(theirs.mean(1))
        rows = []
        for at in range(1, len(FINE)):
            equal = np.array([np.interp(did[at].mean(), reach, p) for p in cost.T])
            gap = dat[at] - equal
            low, high = np.quantile(gap[people].mean(1), [0.025, 0.975])
            beyond = bool(did[at].mean() > reach[-1])  # they never change identity so much
            rows.append([FINE[at], gap.mean(), low, high, beyond])
        made[name] = [[*(round(float(x), 4) for x in row[:4]), row[4]] for row in rows]
    made["curves"] = {
        name: [np.round(each.mean(1), 4).tolist() for each in both] for name, both in curve.items()
    }
    bench.keep("gates", made)


def completed(rows: torch.Tensor, taken: list[int]) -> torch.Tensor:
    """Rows that were swapped, from the mean of those that were not; row 0 has no twin."""
    kept = [r for r in range(1, rows.shape[1]) if r not in taken]
    full = rows.clone()
    for r in taken if kept else ():
        if r:
            full[:, r] = rows[:, kept].mean(1)
    return full


def attacks(bench: Bench, few: int) -> None:
    """Set swapped rows to the mean of the others: from the code itself, and from the picture."""
    backend, order = bench.backend, bench.ranking.spaces["rows"].order
    latent = bench.pairs.sources.shape[2]
    part = bench.pairs[:few]
    known = threshold("1e-3")
    for k in (0, 1, 3, 5, 7, 9):
        key = f"attack {k} rows"
        if key in bench.figures:
            continue
        taken = order[:k].tolist()
        weights = torch.zeros(few, len(order))
        weights[:, taken] = 1
        row: dict[str, float] = {}

        def seen(rows: torch.Tensor, pictures: torch.Tensor) -> tuple[float, float]:
            with torch.no_grad():
                context = backend.context(pictures)
                shown = backend.composed(pictures, backend.draw(context, bench.points[:few], rows))
            photos = []
            for (photo, face, _, _), view, one in zip(
                bench.people, bench.views, pixels_of(shown), strict=False
            ):
                canvas = photo.copy()
                alpha, bounds = masks.redraw(face, photo.shape, scale=1.47, feather=0.05)
                crops.paste(canvas, one, view, alpha, bounds)
                photos.append(canvas)
            judge = bench.judges["sface"]
            after = np.concatenate(
                [judge.embed(p, [f]) for p, (_, f, _, _) in zip(photos, bench.people, strict=False)]
            )
            own = (after * bench.before["sface"][:few]).sum(1)
            return float(own.mean()), float((own > known).mean())

        with torch.no_grad():
            mixed = ranks.swapped(
                part.sources, part.targets, ranks.spread(weights, backend.layers, latent, "rows")
            )
            drawn = backend.composed(
                part.pictures,
                backend.draw(backend.context(part.pictures), part.points, mixed),
            )
        row["as it is, cosine"], row["as it is"] = seen(mixed, part.pictures)
        row["from the code, cosine"], row["from the code"] = seen(
            completed(mixed, taken), part.pictures
        )
        shown = pictures_of(pixels_of(drawn))
        read = backend.invert(shown, part.points, steps=STEPS)
        row["from the picture, cosine"], row["from the picture"] = seen(
            completed(read, taken), shown
        )
        bench.keep(key, row)


def speed(bench: Bench) -> None:
    """Faces a second of detection, method, blending, judge and second look; reading excepted."""
    photos = [Picture(pixels=p, name=str(i)) for i, (p, *_) in enumerate(bench.people[:48])]
    for label, name, given in (
        ("latent", "styleid", {}),
        ("latent auto", "styleid", {"adapt": "auto"}),
        ("pixel", "styleid", {"variant": "pixel"}),
        *([("swapper", "styleid", {"variant": "swapper"})] if load.present("swapper") else []),
        ("newface", "newface", {}),
        ("pixelate", "pixelate", {}),
        ("solid", "solid", {}),
    ):
        key = f"speed {label}"
        if key in bench.figures:
            continue
        protector = Protector(options({"method": name, "settings": given, "seed": 1}))
        protector.protect(photos[:2])
        wall, cpu, faces, covered = time.perf_counter(), time.process_time(), 0, 0
        stages: dict[str, float] = {}
        for start in range(0, len(photos), 8):
            for result in protector.protect(photos[start : start + 8]):
                faces += len(result.faces)
                covered += sum("covered" in face.audit for face in result.faces)
                for stage, seconds in result.seconds.items():
                    stages[stage] = stages.get(stage, 0) + seconds
        spent = time.process_time() - cpu
        bench.keep(
            key,
            {
                "faces": faces,
                "faces/s of CPU time": round(faces / spent, 1),
                "faces/s": round(faces / (time.perf_counter() - wall), 1),
                "covered": covered,
                "method's share": round(stages.get("method", 0) / sum(stages.values()), 2),
            },
        )


def table(bench: Bench) -> None:
    """Print the Markdown of the page."""
    names = list(bench.judges)
    columns = [f"{n} {where}" for n in names for where in ("same", "other")]
    columns += [f"{one}, released" for one in columns if one != f"{JUDGE} same"]
    extra = [f"{n} same rank-1" for n in names]
    print(f"\n{len(bench.people)} people\n")
    heads = [*columns, *extra, "detected", "points", "d_id", "d_at", "share"]
    print(f"| | {' | '.join(heads)} |\n{'|---' * (len(heads) + 1)}|")
    for label in ("original", *conditions(), "pixelate", "solid"):
        if not (row := bench.figures.get(label)):
            continue
        cells = [
            f"{100 * row[h]:.1f} %"
            if h in (*columns, *extra, "detected") and h in row
            else f"{row[h]:.2f}"
            if h in row
            else ""
            for h in heads
        ]
        print(f"| {label} | {' | '.join(cells)} |")
    if "orders" in bench.figures:
        print(
            "\n| share by D | against | more d_id at equal d_at | 95 % | at equal share |\n|---|---|---|---|---|"
        )
        for name in ("random", "variance", "identity alone"):
            for share, gap, low, high, plain in bench.figures["orders"][name]:
                print(
                    f"| {share} | {name} | {gap:+.3f} | {low:+.3f} to {high:+.3f} | {plain:+.3f} |"
                )
    if "gates" in bench.figures:
        found = bench.figures["gates"]
        print(f"\nmean gates by row: {found['mean gates']}\n")
        print("| strength | " + " | ".join(f"{n}: d_id, d_at" for n in found["curves"]), end=" |")
        print(" d_at, less ranked channels' at equal d_id | less locked rows' |")
        print("|---" * (len(found["curves"]) + 3) + "|")
        for at, share in enumerate(FINE):
            cells = [f"{did[at]:.2f}, {dat[at]:.3f}" for did, dat in found["curves"].values()]
            for name in ("ranked channels", "locked rows"):
                if not at:
                    cells.append("")
                    continue
                _, gap, low, high, beyond = found[name][at - 1]
                cells.append(
                    "never so much" if beyond else f"{gap:+.3f} ({low:+.3f} to {high:+.3f})"
                )
            print(f"| {share} | {' | '.join(cells)} |")
    if "attack 0 rows" in bench.figures:
        print("\n| rows swapped | as it is | from the code | from the picture |\n|---|---|---|---|")
    for k in (0, 1, 3, 5, 7, 9):
        row = bench.figures.get(f"attack {k} rows")
        if row:
            cells = (
                f"{100 * row[n]:.0f} % ({row[f'{n}, cosine']:.2f})"
                for n in ("as it is", "from the code", "from the picture")
            )
            print(f"| {k} | {' | '.join(cells)} |")
    print()
    for key, value in bench.figures.items():
        if key.startswith("speed"):
            print(key, value)


def monotone(bench: Bench) -> None:
    """State whether privacy rises with strength: facts 6.4, a tolerance of 0.01 a step."""
    for variant in ("latent", "pixel", "swapper"):
        if f"{variant} 1.0" not in bench.figures:
            continue
        rows = [bench.figures[f"{variant} {share}"] for share in SHARES]
        for key, sign in (("d_id", 1), ("d_at", 1), ("sface same", -1), ("sface other", -1)):
            steps = sign * np.diff([row[key] for row in rows])
            print(
                f"{variant}: {key} monotone: {bool((steps >= -0.01).all())}, worst {steps.min():+.3f}"
            )


def plots(bench: Bench, folder: Path) -> None:
    """Write the ranking and the curves as pictures."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), constrained_layout=True)
    for axis, space in zip(axes[:2], ("rows", "regions"), strict=True):
        one = bench.ranking.spaces[space]
        at = np.arange(len(one.did))
        axis.bar(at - 0.2, one.did, 0.4, label="Did")
        axis.bar(at + 0.2, one.dat, 0.4, label="Dat")
        axis.plot(at, one.score / one.score.max(), "k.-", label="D, highest 1")
        axis.set_xticks(
            at, REGIONS if space == "regions" else at, rotation=30 * (space == "regions")
        )
        axis.set_title(space)
        axis.legend(fontsize=8)
    one, left = bench.ranking.spaces["channels"], 0
    for layer in bench.backend.layers:
        part = np.sort(one.score[layer.offset : layer.offset + layer.channels])[::-1]
        axes[2].plot(left + np.arange(len(part)), part)
        axes[2].text(left + len(part) / 2, part[0], str(layer.row), ha="center", fontsize=8)
        left += len(part)
    axes[2].set_title("D of the 1,536 channels of S, sorted within each row")
    figure.savefig(folder / "styleid-ranking.png", dpi=80)
    if "orders" in bench.figures and "pixel 0.9" in bench.figures:
        figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), constrained_layout=True)
        for name, (did, dat) in bench.figures["orders"]["curves"].items():
            axes[0].plot(dat, did, ".-", label=name)
        axes[0].set(xlabel="d_at: attributes changed", ylabel="d_id: identity changed")
        axes[0].legend(fontsize=8)
        for variant in ("latent", "pixel", "swapper"):
            if f"{variant} 1.0" not in bench.figures:
                continue
            rows = [bench.figures[f"{variant} {share}"] for share in SHARES]
            for name, style in zip(bench.judges, ("-", "--"), strict=False):
                axes[1].plot(
                    SHARES,
                    [100 * row[f"{name} same"] for row in rows],
                    style,
                    label=f"{variant}, {name}, same photo",
                )
        axes[1].set(xlabel="strength", ylabel="recognised at FAR 1e-3, %")
        axes[1].legend(fontsize=8)
        figure.savefig(folder / "styleid-curves.png", dpi=80)


def borrow(path: Path) -> None:
    """Open this file where the catalogue's swapper is asked for."""
    content = path.read_bytes()
    mine = replace(
        load.entry("swapper"),
        file=str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
    )
    entries = MappingProxyType({**load.catalogue(), "swapper": mine})
    load.catalogue = lambda: entries  # type: ignore[assignment]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--facenet", action="store_true", help="the catalogue's facenet, if found")
    parser.add_argument("--attacked", type=int, default=24, help="people of the inversion attack")
    parser.add_argument("--seeds", type=int, default=10, help="random orders")
    parser.add_argument("--conditions", default="", help="of the curves, with ; between; all")
    parser.add_argument("--only", default="curves,orders,gates,attacks,speed")
    parser.add_argument("--swapper", type=Path, help="a swapper that the catalogue does not have")
    parser.add_argument("--plots", type=Path, help="folder for the plots")
    given = parser.parse_args()
    if given.swapper:
        borrow(given.swapper.resolve())
    bench = Bench(given)
    for name in given.only.split(","):
        {
            "curves": lambda b: curves(b, given.conditions),
            "orders": lambda b: orders(b, given.seeds),
            "gates": gates,
            "attacks": lambda b: attacks(b, min(given.attacked, len(b.people))),
            "speed": speed,
            "": lambda _: None,
        }[name](bench)
    table(bench)
    if all(f"{v} {share}" in bench.figures for v in ("latent", "pixel") for share in SHARES):
        monotone(bench)
    if given.plots:
        plots(bench, given.plots)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
