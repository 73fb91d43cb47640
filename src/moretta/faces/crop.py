"""The crop geometry: five points to a template and back, one similarity for everything.

Templates are in units of the crop's side (design section 4). Align and paste are inverses, so they
stand in one file: what `cut` takes out with a matrix, `paste` puts back with the same matrix.

Sources  Umeyama 1991 (least-squares similarity); ArcFace's 112 px template (Deng et al. 2019).
Checked  tests/faces/test_crop.py: a linear solve, the round trip, one grey level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from moretta.records import Box, Crop, Face

if TYPE_CHECKING:
    from moretta.records import Alpha, Matrix, Pixels, Points

#: Eyes, nose, mouth corners on the tight template: brow to chin.
TIGHT: Points = np.array(
    [[0.308, 0.282], [0.692, 0.282], [0.500, 0.511], [0.338, 0.675], [0.662, 0.675]]
)
DRAWN_CENTRE = (0.5, 0.512)  # of the ellipse that is drawn anew, on the wide template
WIDE_SIDE = 1.7  # the wide crop's side in tight sides
#: The same points on the wide template: hair, ears, neck and some background are in it.
WIDE: Points = (TIGHT - 0.5) / WIDE_SIDE + 0.5
#: ArcFace's template at 112 px, shifted to pixel centres at .5 and divided by the side.
ARCFACE: Points = (
    np.array(
        [
            [38.2946, 51.6963],
            [73.5318, 51.5014],
            [56.0252, 71.7366],
            [41.5493, 92.3655],
            [70.7299, 92.2041],
        ]
    )
    + 0.5
) / 112
#: FaceNet's crop, a detector's box with a margin: scale and centre were chosen on 130 people who are
#: in no evaluation (`benchmarks/facenet_crop.py`).
FACENET: Points = (TIGHT - [0.5, 0.38]) / 1.15 + 0.5
#: dlib's chip of 150 px, as `networks.recogniser.CHIP_POINTS` derives it from dlib's own template.
DLIB: Points = (
    np.array(
        [
            [47.7335, 47.1315],
            [100.2815, 47.1315],
            [74.0075, 78.4687],
            [51.8388, 100.9111],
            [96.1762, 100.9111],
        ]
    )
    / 150
)
TEMPLATES: dict[str, Points] = {
    "tight": TIGHT,
    "wide": WIDE,
    "arcface": ARCFACE,
    "facenet": FACENET,
    "dlib": DLIB,
}

#: Where YuNet draws its box on the tight template: median over 3,138 LFW photos of the
#: evaluation pack (centre and size in tight sides); `benchmarks/judge_thresholds.py`.
BOX_CENTRE = (0.500, 0.427)
BOX_SIZE = (0.824, 1.078)


def similarity(points: Points, template: Points) -> Matrix:
    """Least-squares rotation, scale and shift that takes `points` onto `template`.

    points, template: (N, 2) float64, x right and y down. Returns (2, 3) float64. Never mirrors.
    Raises ValueError if all points coincide or are not finite.
    Source: Umeyama 1991, eqs. 38-43, in its closed form for the plane.
    """
    if not (np.isfinite(points).all() and np.isfinite(template).all()):
        raise ValueError("points must be finite")
    mean, goal = points.mean(0), template.mean(0)
    a, b = points - mean, template - goal
    spread = float((a**2).sum())
    if spread <= 1e-12:
        raise ValueError("all points coincide")
    cosine = float((a * b).sum()) / spread
    sine = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / spread
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([turn, goal - turn @ mean])


def inverse(matrix: Matrix) -> Matrix:
    """Return the (2, 3) matrix that undoes `matrix`."""
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def apply(matrix: Matrix, points: Points) -> Points:
    """Map (N, 2) points with a (2, 3) matrix."""
    mapped: Points = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped


def scale_of(matrix: Matrix) -> float:
    """Length of one unit after `matrix`."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def points_of_box(box: Box) -> Points:
    """Five points where an upright frontal face would have them, for a box drawn by hand.

    Returns (5, 2) in the box's pixels.
    """
    size = np.array([box.width / BOX_SIZE[0], box.height / BOX_SIZE[1]])
    centre = np.array([(box.left + box.right) / 2, (box.top + box.bottom) / 2])
    points: Points = centre + (TIGHT - np.array(BOX_CENTRE)) * size
    return points


def to_template(face: Face, template: str, side: int) -> Matrix:
    """Return the matrix from photo pixels to a crop of `side` pixels on a named template.

    Points that cannot be right are replaced by those of the box: see `points_fit`.
    """
    goal = TEMPLATES[template] * side
    points = face.points if points_fit(face) else points_of_box(face.box)
    return similarity(points, goal)


def points_fit(face: Face) -> bool:
    """Whether the five points can belong to the box: their middle in it, their size like its own.

    A face cut by the border has points outside its box, so a quarter of the box is allowed on each
    side, and a factor of 3 in size either way.
    """
    try:
        scale = scale_of(similarity(face.points, TIGHT))
    except ValueError:
        return False
    box = face.box
    middle = face.points.mean(0) - [(box.left + box.right) / 2, (box.top + box.bottom) / 2]
    near = bool((np.abs(middle) <= 0.75 * np.array([box.width, box.height])).all())
    ratio = 1 / max(scale * box.side, 1e-9)
    return near and 1 / 3 < ratio < 3


def points_in(crop: Crop) -> Points:
    """Return a wide crop's five points in units of its side, (5, 2); the template's if they do not fit."""
    if not points_fit(crop.face):
        return WIDE
    inside: Points = apply(crop.matrix, crop.face.points) / crop.pixels.shape[0]
    return inside


def warp(
    photo: Pixels, matrix: Matrix, side: int, *, border: Literal["mirror", "edge"] = "mirror"
) -> Pixels:
    """Draw the (side, side, 3) crop that `matrix` (photo to crop) defines.

    border: what stands beyond the photo: its mirror image, or its last row and column again.
    When the photo is shrunk it is averaged first, so that no detail folds over into the crop.
    """
    scale = scale_of(matrix)
    corners = apply(inverse(matrix), np.array([[0.0, 0], [side, 0], [0, side], [side, side]]))
    margin = 2 + np.ceil(2 / scale)
    height, width = photo.shape[:2]
    low = np.clip(np.floor(corners.min(0) - margin), 0, [width - 1, height - 1]).astype(int)
    high = np.clip(np.ceil(corners.max(0) + margin), low + 1, [width, height]).astype(int)
    part: Any = photo[low[1] : high[1], low[0] : high[0]]
    shift = np.array([[1.0, 0, -low[0]], [0, 1, -low[1]]])
    if scale < 0.5:
        size = np.maximum(np.round((high - low) * scale * 1.25), 1).astype(int)
        part = cv2.resize(part, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA)
        shift = np.diag(size / (high - low)) @ shift
    local = matrix[:, :2] @ np.linalg.inv(shift[:, :2])
    local = np.column_stack([local, matrix[:, 2] - local @ shift[:, 2]])
    drawn: Any = cv2.warpAffine(
        part,
        _to_cv2(local),
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101 if border == "mirror" else cv2.BORDER_REPLICATE,
    )
    return drawn  # type: ignore[no-any-return]


def cut(
    photo: Pixels,
    face: Face,
    mask: Alpha,
    bounds: Bounds,
    *,
    seed: int,
    identity: int | None = None,
) -> Crop:
    """Return the photo's own pixels under `mask`: a window, nothing resampled.

    mask: (height, width) of the window; bounds: its place in the photo, as `mask.cover` gives them.
    seed, identity: as in `Crop`.
    """
    left, top, right, bottom = bounds
    return Crop(
        pixels=photo[top:bottom, left:right].copy(),
        mask=mask,
        matrix=np.array([[1.0, 0, -left], [0, 1, -top]]),
        face=face,
        seed=seed,
        identity=identity,
    )


def align(
    photo: Pixels,
    face: Face,
    mask: Alpha,
    *,
    template: str,
    side: int,
    seed: int,
    identity: int | None = None,
    stretch: float = 1.0,
) -> Crop:
    """Return the face on a template, (side, side, 3), for methods that redraw it.

    stretch: how many times more of the photo the crop shows, about the middle of the drawn ellipse
    (see `mask.stretch`).
    """
    matrix = to_template(face, template, side)
    middle = np.array(DRAWN_CENTRE) * side
    matrix = np.column_stack([matrix[:, :2], matrix[:, 2] - middle]) / stretch
    matrix = np.column_stack([matrix[:, :2], matrix[:, 2] + middle])
    return Crop(
        pixels=warp(photo, matrix, side),
        mask=mask,
        matrix=matrix,
        face=face,
        seed=seed,
        identity=identity,
    )


def paste(
    canvas: Pixels,
    edited: Pixels,
    crop: Crop,
    alpha: Alpha,
    bounds: Bounds,
    *,
    match_colour: bool = False,
) -> None:
    """Blend `edited` into `canvas` in place: canvas * (1 - alpha) + edited * alpha.

    alpha: (height, width) of the window `bounds` in the canvas. Pixels with alpha 0 are not touched.
    match_colour shifts the edit by the mean difference in the ring around the mask's core.
    """
    left, top, right, bottom = bounds
    if right <= left or bottom <= top:
        return
    target = canvas[top:bottom, left:right]
    drawn: Any
    if np.array_equal(crop.matrix, np.array([[1.0, 0, -left], [0, 1, -top]])):
        drawn = edited
    else:
        shift = np.array([[1.0, 0, left], [0, 1, top]])  # window to photo
        to_crop = np.column_stack(
            [crop.matrix[:, :2], crop.matrix[:, :2] @ shift[:, 2] + crop.matrix[:, 2]]
        )
        drawn = cv2.warpAffine(
            edited,
            _to_cv2(to_crop),
            (right - left, bottom - top),
            flags=(cv2.INTER_CUBIC if scale_of(to_crop) < 1 else cv2.INTER_AREA)
            | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    if match_colour:
        drawn = _matched(drawn, target, alpha)
    full = alpha >= 1
    ring = (alpha > 0) & ~full
    if ring.any():
        weight = alpha[ring][:, None]
        mixed = target[ring] * (1 - weight) + drawn[ring] * weight
        target[ring] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    target[full] = drawn[full]


def _matched(drawn: Pixels, target: Pixels, alpha: Alpha) -> Pixels:
    ring = (alpha > 0.02) & (alpha < 0.98)
    if ring.sum() < 16:
        return drawn
    shift = np.median(target[ring].astype(np.float32) - drawn[ring], axis=0)
    shift = np.clip(shift, -24, 24)
    moved: Pixels = np.clip(np.rint(drawn + shift), 0, 255).astype(np.uint8)
    return moved


def _to_cv2(matrix: Matrix) -> Matrix:
    """From pixel centres at .5 to OpenCV's, which lie at whole numbers."""
    half = np.array([0.5, 0.5])
    return np.column_stack([matrix[:, :2], matrix[:, :2] @ half + matrix[:, 2] - half])


Bounds = tuple[int, int, int, int]  # left, top, right, bottom: whole pixels, half-open
