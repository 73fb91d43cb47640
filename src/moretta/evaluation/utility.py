"""What the released photos are still good for: can faces be found in them, do points and pixels hold?

Promise   a face that is not found in the released photo counts as wrong, never as missing; every
          figure has its definition, its network and its interval over people beside it.
Sources   evaluation.md 7; Wang et al. 2004 (SSIM); Binkowski et al. 2018 (KID).
Checked   tests/evaluation/test_utility.py: scikit-image and slow sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moretta.evaluation import attributes, faces, ladder, verification
from moretta.evaluation.attributes import rounded
from moretta.evaluation.report.schema import UtilityPart
from moretta.evaluation.splits import derived_seed
from moretta.faces.detect import yunet
from moretta.faces.steady import held

if TYPE_CHECKING:
    import numpy.typing as npt

    from moretta.evaluation.embed import Cache
    from moretta.records import Pixels

    Floats = npt.NDArray[np.float64]

SAMPLE = 300  # faces that are looked at, of parts V and E
DETECTORS = ("yunet", "centerface")
FOUND = 0.5  # overlap with the clear photo's box from which a face counts as found
BEST_PSNR = 100.0  # dB, given to equal pixels
SUBSETS, SUBSET = 100, 1000  # of KID

NOT_MEASURED = (
    "gaze: no network in the catalogue",
    "LPIPS, FID: their networks are not to be had here",
)


def ssim_map(first: Pixels, second: Pixels) -> Floats:
    """Return the structural similarity around every pixel, (height, width), mean of the channels.

    Gaussian window of sigma 1.5, population covariance, range 255: as in the original paper.
    """
    from scipy.ndimage import gaussian_filter

    a, b = first.astype(np.float64), second.astype(np.float64)

    def blurred(x: Floats) -> Any:
        return gaussian_filter(x, (1.5, 1.5, 0), truncate=3.5)

    mean_a, mean_b = blurred(a), blurred(b)
    var_a = blurred(a * a) - mean_a**2
    var_b = blurred(b * b) - mean_b**2
    both = blurred(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found: Floats = (
        (2 * mean_a * mean_b + c1)
        * (2 * both + c2)
        / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    )
    mean: Floats = found.mean(2)
    return mean


def psnr(first: Pixels, second: Pixels, where: npt.NDArray[np.bool_]) -> float:
    """Return the peak signal-to-noise ratio over the pixels of `where`, in dB, at most BEST_PSNR."""
    difference = first[where].astype(np.float64) - second[where]
    square = float((difference**2).mean()) if difference.size else 0.0
    if square == 0:
        return BEST_PSNR
    return min(BEST_PSNR, 10 * float(np.log10(255**2 / square)))


def point_error(found: Floats, wanted: Floats) -> float:
    """Return the mean distance of five points in shares of the distance between the wanted eyes."""
    between = max(float(np.linalg.norm(wanted[1] - wanted[0])), 1e-9)
    return float(np.linalg.norm(found - wanted, axis=1).mean()) / between


def kid(first: Floats, second: Floats, *, seed: int) -> tuple[float, float]:
    """Return the kernel distance of two sets of features and its spread over subsets.

    Unbiased squared MMD under k(x, y) = (x . y / length + 1)^3, over SUBSETS draws of at most SUBSET.
    """
    rng = np.random.default_rng(seed)
    size = min(SUBSET, len(first), len(second))
    if size < 2:
        return float("nan"), float("nan")
    full = size == len(first) == len(second)
    values = []
    for _ in range(1 if full else SUBSETS):
        x = first if full else first[rng.choice(len(first), size, replace=False)]
        y = second if full else second[rng.choice(len(second), size, replace=False)]
        values.append(squared_distance(x, y))
    return float(np.mean(values)), float(np.std(values))


def squared_distance(x: Floats, y: Floats) -> float:
    """Return the unbiased squared MMD of two sets of features, (n, length) and (m, length)."""
    length = x.shape[1]
    xx, yy = (x @ x.T / length + 1) ** 3, (y @ y.T / length + 1) ** 3
    xy = (x @ y.T / length + 1) ** 3
    n, m = len(x), len(y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def collapse(anon: Floats, people: npt.NDArray[np.int64], limit: float) -> float:
    """Return the share of released pairs of different people that look like one person."""
    scores = anon @ anon.T
    different = people[:, None] != people[None]
    return verification.rate_above(scores[different], limit)


def utility(
    found: Sequence[faces.Sample],
    where: ladder.Layout,
    cache: Cache,
    spaces: Mapping[str, tuple[Floats, Floats]],
    *,
    seed: int,
    stages: Mapping[str, tuple[Floats, Floats]] | None = None,
) -> tuple[list[UtilityPart], list[str]]:
    """Return every figure that can be measured here, and what cannot be.

    spaces: recogniser -> unit vectors of clear and released faces, (n, length) each. stages: further
    features for KID, of the faces of E alone, on their own scale.
    """
    rows = np.concatenate([where.rows("E"), where.rows("V")])[:SAMPLE]
    chosen = [found[int(i)] for i in rows]
    people = where.people[rows]

    def part(
        name: str,
        group: str,
        values: Floats | Sequence[float],
        *,
        unit: str,
        net: str,
        definition: str,
        ceiling: float | None,
        scale: float = 1.0,
    ) -> UtilityPart:
        exact = np.asarray(values, np.float64)
        return attributes.over_everybody(
            name, exact, people, net, definition, unit, ceiling, scale, seed, group
        )

    parts: list[UtilityPart] = []
    looks = {name: faces.Finder(name, cache) for name in DETECTORS}
    look = yunet.build("cpu", 1)
    measured: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        measured.setdefault(name, []).append(value)

    for sample, clear, anon in faces.photos(chosen):
        key = faces.content_key(anon)
        for name, finder in looks.items():
            turned = not faces.upright(sample.clear)
            before = finder.find(clear, sample.key, turned=turned or name == "yunet")
            after = finder.find(anon, key, turned=turned)
            own = faces.same_face(before, sample.clear)
            again = max((face.box.overlap(own.box) for face in after) if own else (), default=0.0)
            add(f"found {name}", float(again >= FOUND))
            add(f"own {name}", float(own is not None))
            add(f"overlap {name}", again)
            add(f"count {name}", float(len(before) == len(after)))
        error = 1.0
        if sample.anon is not None:
            wanted = held(clear, sample.clear, look).points
            error = min(1.0, point_error(held(anon, sample.anon, look).points, wanted))
        add("points", error)
        area = faces.changed_area(clear, anon, sample.clear)
        similar = ssim_map(clear, anon)
        outside = ~_grown(area)
        add("ssim inside", float(similar[area].mean()) if area.any() else 1.0)
        add("ssim outside", float(similar[outside].mean()) if outside.any() else 1.0)
        add("psnr inside", psnr(clear, anon, area))
        add("psnr outside", psnr(clear, anon, outside))

    for name in DETECTORS:
        parts.append(
            part(
                f"faces found by {name}",
                "detection",
                measured[f"found {name}"],
                unit="share",
                net=name,
                ceiling=rounded(float(np.mean(measured[f"own {name}"]))),
                definition=f"overlap with the same detector's box on the clear photo of {FOUND} or more",
            )
        )
        parts.append(
            part(
                f"box overlap, {name}",
                "detection",
                measured[f"overlap {name}"],
                unit="share",
                net=name,
                ceiling=1.0,
                definition="intersection over union with the box on the clear photo, 0 if not found",
            )
        )
        parts.append(
            part(
                f"number of faces kept, {name}",
                "detection",
                measured[f"count {name}"],
                unit="share",
                net=name,
                ceiling=1.0,
                definition="photos with as many faces as before",
            )
        )
    parts.append(
        part(
            "five-point error",
            "geometry",
            measured["points"],
            unit="of the distance between the eyes",
            net="yunet",
            ceiling=0.0,
            definition="mean distance to the clear photo's points, both averaged over eight views; "
            "1 where no face is found",
        )
    )
    for side in ("inside", "outside"):
        parts.append(
            part(
                f"SSIM {side} the changed area",
                "pixels",
                measured[f"ssim {side}"],
                unit="",
                net="",
                ceiling=1.0,
                definition="structural similarity, Gaussian window; inside it is no aim: a high "
                "value there can mean that the face was kept",
            )
        )
        parts.append(
            part(
                f"PSNR {side} the changed area",
                "pixels",
                measured[f"psnr {side}"],
                unit="dB",
                net="",
                ceiling=BEST_PSNR,
                scale=BEST_PSNR,
                definition=f"against the clear photo; equal pixels count as {BEST_PSNR:g} dB",
            )
        )
    kept, absent = attributes.agreement(chosen, people, cache, seed=seed)
    parts += [*kept, *_by_network(where, spaces, seed), *_by_stage(stages or {}, seed)]
    return parts, [*NOT_MEASURED, *absent]


def _by_network(
    where: ladder.Layout, spaces: Mapping[str, tuple[Floats, Floats]], seed: int
) -> list[UtilityPart]:
    """Return KID and identity collapse in each recogniser's space."""
    parts = []
    rows, validation = where.rows("E"), where.rows("V")
    for name, (clear, anon) in spaces.items():
        length = clear.shape[1]
        size = length**0.5
        parts.append(
            _distance(
                f"vectors of {name}",
                clear[rows] * size,
                anon[rows] * size,
                seed=derived_seed(seed, "kid", name),
                net=name,
                definition="kernel distance of released and clear faces in this recogniser's unit "
                "vectors times the root of their length; the ceiling compares two halves of the "
                "clear ones, which are other photos of the same people",
            )
        )
        scores = clear[validation] @ clear[validation].T
        _, impostor, _ = ladder.comparisons(scores, where.people[validation], same=False)
        if verification.reportable(len(impostor), 1e-3):
            limit = verification.threshold(impostor, 1e-3)
            parts.append(
                UtilityPart(
                    name=f"identity collapse, {name}",
                    group="diversity",
                    value=rounded(collapse(anon[rows], where.people[rows], limit)),
                    lo=None,
                    hi=None,
                    ceiling=rounded(collapse(clear[rows], where.people[rows], limit)),
                    unit="share",
                    n=len(rows),
                    net=name,
                    definition="released pairs of different people above the cosine that one in a "
                    "thousand clear pairs of part V exceeds",
                )
            )
    return parts


def _by_stage(stages: Mapping[str, tuple[Floats, Floats]], seed: int) -> list[UtilityPart]:
    """Return KID in spaces that are no recogniser's; each number at unit deviation on clear faces."""
    parts = []
    for name, (clear, anon) in stages.items():
        scale = np.maximum(clear.std(0), 1e-9)
        first, second = ((each - clear.mean(0)) / scale for each in (clear, anon))
        parts.append(
            _distance(
                name,
                first,
                second,
                seed=derived_seed(seed, "kid", name),
                net="dlib",
                definition="kernel distance of released and clear faces in the means over positions of "
                "three stages of dlib's network, each at mean 0 and deviation 1 on the clear ones",
            )
        )
    return parts


def _distance(
    name: str, clear: Floats, anon: Floats, *, seed: int, net: str, definition: str
) -> UtilityPart:
    distance, spread = kid(clear, anon, seed=seed)
    halves, _ = kid(clear[::2], clear[1::2], seed=seed)
    return UtilityPart(
        name=f"KID, {name}",
        group="realism",
        value=rounded(distance),
        lo=rounded(distance - 2 * spread) if spread else None,
        hi=rounded(distance + 2 * spread) if spread else None,
        ceiling=rounded(halves),
        unit="",
        n=len(clear),
        net=net,
        definition=definition,
    )


def _grown(area: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the area and what the window of SSIM reaches around it."""
    import cv2

    kernel: Any = np.ones((11, 11), np.uint8)
    grown: Any = cv2.dilate(area.astype(np.uint8), kernel)
    wide: npt.NDArray[np.bool_] = grown > 0
    return wide
