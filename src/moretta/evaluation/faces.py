"""The labelled face of each photo: where it is, whether the tool changed it, and crops of it.

Landmarks are found once on the clear photo and used for the released one too: a jittering detector
would look like privacy. A second alignment comes from the released photo itself, which is what an
attacker has. A face that the tool left as it was stays in the probe set; a face that the attacker's
detector misses is attacked with the clear photo's points.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import cv2
import numpy as np

from moretta.errors import UsageError
from moretta.evaluation.pairs import Pair, perceptual_hash, read_pixels
from moretta.faces.crop import apply, inverse, to_template, warp
from moretta.faces.detect import detector, search
from moretta.faces.detect.search import Eye, find_faces
from moretta.faces.mask import CENTRE, SEMI_AXES
from moretta.records import Box, Face
from moretta.weights import load

if TYPE_CHECKING:
    import numpy.typing as npt

    from moretta.evaluation.embed import Cache
    from moretta.records import Pixels

    Mask = npt.NDArray[np.bool_]  # (height, width)

T = TypeVar("T")
SamePerson = Callable[["Pixels", Face, "Pixels", Face], bool]
Labelled = Literal["centre", "largest"]
State = Literal["processed", "missed"]
ALIGNMENTS = ("clear", "anon")
TIDY = 64  # photos after which freed memory is given back
NEAR_DUPLICATE = 8  # bits of the perceptual hash
SAME_FACE = 0.3  # overlap with the clear box from which a find in the released photo is that face
FLATTENED = 0.2  # share of the contrast: a change of colours that leaves less is paint
CHANGED = 24  # grey levels, in any channel: more than re-encoding does to most pixels
BEYOND_ENCODING = 16  # grey levels, mean over a face: JPEG of quality 10 does less to photos
CONTEXT_SCALE = 1.5  # of the ellipse that stands for the face where no changed area is found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One labelled face with its released version."""

    pair: Pair
    key: str  # sha256 of the clear photo's pixels and shape
    hash: int  # perceptual, of the clear photo
    clear: Face
    anon: Face | None  # as the attacker's detector sees it in the released photo
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Every face has one place here; nothing is dropped silently."""

    photos: int  # originals with a label
    excluded: Mapping[str, int]  # reason -> photos
    processed: int
    missed: int  # released unchanged: attacked as they are
    no_output: int  # nothing was released
    attacker_undetected: int  # attacked with the clear photo's points

    @property
    def coverage(self) -> float:
        """Share of the released faces that the tool changed."""
        released = self.processed + self.missed
        return self.processed / released if released else float("nan")


class Finder:
    """A detector with a cache: every face of a photo, by the photo's content.

    What another network, or another version of the search, found is not used.
    """

    def __init__(self, name: str, cache: Cache) -> None:
        chosen = detector(name)
        self._name, self._cache = name, cache
        networks = "-".join(load.entry(one).sha256[:12] for one in chosen.networks)
        self._kind = f"faces-{name}-{networks}-{search.VERSION}"
        self._eyes = [
            Eye(detector=chosen, look=chosen.build("cpu", 1), least_score=chosen.least_score)
        ]

    def find(self, photo: Pixels, key: str, *, turned: bool = True) -> list[Face]:
        """Return the faces, best first; turned and cut ones are looked for when none is upright.

        turned: False where it is known that the face stands upright, as in the released version of a
        photo whose face was found so: a search in all directions takes seven times as long.
        """
        kind, code = f"{self._kind}{'' if turned else '-upright'}", bytes.fromhex(key)
        (kept,) = self._cache.get(kind, [code])
        if kept is None:
            faces = find_faces(photo, self._eyes, quick=False)
            if not faces and turned:
                faces = find_faces(photo, self._eyes)
            kept = np.array([_row(face) for face in faces], np.float32)
            self._cache.put(kind, code, kept)
        return [_face(row, self._name) for row in kept.reshape(-1, 15).astype(np.float64)]


def _row(face: Face) -> list[float]:
    box = face.box
    return [box.left, box.top, box.right, box.bottom, *face.points.ravel(), face.score]


def _face(row: npt.NDArray[np.float64], name: str) -> Face:
    box = Box(*(float(value) for value in row[:4]))
    return Face(box=box, points=row[4:14].reshape(5, 2), score=float(row[14]), detector=name)


def content_key(photo: Pixels) -> str:
    """Return the sha256 of a photo's pixels and shape."""
    whole = np.ascontiguousarray(photo)
    return hashlib.sha256(whole.tobytes() + repr(whole.shape).encode()).hexdigest()


def labelled(faces: Sequence[Face], shape: tuple[int, ...], rule: Labelled) -> Face | None:
    """Return the face that the photo's label means: nearest the centre, or the largest."""
    if not faces:
        return None
    if rule == "largest":
        return max(faces, key=lambda face: face.box.side)
    middle = np.array([shape[1] / 2, shape[0] / 2])
    return min(faces, key=lambda face: float(np.linalg.norm(face.points.mean(0) - middle)))


def samples(
    pairs: Sequence[Pair],
    finder: Finder,
    *,
    rule: Labelled = "centre",
    same_person: SamePerson | None = None,
) -> tuple[list[Sample], Ledger]:
    """Return every face that can be attacked, ordered by content, and the ledger of all others.

    Dropped and counted: photos that cannot be read, whose released version has another size, in
    which no face is found, near-duplicates (the later one of two of one person; both of two people,
    where they are equal or `same_person` says that they show one face), and people who have only one
    photo left.
    """
    excluded: Counter[str] = Counter()
    found: list[Sample] = []
    no_output = 0
    for pair in _tidily(pairs):
        clear = read_pixels(pair.original)
        if clear is None:
            excluded["original_unreadable"] += 1
            continue
        if pair.released is None:
            no_output += 1
            continue
        anon = read_pixels(pair.released)
        if anon is None:
            excluded["released_unreadable"] += 1
        elif anon.shape != clear.shape:
            excluded["other_size"] += 1
        else:
            key = content_key(clear)
            face = labelled(finder.find(clear, key), clear.shape, rule)
            if face is None:
                excluded["no_face_in_original"] += 1
                continue
            found.append(
                Sample(
                    pair=pair,
                    key=key,
                    hash=perceptual_hash(clear),
                    clear=face,
                    anon=same_face(
                        finder.find(anon, content_key(anon), turned=not upright(face)), face
                    ),
                    state="processed" if was_changed(clear, anon, face) else "missed",
                )
            )
    ordered = sorted(found, key=lambda s: (s.key, s.pair.person))
    kept = _without_duplicates(ordered, excluded, same_person)
    counts = Counter(sample.pair.person for sample in kept)
    single = [sample for sample in kept if counts[sample.pair.person] < 2]
    if single:
        excluded["person_with_one_photo"] += len(single)
    kept = [sample for sample in kept if counts[sample.pair.person] > 1]
    ledger = Ledger(
        photos=len(pairs),
        excluded=dict(sorted(excluded.items())),
        processed=sum(sample.state == "processed" for sample in kept),
        missed=sum(sample.state == "missed" for sample in kept),
        no_output=no_output,
        attacker_undetected=sum(sample.anon is None for sample in kept),
    )
    return kept, ledger


def _tidily(items: Sequence[T]) -> Iterator[T]:
    """Yield items, and now and then give freed memory back to the system.

    What pictures and their pyramids held stays with glibc where a small object that lives on lies
    above it: 1.6 MB a photo, 5 GB after 3,000.
    """
    for i, item in enumerate(items):
        if i % TIDY == TIDY - 1:
            give_back()
        yield item


def give_back() -> None:
    """Give freed memory back to the system, where the C library can be asked to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def released_in(sample: Sample, pair: Pair, finder: Finder) -> Sample:
    """Return the same face with its released version taken from another pair.

    Raises UsageError when that one cannot be read or has another size.
    """
    clear = read_pixels(sample.pair.original)
    anon = None if pair.released is None else read_pixels(pair.released)
    if clear is None or anon is None or anon.shape != clear.shape:
        raise UsageError(
            f"{pair.released or pair.name} does not show {pair.name} at its size",
            hint="a further release holds every photo that the first one holds",
        )
    found = finder.find(anon, content_key(anon), turned=not upright(sample.clear))
    return replace(
        sample,
        pair=pair,
        anon=same_face(found, sample.clear),
        state="processed" if was_changed(clear, anon, sample.clear) else "missed",
    )


def upright(face: Face) -> bool:
    """Whether the eyes stand above the mouth, within 60 degrees."""
    down = face.points[3:].mean(0) - face.points[:2].mean(0)
    return bool(down[1] > 0.5 * np.linalg.norm(down))


def same_face(faces: Sequence[Face], wanted: Face) -> Face | None:
    """Return the find that overlaps most with the wanted face's box, if enough."""
    best = max(faces, key=lambda face: face.box.overlap(wanted.box), default=None)
    return best if best and best.box.overlap(wanted.box) >= SAME_FACE else None


def was_changed(clear: Pixels, anon: Pixels, face: Face) -> bool:
    """Whether the tool did anything to the face beyond encoding the photo again.

    The upper quartile of the difference within the ellipse (scale 1) is compared with twice that
    outside scale 1.8 and one grey level. Where other faces were changed too the outside says nothing,
    so a mean of BEYOND_ENCODING within the ellipse is a change whatever stands around it. A change of
    colours that most of the outside shares (brighter, grey) is no change of the face: it is undone first.
    """
    radius = _radius(face, clear.shape)
    inside, outside = radius <= 1, radius > 1.8
    if not inside.any():
        return bool((clear != anon).any())
    difference = np.abs(_recoloured(clear, anon, outside) - anon).mean(2)
    if float(difference[inside].mean()) >= BEYOND_ENCODING:
        return True
    elsewhere = float(np.quantile(difference[outside], 0.75)) if outside.any() else 0.0
    return float(np.quantile(difference[inside], 0.75)) > 2 * elsewhere + 1


def _recoloured(clear: Pixels, anon: Pixels, where: Mask) -> npt.NDArray[np.float64]:
    """Return the clear photo with the linear change of colours that half of `where` shares.

    Least squares on all, then four times on the half that fits best. A photo whose colours were left alone, or of
    which too little is seen, or nothing because it was painted over, is returned as it is.
    """
    plain = clear.astype(np.float64)
    y, x = np.nonzero(where)
    step = max(1, len(y) // 4000)
    y, x = y[::step], x[::step]
    before = np.column_stack([plain[y, x], np.ones(len(y))])
    after = anon[y, x].astype(np.float64)
    apart = np.abs(before[:, :3] - after).mean(1)
    if len(y) < 100 or np.median(apart) <= 2:
        return plain
    kept = np.ones(len(y), bool)
    for _ in range(5):
        fit = np.linalg.lstsq(before[kept], after[kept], rcond=None)[0]
        apart = np.abs(before @ fit - after).mean(1)
        kept = apart <= np.median(apart)
    if np.median(apart) > BEYOND_ENCODING / 2:
        return plain  # no one change of colours
    if (before @ fit).std(0).mean() < FLATTENED * before[:, :3].std(0).mean():
        return plain  # painted over
    mapped: npt.NDArray[np.float64] = np.clip(plain @ fit[:3] + fit[3], 0, 255)
    return mapped


def changed_area(clear: Pixels, anon: Pixels, face: Face) -> Mask:
    """Return what the anonymiser changed, (height, width): the attacker of A8 sees only the rest.

    Pixels that differ by more than CHANGED, specks removed, gaps closed, and the convex hull of what
    touches the ellipse about the face: a pixelated cheek that happens to keep its colour is no part
    of the surroundings. Where less than a fiftieth of the ellipse changed, the ellipse itself.
    """
    difference = np.abs(clear.astype(np.int16) - anon.astype(np.int16)).max(2)
    rough = (difference > CHANGED).astype(np.uint8)
    rough = cv2.morphologyEx(rough, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    side = max(3, round(face.box.side / 8) | 1)
    closed = cv2.morphologyEx(rough, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8)) > 0
    ellipse: Mask = _radius(face, clear.shape) <= CONTEXT_SCALE
    if (closed & ellipse).sum() < ellipse.sum() / 50:
        return ellipse
    _, component = cv2.connectedComponents(closed.astype(np.uint8))
    touching = np.unique(component[closed & ellipse])
    y, x = np.nonzero(np.isin(component, touching) & closed)
    corners: Any = cv2.convexHull(np.stack([x, y], axis=1).astype(np.int32))
    hull = np.zeros(closed.shape, np.uint8)
    cv2.fillConvexPoly(hull, corners, 1)
    area: Mask = closed | (hull > 0)
    return area


def _radius(face: Face, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return each pixel's distance from the face's middle in units of its ellipse at scale 1."""
    matrix = to_template(face, "tight", 1)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] + 0.5
    u, v = ((matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] - CENTRE[i]) for i in (0, 1))
    radius: npt.NDArray[np.float64] = np.sqrt((u / SEMI_AXES[0]) ** 2 + (v / SEMI_AXES[1]) ** 2)
    return radius


def _without_duplicates(
    found: Sequence[Sample], excluded: Counter[str], same_person: SamePerson | None
) -> list[Sample]:
    """Drop near-duplicates: they would make a hit out of the same picture."""
    hashes = np.array([sample.hash for sample in found], np.uint64)
    people = np.array([sample.pair.person for sample in found])
    dropped: set[int] = set()
    for i in range(len(found)):
        near = np.flatnonzero(np.bitwise_count(hashes[i + 1 :] ^ hashes[i]) <= NEAR_DUPLICATE)
        for j in (near + i + 1).tolist():
            if people[i] == people[j] and i not in dropped:
                dropped.add(j)
            elif people[i] != people[j] and _one_picture(found[i], found[j], same_person):
                dropped |= {i, j}  # one picture with two names: a label is wrong
    if dropped:
        excluded["near_duplicate"] += len(dropped)
    return [sample for i, sample in enumerate(found) if i not in dropped]


def _one_picture(first: Sample, second: Sample, same_person: SamePerson | None) -> bool:
    if first.key == second.key:
        return True
    if same_person is None:
        return False
    one, two = read_pixels(first.pair.original), read_pixels(second.pair.original)
    if one is None or two is None:
        return False
    return same_person(one, first.clear, two, second.clear)


def photos(chosen: Sequence[Sample]) -> Iterator[tuple[Sample, Pixels, Pixels]]:
    """Yield each face with the pixels of its clear and released photo, read again."""
    for sample in _tidily(chosen):
        clear = read_pixels(sample.pair.original)
        anon = read_pixels(sample.pair.released) if sample.pair.released else None
        if clear is None or anon is None:  # it could be read a minute ago
            raise RuntimeError(f"{sample.pair.name} changed during the evaluation")
        yield sample, clear, anon


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crops:
    """Pictures on one template, (faces, side, side, 3) each."""

    clear: Pixels
    anon: Mapping[str, Pixels]  # alignment -> pictures
    context: Pixels  # the clear photo with everything blanked that the tool changed


def crops(chosen: Sequence[Sample], template: str, side: int) -> Crops:
    """Cut every face on a template: clear, released in both alignments, and its surroundings."""
    shape = (len(chosen), side, side, 3)
    clear, context = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    anon = {name: np.zeros(shape, np.uint8) for name in ALIGNMENTS}
    for i, (sample, before, after) in enumerate(photos(chosen)):
        matrix = to_template(sample.clear, template, side)
        own = to_template(sample.anon, template, side) if sample.anon else matrix
        clear[i] = warp(before, matrix, side, border="edge")
        anon["clear"][i] = warp(after, matrix, side, border="edge")
        anon["anon"][i] = warp(after, own, side, border="edge")
        blanked = before.copy()
        blanked[changed_area(before, after, sample.clear)] = 128
        context[i] = warp(blanked, matrix, side, border="edge")
    return Crops(clear=clear, anon=anon, context=context)


def released_crops(chosen: Sequence[Sample], template: str, side: int) -> Pixels:
    """Cut every released face by the clear photo's points, (faces, side, side, 3)."""
    made = np.zeros((len(chosen), side, side, 3), np.uint8)
    for i, sample in enumerate(chosen):
        released = read_pixels(sample.pair.released) if sample.pair.released else None
        if released is None:
            raise UsageError(
                f"{sample.pair.released} cannot be read",
                hint="a further release holds every photo that the first one holds",
            )
        made[i] = warp(released, to_template(sample.clear, template, side), side, border="edge")
    return made


RING_SIDE = 96  # px of the wide crop that A8's hand-made features are taken from
_HUES, _VALUES, _ANGLES, _CELLS = 12, 4, 9, 6


def surroundings(chosen: Sequence[Sample]) -> npt.NDArray[np.float64]:
    """Return colour and shape of what the tool left: HSV histogram and HOG of the wide crop.

    Changed pixels count for nothing. (faces, features), each block at unit length.
    """
    rows = []
    for sample, before, after in photos(chosen):
        matrix = to_template(sample.clear, "wide", RING_SIDE)
        picture = warp(before, matrix, RING_SIDE, border="edge")
        area = changed_area(before, after, sample.clear).astype(np.uint8) * 255
        hidden: Any = cv2.warpAffine(area, matrix, (RING_SIDE, RING_SIDE))
        rows.append(ring_features(picture, np.asarray(hidden) == 0))
    return np.stack(rows) if rows else np.zeros((0, 1))


def ring_features(picture: Pixels, seen: Mask) -> npt.NDArray[np.float64]:
    """Return the features of one (side, side, 3) picture where `seen` is true.

    A histogram of hue and brightness in each quarter, and oriented gradients in _CELLS x _CELLS cells.
    """
    side = picture.shape[0]
    hsv: Any = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    hue = np.minimum(hsv[..., 0].astype(int) * _HUES // 180, _HUES - 1)
    value = hsv[..., 2].astype(int) * _VALUES // 256
    y, x = np.mgrid[0:side, 0:side]
    quarter = (y >= side // 2) * 2 + (x >= side // 2)
    code = (quarter * _HUES + hue) * _VALUES + value
    colour = np.bincount(code[seen], minlength=4 * _HUES * _VALUES).astype(np.float64)
    grey: Any = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength = np.hypot(dx, dy).astype(np.float64)
    solid: Any = cv2.erode(seen.astype(np.uint8), np.ones((3, 3), np.uint8))
    angle = ((np.arctan2(dy, dx) % np.pi) / np.pi * _ANGLES).astype(int) % _ANGLES
    cell = (y * _CELLS // side) * _CELLS + x * _CELLS // side
    kept = solid > 0
    shape = np.bincount(
        (cell * _ANGLES + angle)[kept], weights=strength[kept], minlength=_CELLS**2 * _ANGLES
    )
    parts = [np.sqrt(part) / max(np.sqrt(part.sum()), 1e-9) for part in (colour, shape)]
    return np.concatenate(parts)


def points_in(face: Face, template: str, side: int) -> npt.NDArray[np.float64]:
    """Return where a template's points lie in the photo, (5, 2): the inverse of the alignment."""
    from moretta.faces.crop import TEMPLATES

    return apply(inverse(to_template(face, template, side)), TEMPLATES[template] * side)
