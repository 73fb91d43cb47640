"""Search a whole photo with any detector: pyramid, tiles, turns, and one list in the end.

A detector sees faces between about 10 px and `largest` px at the scale it is given (opencv_zoo#31).
So a photo is looked at in full, then at a quarter of its side, and so on until a face that fills
it fits; levels above 4 MP go in tiles, so memory does not grow with the photo. A face too large
for the overlap of two tiles is found one level down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from moretta.records import Box, Face

if TYPE_CHECKING:
    from moretta.records import Pixels

Floats = npt.NDArray[np.float64]
VERSION = 1  # raised with every change, here or in a detector, that changes finds: caches go by it
TILE = 2048
OVERLAP = 192
SMALLEST = 10  # px of a face that a detector can see
QUICK = 192  # px of the longer side at which turned photos are looked at by default
MARGIN = 64  # px of mirror that are put around a photo
BAND = 96  # px of the photo along its border that are shown with the mirror
SURE = 0.7  # score that a find in a turned photo, or in a mirrored small one, needs
SURE_ABOVE = 0.8  # the same with the mirror above or below: chests and hair look like faces
SAME = 0.4  # intersection over union above which two finds are one face
TAKEN = 0.5  # of a box, from which it may be a part of a surer face
CLOSE = 3.0  # sides of an unsure find, from its middle each way, that are shown to another detector
CLOSE_SIDES = (24, 96)  # px, least and most, that such a find has in that view
AGREE = 0.2  # intersection over union from which two unlike detectors saw one face
WITHIN = 0.8  # share of one find in another of like size, from which two looks saw one face


@dataclass(frozen=True, slots=True)
class Found:
    """Raw finds: boxes (n, 4) left, top, right, bottom; points (n, 5, 2); scores (n,)."""

    boxes: Floats
    points: Floats
    scores: Floats

    @classmethod
    def joined(cls, parts: Sequence[Found]) -> Found:
        """Return all parts as one."""
        if not parts:
            return cls(np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0))
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.points for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )

    def moved(self, scale: tuple[float, float], shift: tuple[float, float]) -> Found:
        """Return the finds in the coordinates of the whole photo: p -> (p + shift) / scale."""
        by, to = np.array(scale), np.array(shift)
        return Found(
            (self.boxes + np.tile(to, 2)) / np.tile(by, 2), (self.points + to) / by, self.scores
        )

    def kept(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Found:
        """Return some of the finds."""
        return Found(self.boxes[index], self.points[index], self.scores[index])


Look = Callable[["Pixels", float], Found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A detector: how it is built and what it can see. One file, one line in the list."""

    name: str
    summary: str
    build: Callable[[str, int], Look]  # (device, threads)
    least_score: float  # default threshold, on the detector's own scale
    largest: int  # px of the largest face it sees reliably at one scale
    networks: tuple[str, ...] = ()  # names in the weights' catalogue
    unsure_from: float | None = None  # least score of a find that is worth asking another detector
    sure_if_larger: float = (
        0.0  # score from which a find above `largest` counts whatever it lies with
    )
    quick: bool = False  # it takes the looks at turned photos and at the border, if it is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Eye:
    """A detector that has been built, with the threshold to use."""

    detector: Detector
    look: Look
    least_score: float


def find_faces(
    photo: Pixels,
    eyes: Sequence[Eye],
    *,
    min_face: float = 12,
    thorough: bool = False,
    fallback: Callable[[], Sequence[Eye]] | None = None,
    quick: bool = True,
) -> list[Face]:
    """Return every face that any of `eyes` sees, best first.

    photo: (height, width, 3) RGB, upright. min_face: smaller faces are not looked for, in pixels.
    thorough: also look at the photo turned by 90, 180 and 270 degrees, and at twice its size for
    faces below 16 px. Without it the turns are looked at in full, and the `fallback` detectors (built
    then) shown the whole photo, only when nothing is found. What one of `eyes` is unsure of is shown to
    the other ones and to the `fallback` detectors in any case: see `confirmed`. fallback: detectors
    that are not in `eyes`; without it nobody is asked twice. quick: see `with_quick_looks`.
    """
    found: list[tuple[Eye, Found]] = []
    more: list[tuple[Eye, Found]] = []
    unsure: list[tuple[Eye, Found]] = []
    for eye in eyes:
        shy = replace(eye, least_score=_least(eye, fallback))
        looks = [(found, look_at(photo, shy, 0, min_face))]
        if thorough:
            looks += [(more, look_at(photo, shy, i, min_face, double=True)) for i in range(4)]
        for kind, finds in looks:
            sure = finds.scores >= eye.least_score
            kind.append((eye, finds.kept(sure)))
            unsure.append((eye, finds.kept(~sure)))
    faces = one_list(found, photo.shape, min_face)
    faces = _with_more(faces, one_list(more, photo.shape, min_face), share=TAKEN, same=_overlapping)
    if quick:
        first = next((eye for eye in eyes if eye.detector.quick), eyes[0])
        cut, perhaps = look_at_border(photo, first, min_face, _least(first, fallback))
        unsure.append((first, perhaps))
        faces = with_quick_looks(photo, first, faces, cut, min_face)
    if not faces and quick:
        tries = [(eye, 0) for eye in fallback()] if fallback else []
        tries += [] if thorough else [(eye, turns) for turns in (1, 3, 2) for eye in eyes]
        for eye, turns in tries:
            faces = one_list([(eye, look_at(photo, eye, turns, min_face))], photo.shape, min_face)
            if faces:
                break
    if fallback:
        faces = faces + confirmed(photo, unsure, faces, lambda: [*eyes, *fallback()], min_face)
    return faces


def _least(eye: Eye, fallback: object) -> float:
    """The score from which a find is kept, if only to ask the `fallback` about it."""
    unsure = eye.detector.unsure_from if fallback else None
    return eye.least_score if unsure is None else min(eye.least_score, unsure)


def confirmed(
    photo: Pixels,
    unsure: Sequence[tuple[Eye, Found]],
    known: Sequence[Face],
    everybody: Callable[[], Sequence[Eye]],
    min_face: float,
) -> list[Face]:
    """Return the faces among unsure finds that another of all detectors sees too, shown the place.

    One detector misses a face half hidden, out of focus or cut by the border, and is unsure of it;
    an unlike one fails on other faces. To ask it about these places alone costs a quarter of asking it
    about every photo. A find that lies with a known face is not asked about: that face is handled.
    """
    faces: list[Face] = []
    for find in one_list(unsure, photo.shape, min_face):
        if any(_shared(find, face) > TAKEN for face in (*known, *faces)):
            continue
        view, scale, shift = _close(photo, find.box)
        for eye in everybody():
            if eye.detector.name == find.detector:
                continue
            seen = eye.look(view, eye.least_score).moved(scale, (0, 0)).moved((1, 1), shift)
            faces += [
                face
                for face in one_list([(eye, seen)], photo.shape, min_face)
                if face.box.overlap(find.box) > AGREE
                and not any(_shared(face, other) > TAKEN for other in (*known, *faces))
            ]
    return faces


def _close(photo: Pixels, box: Box) -> tuple[Pixels, tuple[float, float], tuple[float, float]]:
    """Return the surroundings of a box, scaled for a detector, with their scale, left and top."""
    side = max(box.width, box.height)
    reach = CLOSE * side
    across, down = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    left, top = int(max(across - reach, 0)), int(max(down - reach, 0))
    right, bottom = int(across + reach) + 1, int(down + reach) + 1
    part = photo[top:bottom, left:right]
    mirror = [round(side / 2) if gap < 1 else 0 for gap in _gaps(box, photo.shape)]
    view, scale = _scaled(
        _mirrored(part, mirror), min(max(side, CLOSE_SIDES[0]), CLOSE_SIDES[1]) / side
    )
    return view, scale, (float(left - mirror[2]), float(top - mirror[0]))


def _gaps(box: Box, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return how far a box is from the photo's top, bottom, left and right."""
    return box.top, shape[0] - box.bottom, box.left, shape[1] - box.right


def _mirrored(picture: Pixels, margins: Sequence[int]) -> Pixels:
    """Return a picture with mirrors of so many px at its top, bottom, left and right."""
    top, bottom, left, right = margins
    wide: Any = cv2.copyMakeBorder(picture, top, bottom, left, right, cv2.BORDER_REFLECT_101)
    return np.asarray(wide)


def look_at_border(
    photo: Pixels, eye: Eye, min_face: float, unsure_from: float
) -> tuple[Found, Found]:
    """Return the faces that the photo's border cuts, and finds that it is unsure of.

    Half a face becomes a whole one when the border is a mirror. At every scale the photo is shown with
    such a border, or, where that is less, its four edges are. What is not cut is left out: the look at the
    photo itself sees it. At a smaller scale a find needs SURE: there hair and shoulders with their
    mirror are faces, too. At the top and at the bottom, where a mirror makes no whole face of a half, it
    needs SURE_ABOVE.
    """
    sure: list[Found] = []
    unsure: list[Found] = []
    for picture, scale in levels(photo, eye.detector.largest, min_face):
        needed = max(eye.least_score, SURE) if sure else eye.least_score
        parts = []
        for part, shift, margins in _edges(picture):
            finds = eye.look(_mirrored(part, margins), unsure_from)
            finds = finds.moved((1, 1), (shift[0] - margins[2], shift[1] - margins[0]))
            parts.append(finds.kept(_at_border(finds.boxes, picture.shape)))
        cut = Found.joined(parts)
        above = _cut_above(cut.boxes, picture.shape)
        counts = cut.scores >= np.where(above, max(needed, SURE_ABOVE), needed)
        sure.append(cut.kept(counts).moved(scale, (0, 0)))
        unsure.append(cut.kept(~counts).moved(scale, (0, 0)))
    return Found.joined(sure), Found.joined(unsure)


def _edges(picture: Pixels) -> Iterator[tuple[Pixels, tuple[int, int], tuple[int, int, int, int]]]:
    """Yield parts that hold the whole border, their left and top, and MARGIN where they have it."""
    height, width = picture.shape[:2]
    whole = (height + 2 * MARGIN) * (width + 2 * MARGIN)
    edges = 2 * (BAND + MARGIN) * (height + width + 4 * MARGIN)
    if edges >= whole or min(height, width) <= 2 * BAND:
        yield picture, (0, 0), (MARGIN,) * 4
        return
    yield picture[:BAND], (0, 0), (MARGIN, 0, MARGIN, MARGIN)
    yield picture[-BAND:], (0, height - BAND), (0, MARGIN, MARGIN, MARGIN)
    yield picture[:, :BAND], (0, 0), (MARGIN, MARGIN, MARGIN, 0)
    yield picture[:, -BAND:], (width - BAND, 0), (MARGIN, MARGIN, 0, MARGIN)


def with_quick_looks(
    photo: Pixels, eye: Eye, upright: Sequence[Face], cut: Found, min_face: float
) -> list[Face]:
    """Return `upright`, joined with the faces that are `cut` and with what a quick look finds, turned.

    A photo that lies on its side often has weak false finds upright, which must not hide its faces.
    A find in a turned photo counts if its score is SURE or more; every find, if its score is above that
    of all that it lies with: upright faces are found again, less surely, in a turned photo. It takes
    the place of the finds that are the same face.
    """
    small, back = _scaled(photo, min(1.0, QUICK / max(photo.shape[:2])))
    sure = max(eye.least_score, SURE)
    looks = [
        _turned_back(eye.look(np.rot90(small, turns), sure), turns, small.shape).moved(back, (0, 0))
        for turns in (1, 3, 2)
    ]
    kept = list(upright)
    for finds in (*looks, cut):
        more = one_list([(eye, finds)], photo.shape, min_face)
        kept = _with_more(kept, more, share=0.3, same=_same)
    return kept


def _with_more(
    faces: Sequence[Face],
    more: Sequence[Face],
    *,
    share: float,
    same: Callable[[Face, Face], bool],
) -> list[Face]:
    """Add the finds of further looks that are surer than all that they share more than `share` with.

    A part of a surer face, or a frame about it, is no other face. What is the `same` face as a surer
    find gives way to it.
    """
    kept = list(faces)
    for face in more:
        rivals = [other for other in kept if _shared(face, other) > share]
        if all(rival.score < face.score for rival in rivals):
            kept = [other for other in kept if not same(face, other)] + [face]
    return kept


def _shared(one: Face, other: Face) -> float:
    """Share of the smaller box, or of the one that lies more in the other."""
    return max(one.box.inside(other.box), other.box.inside(one.box))


def _overlapping(one: Face, other: Face) -> bool:
    """Whether two finds take the same place: whichever is kept covers it."""
    return one.box.overlap(other.box) > SAME


def _same(one: Face, other: Face) -> bool:
    """Whether two finds of unlike looks are one face: a find the wrong way up has a poor box."""
    alike = 0.4 < one.box.side / max(other.box.side, 1e-9) < 2.5
    return _overlapping(one, other) or (alike and _shared(one, other) >= WITHIN)


def _at_border(boxes: Floats, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Whether the border cuts a box: a quarter to nine tenths of it, and SMALLEST px, are inside."""
    first = np.maximum(boxes[:, :2], 0)
    last = np.minimum(boxes[:, 2:], [shape[1], shape[0]])
    seen = np.maximum(last - first, 0)
    share = seen.prod(1) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-9)
    cut: npt.NDArray[np.bool_] = (share >= 0.25) & (share <= 0.9) & (seen.min(1) >= SMALLEST)
    return cut


def _cut_above(boxes: Floats, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Whether a quarter of a box or more is above the photo or below it."""
    outside = np.maximum(-boxes[:, 1], 0) + np.maximum(boxes[:, 3] - shape[0], 0)
    return np.asarray(outside >= (boxes[:, 3] - boxes[:, 1]) / 4)


def look_at(photo: Pixels, eye: Eye, turns: int, min_face: float, *, double: bool = False) -> Found:
    """Return what one detector finds in the photo turned `turns` times by 90 degrees."""
    turned = np.rot90(photo, turns) if turns else photo
    parts: list[Found] = []
    fits: list[npt.NDArray[np.bool_]] = []
    for picture, scale in levels(turned, eye.detector.largest, min_face, double=double):
        last = len(parts)
        for tile, shift in tiles(picture):
            finds = eye.look(tile, eye.least_score)
            sides = np.sqrt(np.prod(finds.boxes[:, 2:] - finds.boxes[:, :2], axis=1))
            fits.append(sides <= eye.detector.largest)
            parts.append(finds.moved(scale, shift))
    fits[last:] = [np.ones_like(one) for one in fits[last:]]  # there is no level further down
    found = Found.joined(parts)
    sure = eye.detector.sure_if_larger
    return _turned_back(
        found.kept(~_misread(found, np.concatenate(fits), sure)), turns, photo.shape
    )


def _misread(finds: Found, fits: npt.NDArray[np.bool_], sure: float) -> npt.NDArray[np.bool_]:
    """Whether a find is a part of a surer face, seen at a scale at which that is too large.

    fits: whether the detector can see a face of that size at the scale where it found it. Brow, chin or
    cheek of a face that is too large look like a face of their own. Such a find does not count where its
    score is below `sure` and a surer find that fits takes TAKEN of its box: what is there is seen a
    level down. One that lies alone, is half hidden or holds a smaller face counts, and so does a sure one.
    """
    misread = np.zeros(len(fits), bool)
    for i in np.flatnonzero(~fits & (finds.scores < sure)):
        box, surer = finds.boxes[i], finds.boxes[fits & (finds.scores > finds.scores[i])]
        common = np.minimum(surer[:, 2:], box[2:]) - np.maximum(surer[:, :2], box[:2])
        taken = np.maximum(common, 0).prod(1) / np.prod(box[2:] - box[:2])
        misread[i] = bool((taken > TAKEN).any())
    return misread


def levels(
    photo: Pixels, largest: int, min_face: float, *, double: bool = False
) -> Iterator[tuple[Pixels, tuple[float, float]]]:
    """Yield the photo at the scales to look at, with the exact factors of both sides.

    The first level is the largest at which a face of `min_face` is still SMALLEST px; each next
    one is a quarter of it or half of it, until a face that fills the photo fits `largest` easily.
    """
    longest = max(photo.shape[:2])
    first = min(1.0, 1.2 * SMALLEST / max(min_face, 1))
    if longest < 160:  # small pictures are often one face: give the network more to see
        first = min(3.0, 160 / longest)
    elif double and min_face < 16:
        first = 2.0
    scale = first
    while True:
        yield _scaled(photo, scale)
        if longest * scale <= 0.7 * largest:
            return
        scale /= 4 if longest * scale > 2 * largest else 2


def _scaled(photo: Pixels, scale: float) -> tuple[Pixels, tuple[float, float]]:
    """Return the photo at about `scale`, and the exact factors of width and height."""
    height, width = photo.shape[:2]
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    if size == (width, height):
        return photo, (1.0, 1.0)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture: Any = cv2.resize(photo, size, interpolation=how)
    return picture, (size[0] / width, size[1] / height)


def tiles(picture: Pixels) -> Iterator[tuple[Pixels, tuple[float, float]]]:
    """Yield overlapping parts of a large picture, each with its left and top."""
    height, width = picture.shape[:2]
    if height * width <= 4_000_000:
        yield picture, (0.0, 0.0)
        return
    for top, bottom in _spans(height):
        for left, right in _spans(width):
            yield picture[top:bottom, left:right], (float(left), float(top))


def _spans(length: int) -> list[tuple[int, int]]:
    """Cut a side into equal parts of at most TILE, neighbours sharing OVERLAP or more."""
    count = max(1, -(-(length - OVERLAP) // (TILE - OVERLAP)))
    part = -(-(length + (count - 1) * OVERLAP) // count)
    starts = [round(i * (length - part) / max(count - 1, 1)) for i in range(count)]
    return [(start, start + part) for start in starts]


def padded(picture: Pixels, multiple: int) -> npt.NDArray[np.float32]:
    """Return (1, 3, height, width) float32, zeros added right and below to whole multiples."""
    height, width = picture.shape[:2]
    batch = np.zeros(
        (1, 3, -(-height // multiple) * multiple, -(-width // multiple) * multiple), np.float32
    )
    batch[0, :, :height, :width] = picture.transpose(2, 0, 1)
    return batch


def one_list(
    found: Sequence[tuple[Eye, Found]], shape: tuple[int, ...], min_face: float
) -> list[Face]:
    """Join the finds of all detectors, turns and levels: overlapping ones are one face.

    Where detectors agree the first one's points are kept; among its own finds the best score wins.
    """
    height, width = shape[:2]
    faces: list[Face] = []
    names = list(dict.fromkeys(eye.detector.name for eye, _ in found))
    for name in names:
        finds = Found.joined([part for eye, part in found if eye.detector.name == name])
        for i in np.argsort(-finds.scores, kind="stable"):
            left, top, right, bottom = (float(v) for v in finds.boxes[i])
            box = Box(max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
            if box.width <= 0 or box.height <= 0 or max(right - left, bottom - top) < min_face:
                continue
            if not any(box.overlap(face.box) > SAME for face in faces):
                faces.append(
                    Face(
                        box=box,
                        points=np.array(finds.points[i], np.float64),
                        score=float(finds.scores[i]),
                        detector=name,
                    )
                )
    return faces


def joined(lists: Sequence[Sequence[Face]]) -> list[Face]:
    """Join the faces of several looks at one photo; the first look's stay as they are."""
    faces: list[Face] = []
    for each in lists:
        faces += [f for f in each if not any(f.box.overlap(have.box) > SAME for have in faces)]
    return faces


def _turned_back(finds: Found, turns: int, shape: tuple[int, ...]) -> Found:
    """Undo `np.rot90(photo, turns)`, which turns against the clock, on boxes and points."""
    for done in range(turns):
        # before the turn that is undone now, the picture was this wide (sides swap every turn)
        width = shape[1] if (turns - done - 1) % 2 == 0 else shape[0]
        boxes, points = finds.boxes, finds.points
        finds = Found(
            np.stack([width - boxes[:, 3], boxes[:, 0], width - boxes[:, 1], boxes[:, 2]], axis=1),
            np.stack([width - points[..., 1], points[..., 0]], axis=2),
            finds.scores,
        )
    return finds
