"""Which pixels a face owns: an ellipse that follows the five points, joined with one about the box.

The ellipse is larger than the face looks, because jaw line, forehead and the front of the ears
identify too: at scale 1.0 of design section 4 the owner of the surroundings is still recognised in
31 % of photos, at 1.5 in 0.4 %. The second ellipse holds the whole box: profiles, whose points lie
close together, and boxes drawn by hand are covered by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moretta.faces.crop import Bounds, apply, inverse, scale_of, to_template

if TYPE_CHECKING:
    import numpy.typing as npt

    from moretta.records import Alpha, Face, Matrix, Points

#: Of the ellipse, on the tight template; `crop.DRAWN_CENTRE` on the wide one.
CENTRE = (0.5, 0.5204)
SEMI_AXES = (0.415, 0.47)  # in tight sides, at scale 1
FEATHER = 0.08  # of the semi-axes, outwards: inside it every pixel is fully replaced
BOX_AT = 1.5  # the scale at which the second ellipse passes through the box's corners
VIEW_MARGIN = 0.03  # of the view's side, and VIEW_PIXELS more: what resampling reaches
VIEW_PIXELS = 1.5


def cover(
    face: Face, shape: tuple[int, ...], *, scale: float = 1.5, fills_view: bool = False
) -> tuple[Alpha, Bounds]:
    """Return the mask of one face and its place in the photo.

    shape: the photo's (height, width, ...). scale: of the ellipse; 1 is brow to chin. fills_view:
    cover a block that holds the ellipse, the box and all that a recogniser's crop (ArcFace's
    template) shows, so that a method that paints leaves nothing to compare.
    Returns alpha (h, w) float32, 1 on every pixel whose centre lies in the mask, falling to 0 over
    the feather outside it, and the window's bounds (left, top, right, bottom), which are
    clipped to the photo: an edge pixel is covered like any other.
    """
    tight = to_template(face, "tight", 1)
    axes = np.array(SEMI_AXES) * scale
    if fills_view:
        block = _block(face, tight, axes)
        corners = np.array([[-1.0, -1], [1, -1], [-1, 1], [1, 1]]) * (1 + FEATHER)
        bounds = _window(apply(inverse(block), corners), shape)
        radius = _radius(block, bounds, square=True)
    else:
        box = face.box
        middle = np.array([(box.left + box.right) / 2, (box.top + box.bottom) / 2])
        half = np.maximum(np.array([box.width, box.height]) / 2, 0.5)
        box_axes = half * np.sqrt(2) * scale / BOX_AT
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        circle = np.column_stack([np.cos(angle), np.sin(angle)]) * (1 + FEATHER)
        rims = [apply(inverse(tight), np.array(CENTRE) + circle * axes), middle + circle * box_axes]
        bounds = _window(np.concatenate(rims), shape)
        by_box = np.column_stack([np.eye(2), -middle]) / box_axes[:, None]
        radius = np.minimum(_radius(_centred(tight, axes), bounds), _radius(by_box, bounds))
    return np.clip((1 + FEATHER - radius) / FEATHER, 0, 1), bounds


def redraw(
    face: Face, shape: tuple[int, ...], *, scale: float = 1.45, feather: float = 0.14
) -> tuple[Alpha, Bounds]:
    """Return the mask for a face drawn on the wide template: the ellipse alone, feather inside it.

    Shapes as in `cover`. The drawn crop reaches no further than the ellipse (design section 4).
    feather: of the semi-axes.
    """
    tight = to_template(face, "tight", 1)
    axes = np.array(SEMI_AXES) * scale
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    rim = np.array(CENTRE) + np.column_stack([np.cos(angle), np.sin(angle)]) * axes
    bounds = _window(apply(inverse(tight), rim), shape)
    ramp = np.clip((1 - _radius(_centred(tight, axes), bounds)) / feather, 0, 1)
    return ramp * ramp * (3 - 2 * ramp), bounds


def depth(face: Face, bounds: Bounds, *, scale: float = 1.45) -> Alpha:
    """How far each pixel of a window lies from the face's middle: 0 there, 1 on the redrawn rim."""
    tight = to_template(face, "tight", 1)
    return _radius(_centred(tight, np.array(SEMI_AXES) * scale), bounds)


def stretch(face: Face, *, scale: float = 1.45, feather: float = 0.14) -> float:
    """How much larger the redrawn ellipse must be to hold the face's box, 1 or more.

    Profiles and tilted heads have points that lie close together, and an ellipse after them alone
    would leave part of the face. What must be held is the ellipse inscribed in the box, with the
    feather's outer half not counted.
    """
    box = face.box
    middle = np.array([(box.left + box.right) / 2, (box.top + box.bottom) / 2])
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    rim = np.column_stack([np.cos(angle) * box.width, np.sin(angle) * box.height]) / 2 + middle
    inside = apply(to_template(face, "tight", 1), rim) - CENTRE
    radius = np.linalg.norm(inside / (np.array(SEMI_AXES) * scale), axis=1)
    return max(1.0, float(radius.max()) / (1 - feather / 2))


def tight_side(face: Face) -> float:
    """Side of the tight crop in photo pixels: the unit in which methods measure a face."""
    by_points = 1 / scale_of(to_template(face, "tight", 1))
    return max(by_points, face.box.side / 0.95)


def _block(face: Face, tight: Matrix, axes: npt.NDArray[np.float64]) -> Matrix:
    """Return the matrix from photo pixels to the square -1..1 that stands for the whole block.

    The block is a rectangle that turns with the face and holds the ellipse, the box and the crop on
    ArcFace's template, with a margin for what resampling reaches.
    """
    low, high = -VIEW_MARGIN, 1 + VIEW_MARGIN
    corners = np.array([[low, low], [high, low], [low, high], [high, high]])
    seen = apply(tight, apply(inverse(to_template(face, "arcface", 1)), corners))
    margin = VIEW_PIXELS * scale_of(tight)
    box = face.box
    sides = np.array([(x, y) for x in (box.left, box.right) for y in (box.top, box.bottom)])
    held = np.concatenate([seen, apply(tight, sides), [CENTRE - axes, CENTRE + axes]])
    first, last = held.min(0) - margin, held.max(0) + margin
    centred = np.column_stack([tight[:, :2], tight[:, 2] - (first + last) / 2])
    block: Matrix = centred / ((last - first) / 2)[:, None]
    return block


def _centred(tight: Matrix, axes: npt.NDArray[np.float64]) -> Matrix:
    """Return the matrix from photo pixels to the ellipse's own circle of radius 1."""
    shifted = np.column_stack([tight[:, :2], tight[:, 2] - CENTRE])
    circle: Matrix = shifted / axes[:, None]
    return circle


def _radius(to_circle: Matrix, bounds: Bounds, *, square: bool = False) -> Alpha:
    """Distance from the centre of every pixel centre in the window, 1 on the rim; float32."""
    left, top, right, bottom = bounds
    x = (np.arange(left, right) + 0.5)[None, :]
    y = (np.arange(top, bottom) + 0.5)[:, None]
    (a, b, c), (d, e, f) = to_circle
    u = (a * x + c).astype(np.float32) + (b * y).astype(np.float32)
    v = (d * x + f).astype(np.float32) + (e * y).astype(np.float32)
    radius: Alpha = np.maximum(abs(u), abs(v)) if square else np.sqrt(u * u + v * v)
    return radius


def _window(rim: Points, shape: tuple[int, ...]) -> Bounds:
    height, width = shape[:2]
    low = np.clip(np.floor(rim.min(0)) - 1, 0, [width, height]).astype(int)
    high = np.clip(np.ceil(rim.max(0)) + 1, 0, [width, height]).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
