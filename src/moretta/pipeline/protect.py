"""From pixels to protected pixels and a record: find, edit, blend, judge, cover. No files.

The order of events for one photo:
1. find faces (or take those a person gave);
2. cut or align each face, let the method edit all of them at once;
3. blend the edits into a copy; a face whose edit failed is painted solid;
4. the judge, whom no method was trained with, compares each face with the original;
5. a face that it still knows is painted solid, larger each time, or the photo is withheld.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from moretta.errors import UsageError
from moretta.faces import crop as crops
from moretta.faces import mask as masks
from moretta.faces.detect import DETECTORS, detector
from moretta.faces.detect.search import SAME, Eye, find_faces, joined
from moretta.faces.recognise import JUDGE, Recogniser, threshold
from moretta.methods import method, settings
from moretta.records import FaceRecord
from moretta.weights import load

if TYPE_CHECKING:
    import numpy.typing as npt

    from moretta.pipeline.options import Options
    from moretta.records import Alpha, Box, Crop, Edited, Face, FaceEdit, Pixels

COVER = "solid"
COVER_SCALES = (
    1.5,
    2.0,
    2.7,
)  # each try paints a larger ellipse; the last one fills the judge's view
LOOKS = 3  # a photo in which faces are found after so many rounds is withheld
HANDLED = 0.5  # share of a found box that was changed, from which it is a face already handled
MOST_STRETCH = 1.5  # a drawn face is stretched no further to hold its box: it is covered instead
BLANK = 2  # grey levels: a view that varies no more than this is all paint


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """Seeds of new identities for the faces of one photo. The last one that fits a face counts.

    A face that none fits gets an identity of its own.
    """

    everyone: int | None = None
    largest: int | None = None  # for the largest face by its box; the first of equal ones
    numbered: Mapping[int, int] = field(default_factory=dict)  # place in the list of faces -> seed
    boxed: tuple[tuple[Box, int], ...] = ()  # for the face that overlaps most, if by SAME or more

    def of(self, faces: Sequence[Face], *, first: bool = True) -> tuple[list[int | None], int]:
        """Return each face's seed or None, and how many of the seeds fit no face.

        first: these are the faces of the first look. What is found later is not numbered and not
        compared by size, and only boxes speak of it.
        """
        seeds: list[int | None] = [self.everyone] * len(faces)
        idle = 0
        if first and self.largest is not None and faces:
            sides = [face.box.side for face in faces]
            seeds[sides.index(max(sides))] = self.largest
        for place, seed in self.numbered.items() if first else ():
            if place < len(faces):
                seeds[place] = seed
            else:
                idle += 1
        for box, seed in self.boxed:
            overlaps = [face.box.overlap(box) for face in faces]
            best = max(overlaps, default=0.0)
            if best >= SAME:
                seeds[overlaps.index(best)] = seed
            else:
                idle += 1
        return seeds, idle


NOBODY = Identities()  # every face has an identity of its own


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """One photo to protect."""

    pixels: Pixels
    name: str = ""  # only to derive seeds
    faces: Sequence[Face] | None = None  # None: look for them; a list is a person's word
    looks: Sequence[Pixels] = ()  # the same photo as viewers may show it: on white, on black
    found: Sequence[Face] | None = None  # what `find` answered before: saves that, and only that
    identities: Identities = NOBODY


@dataclass(slots=True, kw_only=True, eq=False)
class Protected:
    """What became of one photo."""

    pixels: Pixels
    changed: npt.NDArray[np.bool_]  # (height, width): every pixel that is not the original's
    decision: Literal["published", "withheld"]
    reason: str
    seed: int
    faces: list[FaceRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@dataclass(slots=True, eq=False)
class _Task:
    """One face on its way through the steps."""

    face: Face
    alpha: Alpha
    bounds: crops.Bounds
    crop: Crop
    edited: Edited | None = None
    fault: str = ""
    barred: str = ""  # why whatever the method answers may not be used
    notes: list[str] = field(default_factory=list)
    audit: dict[str, Any] = field(default_factory=dict)
    method: str = ""
    scale: float = 0.0
    in_photo: bool = True  # its mask holds at least one pixel of the photo


class Protector:
    """Detectors, method and judge, built once and used for many photos."""

    def __init__(self, options: Options, *, threads: int = 1) -> None:
        self.options = options
        self.method = method(options.method)
        self.settings = settings(self.method, options.settings, strength=options.strength)
        names = options.detector
        if options.thorough:
            names = (*names, *(name for name in DETECTORS if name not in names))
        self._eyes = [self._eye(name, threads) for name in names]
        self._spare = [name for name in DETECTORS if name not in names]
        self._fallback: list[Eye] | None = None
        self._threads = threads
        if JUDGE in self.method.trained_with:
            raise UsageError(
                f"{self.method.name} was trained with the judge {JUDGE}, which may not judge it",
                hint="train it with another recogniser",
            )
        self._edit: FaceEdit = self.method.build(self.settings, options.device)
        cover = method(COVER)
        self._cover: FaceEdit = cover.build(cover.settings(), "cpu")
        self._judge = Recogniser(JUDGE, device=options.device, threads=threads)
        self._known = threshold(options.audit_far)

    @property
    def tells_seeds(self) -> bool:
        """Whether seeds may stand in the record.

        What a drawing may know of the old face is hidden by noise, and its identity is chosen by
        chance: a drawn seed would give both away. With --seed they are the user's to tell.
        """
        return self.options.seed is not None or not self.method.draws_identity

    @property
    def networks(self) -> list[str]:
        """Names of the networks that had a say."""
        detecting = [name for eye in self._eyes for name in eye.detector.networks]
        return [*detecting, *self.method.networks, JUDGE]

    def weights(self, faces: Sequence[FaceRecord]) -> dict[str, str]:
        """Return name -> sha256 of every network that had a say, the second opinion's too."""
        had = set(self.networks)
        for name in {face.detector for face in faces} & set(DETECTORS):
            had |= set(detector(name).networks)
        return {name: load.catalogue()[name].sha256 for name in sorted(had)}

    def protect(self, pictures: Sequence[Picture]) -> list[Protected]:
        """Protect photos; the faces of all of them go through the method in one batch."""
        done = [self._begun(picture) for picture in pictures]
        tasks = [
            self._tasks(picture, result) for picture, result in zip(pictures, done, strict=True)
        ]
        with _timed(done, "method"):
            self._edit_all([task for group in tasks for task in group])
        for picture, result, group in zip(pictures, done, tasks, strict=True):
            if group:
                self._finish(picture, result, group)
        return done

    def find(self, pixels: Pixels, *, looks: Sequence[Pixels] = ()) -> list[Face]:
        """Return the faces in one photo, and in other looks at it, as `protect` finds them."""
        return joined(
            [
                find_faces(
                    look,
                    self._eyes,
                    min_face=self.options.min_face,
                    thorough=self.options.thorough,
                    fallback=self._second_opinion,
                )
                for look in (pixels, *looks)
            ]
        )

    def embed(self, pixels: Pixels, faces: Sequence[Face]) -> npt.NDArray[np.float32]:
        """Return the judge's unit vector of every face, (faces, length). Never to be written."""
        return self._judge.embed(pixels, faces)

    def _eye(self, name: str, threads: int) -> Eye:
        chosen = detector(name)
        return Eye(
            detector=chosen,
            look=chosen.build(self.options.device, threads),
            least_score=self.options.threshold or chosen.least_score,
        )

    def _second_opinion(self) -> list[Eye]:
        if self._fallback is None:
            self._fallback = [self._eye(name, self._threads) for name in self._spare]
        return self._fallback

    def _begun(self, picture: Picture) -> Protected:
        if self.options.seed is None:
            seed = secrets.randbits(63)
        else:
            seed = derived(self.options.seed, picture.name)
        return Protected(
            pixels=picture.pixels,
            changed=np.zeros(picture.pixels.shape[:2], bool),
            decision="published",
            reason="",
            seed=seed,
        )

    def _tasks(self, picture: Picture, result: Protected) -> list[_Task]:
        with _timed([result], "detect"):
            if picture.faces is not None:
                faces = list(picture.faces)
            elif picture.found is not None:
                faces = list(picture.found)
            else:
                faces = self.find(picture.pixels, looks=picture.looks)
        if not faces:
            result.decision = "withheld" if self.options.on_no_face == "withhold" else "published"
            by = "found" if picture.faces is None else "in the boxes given"
            policy = self.options.on_no_face
            result.reason = f"no face {by}; --on-no-face {policy}"
        with _timed([result], "crop"):
            identities, idle = picture.identities.of(faces)
            if idle:
                result.notes.append(f"--persons: {idle} of its rows fit no face that was found")
            return [
                self._task(picture.pixels, face, derived(result.seed, str(i)), identity)
                for i, (face, identity) in enumerate(zip(faces, identities, strict=True))
            ]

    def _task(self, photo: Pixels, face: Face, seed: int, identity: int | None) -> _Task:
        chosen, barred = self.method, ""
        if chosen.template == "window":
            alpha, bounds = masks.cover(
                face, photo.shape, scale=chosen.mask_scale, fills_view=chosen.fills_view
            )
            crop = crops.cut(photo, face, alpha, bounds, seed=seed, identity=identity)
        else:
            scale, feather = chosen.mask_scale, chosen.mask_feather
            wider = masks.stretch(face, scale=scale, feather=feather)
            alpha, bounds = masks.redraw(
                face, photo.shape, scale=scale * min(wider, MOST_STRETCH), feather=feather
            )
            crop = crops.align(
                photo,
                face,
                alpha,
                template=chosen.template,
                side=chosen.side,
                seed=seed,
                identity=identity,
                stretch=min(wider, MOST_STRETCH),
            )
            if wider > MOST_STRETCH:
                barred = "the points are too close together for a face of this box to be drawn"
        task = _Task(
            face, alpha, bounds, crop, method=chosen.name, scale=chosen.mask_scale, barred=barred
        )
        if not crops.points_fit(face):
            task.notes.append("the points do not fit the box: those of an upright face were used")
        enlarged = 1 / crops.scale_of(crop.matrix)
        if chosen.template != "window" and enlarged > 1:
            task.notes.append(f"the face is {enlarged:.1f} times larger than the drawn crop: soft")
        return task

    def _edit_all(self, tasks: list[_Task]) -> None:
        """Edit all faces at once; when that fails, one by one, so that one face cannot spoil others."""
        if not tasks:
            return
        try:
            for task, edited in zip(tasks, self._edit([t.crop for t in tasks]), strict=True):
                task.edited = edited
        except Exception:  # noqa: BLE001 - any fault of a method ends in covering, never in a leak
            for task in tasks:
                task.edited = None
                try:
                    (task.edited,) = self._edit([task.crop])
                except Exception as error:  # noqa: BLE001 - as above
                    task.fault = f"{type(error).__name__}: {error}"
        for task in tasks:
            if task.edited is not None and task.edited.fault:
                task.fault = task.edited.fault
                task.edited = None
            if task.edited is not None and not _sound(task.edited.pixels, task.crop.pixels):
                task.edited = None
                task.fault = "the method's answer has another shape or kind than the crop"
            if task.barred:
                task.edited, task.fault = None, task.barred

    def _finish(self, picture: Picture, result: Protected, tasks: list[_Task]) -> None:
        """Blend and judge; then look once more, and begin again with what was overlooked."""
        for _ in range(LOOKS):
            with _timed([result], "blend"):
                self._compose(picture, result, tasks)
            with _timed([result], "audit"):
                self._audit(picture, result, tasks)
            if picture.faces is not None or result.decision == "withheld":
                break
            with _timed([result], "look again"):
                overlooked = self._overlooked(result)
            if not overlooked:
                break
            identities, _ = picture.identities.of(overlooked, first=False)
            more = [
                self._task(
                    picture.pixels, face, derived(result.seed, str(len(tasks) + i)), identity
                )
                for i, (face, identity) in enumerate(zip(overlooked, identities, strict=True))
            ]
            for task in more:
                task.notes.append("found when the protected photo was looked at again")
            self._edit_all(more)
            tasks += more
        else:
            result.decision = "withheld"
            result.reason = f"faces are still found after {LOOKS} looks"
        result.faces = [self._record(task) for task in tasks]
        if not result.reason:
            covered = sum("covered" in task.audit for task in tasks)
            result.reason = f"{len(tasks)} face{'s' * (len(tasks) != 1)}" + (
                f", {covered} covered by policy" if covered else ""
            )

    def _compose(self, picture: Picture, result: Protected, tasks: list[_Task]) -> None:
        result.pixels = picture.pixels.copy()
        result.changed = np.zeros(picture.pixels.shape[:2], bool)
        # the coarsest edit last: a small find on a large face must not bring detail back
        for task in sorted(tasks, key=lambda one: masks.tight_side(one.face)):
            if task.edited is not None:
                left, top, right, bottom = task.bounds
                result.changed[top:bottom, left:right] |= task.alpha > 0
                crops.paste(
                    result.pixels,
                    task.edited.pixels,
                    task.crop,
                    task.alpha,
                    task.bounds,
                    match_colour=self.method.match_colour,
                )

    def _overlooked(self, result: Protected) -> list[Face]:
        """Return the faces that are found in the protected photo where it was left as it was."""
        found = find_faces(result.pixels, self._eyes, min_face=self.options.min_face, quick=False)
        return [face for face in found if _share(result.changed, face) < HANDLED]

    def _audit(self, picture: Picture, result: Protected, tasks: list[_Task]) -> None:
        """Compare every face with its original; cover or withhold what the judge still knows.

        A painted view that is all one colour has nothing to compare: it has passed, and costs no
        network.
        """
        for task in tasks:
            task.method, task.scale, task.audit = self.method.name, self.method.mask_scale, {}
            task.in_photo = bool((task.alpha >= 1).any())
        open_ = list(range(len(tasks)))
        for scale in (0.0, *COVER_SCALES):
            if scale:
                for i in open_:
                    self._paint(result, tasks[i], scale)
            seen = []
            for i in open_:
                view = self._judge.crop(result.pixels, tasks[i].face)
                painted = scale > 0 or (self.method.fills_view and tasks[i].edited is not None)
                if painted and tasks[i].in_photo and int(np.ptp(view, axis=(0, 1)).max()) <= BLANK:
                    self._note(tasks[i], None, scale)
                else:
                    seen.append((i, view))
            if seen:
                befores = [self._judge.crop(picture.pixels, tasks[i].face) for i, _ in seen]
                vectors = self._judge.embed_crops(np.stack([*befores, *(view for _, view in seen)]))
                for (i, _), was, now in zip(seen, vectors, vectors[len(seen) :], strict=False):
                    self._note(tasks[i], float(was @ now), scale)
            open_ = [i for i in open_ if not tasks[i].audit["passed"]]
            if not open_ or self.options.on_audit_fail == "withhold":
                break
        if open_:
            result.decision = "withheld"
            faults = {tasks[i].fault for i in open_} - {""}
            why = (
                f"the method failed ({'; '.join(sorted(faults))})"
                if faults
                else "the judge knows them"
            )
            result.reason = f"{len(open_)} of {len(tasks)} faces not protected: {why}"

    def _note(self, task: _Task, cosine: float | None, scale: float) -> None:
        """Write down what the judge says; None: its view is all one colour."""
        blank = cosine is None
        known = cosine is not None and not cosine <= self._known  # a NaN counts as known
        before = task.audit
        task.audit = {
            "judge": JUDGE,
            "cosine": cosine,
            "threshold": self._known,
            "blank": blank,
            "passed": not known and not _bare(task, scale),
        }
        if scale:
            first = before.get("covered", {"cosine": before["cosine"], "fault": task.fault})
            task.audit["covered"] = {**first, "scale": scale}

    def _paint(self, result: Protected, task: _Task, scale: float) -> None:
        """Paint one face solid, `scale` large, over whatever is there now."""
        shape = result.pixels.shape
        alpha, bounds = masks.cover(task.face, shape, scale=scale, fills_view=True)
        cover = crops.cut(result.pixels, task.face, alpha, bounds, seed=task.crop.seed)
        (painted,) = self._cover([cover])
        crops.paste(result.pixels, painted.pixels, cover, alpha, bounds)
        left, top, right, bottom = bounds
        result.changed[top:bottom, left:right] |= alpha > 0
        task.method, task.scale, task.in_photo = COVER, scale, bool((alpha >= 1).any())

    def _record(self, task: _Task) -> FaceRecord:
        face = task.face
        own = task.method == self.method.name and task.edited is not None
        return FaceRecord(
            box=(face.box.left, face.box.top, face.box.right, face.box.bottom),
            points=tuple((float(x), float(y)) for x, y in face.points),
            points_from=face.points_from,
            score=face.score,
            detector=face.detector,
            method=task.method,
            settings=self.settings.model_dump() if own else {},
            seed=task.crop.seed if self.tells_seeds else None,
            mask_scale=task.scale,
            crop_scale=1 / crops.scale_of(task.crop.matrix),
            audit=task.audit,
            notes=tuple(task.notes),
            statement=task.edited.statement if own and task.edited else None,
            figures=dict(task.edited.figures) if own and task.edited else {},
        )


def derived(seed: int, name: str) -> int:
    """Return a seed of its own for a photo or a face: batch size and order cannot change it.

    >>> derived(0, "a") == derived(0, "a") != derived(0, "b")
    True
    """
    digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _bare(task: _Task, scale: float) -> bool:
    """Whether nothing has been done to this face: its edit failed, or its mask is not in the photo."""
    return (scale == 0 and task.edited is None) or not task.in_photo


def _share(changed: npt.NDArray[np.bool_], face: Face) -> float:
    """Share of the face's box that was changed."""
    box = face.box
    rows = slice(int(box.top), max(int(box.bottom), int(box.top) + 1))
    columns = slice(int(box.left), max(int(box.right), int(box.left) + 1))
    return float(changed[rows, columns].mean()) if changed[rows, columns].size else 1.0


def _sound(edited: Any, crop: Pixels) -> bool:
    return (
        isinstance(edited, np.ndarray) and edited.shape == crop.shape and edited.dtype == crop.dtype
    )


@contextmanager
def _timed(results: Sequence[Protected], stage: str) -> Iterator[None]:
    """Share the time of a step among the photos it served."""
    start = time.perf_counter()
    yield
    for result in results:
        result.seconds[stage] += (time.perf_counter() - start) / len(results)
