"""From pixels to protected pixels and a record: find, edit, blend, judge, cover. No files.

The order of events for one photo:
1. find faces (or take those a person gave);
2. cut each face or, with steady points, align it; let the method edit all of them at once;
3. blend the edits into a copy; a face whose edit failed is painted solid; a find too unsure to get
   a face drawn into it is pixelated, below the drawn ones; a find that lies whole within the drawing
   of a surer face is gone with it;
4. the judge, whom no method was trained with, compares each face with the original; one that is near
   its threshold also by the points as they were found, which are not those by which it was drawn;
5. a face that it knows, or nearly, is drawn anew, if the method may, with other chance, and the
   drawing that is least like the old face stays;
6. one that it knows even so is painted solid, larger each time, or the photo is withheld;
7. a face near the judge's threshold is judged once more as a reader of the file will see it; every
   face is where the file keeps little of these pixels.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from moretta.errors import MorettaError, UsageError, count_of
from moretta.faces import crop as crops
from moretta.faces import mask as masks
from moretta.faces.detect import DETECTORS, detector, yunet
from moretta.faces.detect.search import SAME, WITHIN, Eye, find_faces, joined
from moretta.faces.recognise import JUDGE, Recogniser, threshold
from moretta.faces.steady import held
from moretta.methods import method, settings
from moretta.records import FaceRecord
from moretta.weights import load

if TYPE_CHECKING:
    import numpy.typing as npt

    from moretta.pipeline.custody import Keyring
    from moretta.pipeline.options import Options
    from moretta.privacy.keys import Pseudonyms
    from moretta.privacy.ledger import Ledger
    from moretta.records import Alpha, Box, Crop, Edited, Face, FaceEdit, Guard, Pixels, Settings

    Written = Callable[
        [Pixels, npt.NDArray[np.bool_]], tuple[Pixels, bytes]
    ]  # (pixels, changed) -> as read again, and the file

COVER = "solid"
DOUBTFUL = (
    "pixelate"  # for finds too unsure to be drawn: hides a face, and spoils little if it is none
)
COVER_SCALES = (
    1.5,
    2.0,
    2.7,
)  # each try paints a larger ellipse; the last one fills the judge's view
LOOKS = 3  # a photo in which faces are found after so many rounds is withheld
HANDLED = 0.5  # share of a found box that was changed, from which it is a face already handled
MOST_STRETCH = 1.5  # a drawn face is stretched no further to hold its box: it is covered instead
SURE = {  # scores from which a find is drawn
    "yunet": 0.65,  # below, most are knots, hands and patterns
    "centerface": 0.65,  # below, most are half hidden, out of focus or cut: not to be drawn well
}
LARGE = 3.75  # photo pixels a crop pixel from which a find must be SURE_IF_LARGE to be drawn
SURE_IF_LARGE = 0.75  # enlarged photos: false alarms up to 0.72, faces from 0.83
HELD = 0.7  # a face that lies in a find and is smaller than this, and surer, makes it no face
BESIDE = 0.5  # a face is beside another if it is no smaller than this, nor nearer than this to its middle
SEAM = 0.1  # of the ellipse: the width over which one of two drawings that touch becomes the other
WHOLE = 0.99  # share of all that belongs to a find, from which a surer face's drawing replaces it
NEAR = 0.1  # below the judge's threshold: JPEG at 90 and more moved no cosine further up (0.07)
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
    written: Written | None = None  # what the file will show; None: these very pixels
    rough: bool = False  # the file keeps little: colours are lost, or it is compressed much
    pseudonyms: Pseudonyms | None = None  # where the secrets of its faces come from, if keyed


@dataclass(slots=True, kw_only=True, eq=False)
class Protected:
    """What became of one photo."""

    pixels: Pixels
    changed: npt.NDArray[np.bool_]  # (height, width): every pixel that is not the original's
    decision: Literal["published", "withheld"]
    reason: str
    seed: int
    faces: list[FaceRecord] = field(default_factory=list)
    subjects: list[int | None] = field(default_factory=list)  # seeds of shared identities, by face
    notes: list[str] = field(default_factory=list)
    within: list[Face] = field(default_factory=list)  # lie whole in the drawing of a surer face
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    file: bytes = b""  # that shows these pixels, where the judge had to see it and passed it


@dataclass(slots=True, eq=False)
class _Task:
    """One face on its way through the steps."""

    face: Face
    alpha: Alpha
    bounds: crops.Bounds
    crop: Crop
    edited: Edited | None = None
    fault: str = ""
    barred: str = ""  # why it may not be drawn: it is covered, below the faces that are
    settled: tuple[str, float, dict[str, Any], bool] | None = None  # the judge's word on its cover
    cover: dict[str, Any] = field(default_factory=dict)  # settings of the method that covers it
    redrawn: int = 0  # how often another drawing was tried
    chance: int = 0  # the seed of the last of them
    chosen: bool = False  # no other drawing will be tried
    notes: list[str] = field(default_factory=list)
    audit: dict[str, Any] = field(default_factory=dict)
    method: str = ""
    scale: float = 0.0
    drawn_scale: float = 0.0  # of the ellipse in which the method works, stretched or not
    thrown_away: list[float] = field(default_factory=list)  # cosines of drawings not published
    old: npt.NDArray[np.float32] | None = None  # the judge's vector of the face as it was
    in_photo: bool = True  # its mask holds at least one pixel of the photo
    found: Face | None = None  # as it was found, where the points were held since
    old_found: npt.NDArray[np.float32] | None = None  # as `old`, by those points


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """One photo with its faces on their way through the steps."""

    picture: Picture
    result: Protected
    tasks: list[_Task]


class Protector:
    """Detectors, method and judge, built once and used for many photos."""

    def __init__(self, options: Options, *, threads: int = 1) -> None:
        self.options = options
        self.keyring: Keyring | None = None  # what a run seals with
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
        _, _, self._cover = plain = _plainly(COVER)
        proved = self.method.promise == "proved"  # of which no cell mean is part
        cells = () if proved else (0.5, 1.0)
        self._coarse = [*(_plainly(DOUBTFUL, strength=one) for one in cells), plain]
        self._judge = Recogniser(JUDGE, device=options.device, threads=threads)
        self._points = yunet.build("cpu", threads) if self._draws else None
        self._known = threshold(options.audit_far)
        self._like = min(self._known, threshold("1e-2"))
        self._ledger: Ledger | None = None
        self._told = self.settings.told

    @property
    def tells_seeds(self) -> bool:
        """Whether seeds may stand in the record.

        What a drawing may know of the old face is hidden by noise, and its identity is chosen by
        chance: a drawn seed would give both away. With --seed they are the user's to tell.
        """
        drawn = self.method.draws_identity or self.method.keyed
        return self.options.seed is not None or not drawn

    @property
    def networks(self) -> list[str]:
        """Names of the networks that had a say."""
        detecting = [name for eye in self._eyes for name in eye.detector.networks]
        pointing = yunet.DETECTOR.networks if self._draws else ()
        return [*detecting, *pointing, *self.method.networks, *self.settings.networks, JUDGE]

    @property
    def _draws(self) -> bool:
        """Whether the method draws faces, from points that must hold still, instead of covering."""
        return self.method.template != "window"

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
        works = [_Work(*one) for one in zip(pictures, done, tasks, strict=True) if one[2]]
        self._compare(works)
        for work in works:
            self._finish(work)
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
                result.notes.append(f"--persons: rows that fit no face that was found: {idle}")
            tasks = [
                self._task(picture, face, identity, faces)
                for face, identity in zip(faces, identities, strict=True)
            ]
            if self._draws and picture.faces is None:  # boxes are a person's word: each counts
                tasks, result.within = _apart(tasks)
            self._hide_barred(picture, tasks)
            self._number(picture, result, tasks)
            return tasks

    def _number(
        self, picture: Picture, result: Protected, tasks: Sequence[_Task], first: int = 0
    ) -> None:
        """Give each face its chance and its secret, by its number in the photo's record."""
        for number, task in enumerate(tasks, first):
            task.crop = replace(task.crop, seed=derived(result.seed, str(number)))
            if self.method.keyed and picture.pseudonyms is not None:
                secret = picture.pseudonyms.of(number, task.crop.identity)
                task.crop = replace(task.crop, secret=secret)

    def _task(
        self, picture: Picture, face: Face, identity: int | None, others: Sequence[Face]
    ) -> _Task:
        """Return what is to be done to a face, without chance and secret: see `_number`."""
        chosen, scale, seed = self.method, self.method.mask_scale, 0
        barred, by_hand = "", picture.faces is not None
        photo, found = picture.pixels, None
        if chosen.template == "window":
            alpha, bounds = masks.cover(
                face, photo.shape, scale=scale, fills_view=chosen.fills_view
            )
            crop = crops.cut(photo, face, alpha, bounds, seed=seed, identity=identity)
        else:
            if self._points is not None:
                steady = held(photo, face, self._points)
                face, found = steady, (face if steady is not face else None)
            feather = chosen.mask_feather
            wider = masks.stretch(face, scale=scale, feather=feather)
            scale *= min(wider, MOST_STRETCH)
            alpha, bounds = masks.redraw(face, photo.shape, scale=scale, feather=feather)
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
            barred = barred or _doubt(
                face, others, 1 / crops.scale_of(crop.matrix), by_hand=by_hand
            )
        if self.settings.counted and not barred:
            crop = replace(crop, guard=self._guard(crop))
        task = _Task(
            face,
            alpha,
            bounds,
            crop,
            method=chosen.name,
            drawn_scale=scale,
            fault=barred,
            barred=barred,
            found=found,
        )
        if not crops.points_fit(face):
            task.notes.append("the points do not fit the box: those of an upright face were used")
        return task

    def _hide_barred(self, picture: Picture, tasks: Sequence[_Task]) -> None:
        """Cover what may not be drawn: in cells, in larger ones, in paint, until the judge is content.

        Faces that are drawn will lie over it, so the judge sees it without them: each drawing has a
        comparison of its own. Where a photo with such a find is to be withheld, nothing is done.
        """
        if self.options.on_audit_fail != "cover":
            return
        for task in (one for one in tasks if one.barred):
            for name, own, edit in self._coarse:
                task.cover = own.model_dump()
                shown = self._hidden(picture.pixels, task, name, edit)
                self._judged(picture.pixels, shown, [task], [0], task.scale)
                task.settled = task.method, task.scale, task.audit, task.in_photo
                if task.audit["passed"]:
                    break

    def _hidden(self, photo: Pixels, task: _Task, name: str, edit: FaceEdit) -> Pixels:
        """Give a face the edit of a method that covers, and return the photo with it alone."""
        chosen, face = method(name), task.face
        task.alpha, task.bounds = masks.cover(
            face, photo.shape, scale=chosen.mask_scale, fills_view=chosen.fills_view
        )
        task.crop = crops.cut(photo, face, task.alpha, task.bounds, seed=task.crop.seed)
        (covered,) = edit([task.crop])
        task.edited, task.method, task.scale = covered, name, chosen.mask_scale
        task.in_photo = bool((task.alpha >= 1).any())
        shown = photo.copy()
        crops.paste(shown, covered.pixels, task.crop, task.alpha, task.bounds)
        return shown

    def _guard(self, crop: Crop) -> Guard:
        from moretta.pipeline import budget

        if self._ledger is None:
            self._ledger = budget.opened(budget.place(self.options.ledger))
        return budget.guard(self._ledger, crop)

    def _edit_all(self, tasks: list[_Task]) -> None:
        """Edit all faces at once; when that fails, one by one, so that one face cannot spoil others."""
        tasks = [task for task in tasks if not task.barred]
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
                except MorettaError as error:
                    task.fault = error.told
                except Exception as error:  # noqa: BLE001 - as above
                    task.fault = type(error).__name__  # its words may name files, or hold numbers
        for task in tasks:
            if task.edited is not None and task.edited.fault:
                task.fault = task.edited.fault
                task.edited = None
            if task.edited is not None and not _sound(task.edited.pixels, task.crop.pixels):
                task.edited = None
                task.fault = "the method's answer has another shape or kind than the crop"

    def _compare(self, works: Sequence[_Work]) -> None:
        """Blend edits and compare them with the faces; draw anew, all together, what is still like them."""
        for work in works:
            with _timed([work.result], "blend"):
                self._compose(work)
            with _timed([work.result], "audit"):
                self._judged_in(work, range(len(work.tasks)))
        if works and self.method.redraws:
            with _timed([work.result for work in works], "audit"):
                self._draw_anew(works)

    def _finish(self, work: _Work) -> None:
        """Cover what is known; then look once more, and begin again with what was overlooked."""
        picture, result, tasks = work.picture, work.result, work.tasks
        for _ in range(LOOKS):
            with _timed([result], "audit"):
                self._covered(work, [i for i, task in enumerate(tasks) if not task.audit["passed"]])
            if picture.faces is not None or result.decision == "withheld":
                break
            with _timed([result], "look again"):
                overlooked = self._bared(result) or self._overlooked(result)
            if not overlooked:
                break
            identities, _ = picture.identities.of(overlooked, first=False)
            known = [*(task.face for task in tasks), *overlooked]
            more = [
                self._task(picture, face, identity, known)
                for face, identity in zip(overlooked, identities, strict=True)
            ]
            self._hide_barred(picture, more)
            self._number(picture, result, more, first=len(tasks))
            for task in more:
                task.notes.append("found when the protected photo was looked at again")
            self._edit_all(more)
            tasks += more
            self._compare([work])
        else:
            result.decision = "withheld"
            result.reason = f"faces are still found after {LOOKS} looks"
        if picture.written is not None and result.decision == "published":
            with _timed([result], "audit"):
                self._audit_written(work, picture.written)
        if result.within:
            result.notes.append(
                f"finds that lie whole within the drawing of a surer face, gone with it: "
                f"{len(result.within)}"
            )
        result.faces = [self._record(task) for task in tasks]
        result.subjects = [task.crop.identity for task in tasks]
        if not result.reason:
            covered = [task for task in tasks if "covered" in task.audit]
            whys = sorted({task.fault or "the judge still knew it" for task in covered})
            result.reason = count_of(len(tasks), "face") + (
                f", {len(covered)} covered by policy: {'; '.join(whys)}" if covered else ""
            )

    def _compose(self, work: _Work) -> None:
        """Paste the edits into a copy of the photo."""
        picture, result, tasks = work.picture, work.result, work.tasks
        result.pixels = picture.pixels.copy()
        result.changed = np.zeros(picture.pixels.shape[:2], bool)
        # the coarsest edit last: a small find on a large face must not bring detail back; but cells
        # of what may be no face lie below the faces that were drawn
        order = sorted(tasks, key=lambda one: (not one.barred, masks.tight_side(one.face)))
        drawn: list[_Task] = []
        for task in order:
            if task.edited is not None:
                left, top, right, bottom = task.bounds
                result.changed[top:bottom, left:right] |= task.alpha > 0
                alpha = task.alpha
                if self._draws and not task.barred:
                    alpha = _shared(task, drawn)
                    drawn.append(task)
                crops.paste(
                    result.pixels,
                    task.edited.pixels,
                    task.crop,
                    alpha,
                    task.bounds,
                    match_colour=self.method.match_colour and not task.barred,
                )

    def _bared(self, result: Protected) -> list[Face]:
        """Return, and forget, the finds that were left to a drawing which is not there."""
        bare = [face for face in result.within if _share(result.changed, face) < WHOLE]
        result.within = [face for face in result.within if face not in bare]
        return bare

    def _overlooked(self, result: Protected) -> list[Face]:
        """Return the faces that are found in the protected photo where it was left as it was."""
        found = find_faces(result.pixels, self._eyes, min_face=self.options.min_face, quick=False)
        return [face for face in found if _share(result.changed, face) < HANDLED]

    def _audit_written(self, work: _Work, written: Written) -> None:
        """Judge again, as the file will show it, what is near the threshold; cover what is known there.

        JPEG moves a cosine by a few hundredths; at low qualities it smooths cells into a face (0.03
        became 0.50), and a photo without colours keeps little of a drawing: there everything is judged.
        A file in which nothing is known is the one to publish.
        """
        picture, result, tasks = work.picture, work.result, work.tasks
        reach = np.inf if picture.rough else NEAR
        near = [
            i
            for i, task in enumerate(tasks)
            if task.audit["cosine"] is not None and task.audit["cosine"] > self._known - reach
        ]
        if not near:
            return
        shown, file = written(result.pixels, result.changed)
        known = []
        for i in near:
            task = tasks[i]
            (now,) = self._judge.embed(shown, [task.face])
            cosines = [float(task.old @ now)]
            if task.found is not None:
                cosines.append(self._cosine_as_found(picture.pixels, shown, task))
            cosine = _highest(cosines)
            if not cosine <= self._known:
                task.audit.update(cosine=cosine, passed=False)
                task.notes.append("known only as the file shows it: encoded, or without colours")
                known.append(i)
        result.file = b"" if known else file
        self._covered(work, known)

    def _covered(self, work: _Work, known: list[int]) -> None:
        """Paint what the judge knows, larger each time, or withhold the photo."""
        result, tasks = work.result, work.tasks
        if self.options.on_audit_fail == "cover":
            for scale in COVER_SCALES:
                for i in known:
                    self._paint(result, tasks[i], scale)
                known = self._judged_in(work, known, scale)
        if known:
            result.decision = "withheld"
            faults = {tasks[i].fault for i in known} - {""}
            why = (
                f"the method failed ({'; '.join(sorted(faults))})"
                if faults
                else "the judge knows them"
            )
            result.reason = f"{len(known)} of {count_of(len(tasks), 'face')} not protected: {why}"

    def _draw_anew(self, works: Sequence[_Work]) -> None:
        """Draw faces anew that come near the old ones, those of all photos together; keep the least like.

        Near begins where one stranger in a hundred is taken for the person: what is just below the
        audit's own threshold in this photo is above it in others of the same person.
        """
        earlier: dict[_Task, list[tuple[float, Crop, Edited | None]]] = defaultdict(list)
        while again := [task for work in works for task in work.tasks if self._to_redraw(task)]:
            for task in again:
                earlier[task].append((task.audit["cosine"], task.crop, task.edited))
                task.redrawn += 1
                task.chance = derived(task.chance or task.crop.seed, "again")
                task.crop = replace(task.crop, seed=task.chance, attempt=task.redrawn)
            self._edit_all(again)
            self._compare_changed(works, again)
        back = []
        for task, drawings in earlier.items():
            last = (task.audit["cosine"], task.crop, task.edited)
            usable = [one for one in (last, *drawings) if one[2] is not None]
            best = min(usable, key=lambda one: one[0] if one[0] == one[0] else np.inf)
            task.thrown_away += [one[0] for one in (*drawings, last) if one is not best]
            task.audit["redrawn"] = task.thrown_away
            if best is not last:
                _, task.crop, task.edited = best
                task.fault = ""
            if best is not last or not best[0] <= self._like:
                task.chosen = True  # now by the points as found, too
                back.append(task)
        self._compare_changed(works, back)

    def _compare_changed(self, works: Sequence[_Work], changed: Sequence[_Task]) -> None:
        """Blend and judge the faces whose edits have changed, and those near them."""
        for work in works:
            these = [i for i, task in enumerate(work.tasks) if task in changed]
            if these:
                self._compose(work)
                self._judged_in(work, _touched(work.tasks, these))

    def _to_redraw(self, task: _Task) -> bool:
        """Whether another drawing of this face should be tried."""
        left = task.redrawn < self.method.redraws
        return left and _may_change(task) and not task.audit["cosine"] <= self._like

    def _judged_in(self, work: _Work, these: Sequence[int], scale: float = 0.0) -> list[int]:
        """Let the judge look at some faces of a photo: see `_judged`."""
        return self._judged(work.picture.pixels, work.result.pixels, work.tasks, these, scale)

    def _judged(
        self,
        photo: Pixels,
        shown: Pixels,
        tasks: list[_Task],
        these: Sequence[int],
        scale: float = 0.0,
    ) -> list[int]:
        """Let the judge look at some faces, and return those that did not pass.

        photo, shown: the pixels before and after. scale: of the ellipse that covers them, 0 for the
        method's own work. A painted view that is all one colour has nothing to compare: it has passed,
        and costs no network.
        """
        seen = []
        for i in these:
            task = tasks[i]
            if task.settled is not None and not scale:  # the judge has been asked already
                task.method, task.scale, task.audit, task.in_photo = task.settled
                continue
            if not scale:
                task.method, task.scale, task.audit = self.method.name, task.drawn_scale, {}
                task.in_photo = bool((task.alpha >= 1).any())
            view = self._judge.crop(shown, task.face)
            painted = scale > 0 and task.method == COVER
            painted |= self.method.fills_view and task.edited is not None
            if painted and task.in_photo and int(np.ptp(view, axis=(0, 1)).max()) <= BLANK:
                self._note(task, None, scale)
            else:
                seen.append((i, view))
        if seen:
            new = [i for i, _ in seen if tasks[i].old is None]
            befores = [self._judge.crop(photo, tasks[i].face) for i in new]
            vectors = self._judge.embed_crops(np.stack([*befores, *(view for _, view in seen)]))
            for i, vector in zip(new, vectors, strict=False):
                tasks[i].old = vector
            for (i, _), now in zip(seen, vectors[len(new) :], strict=True):
                cosine = float(tasks[i].old @ now)
                near = cosine > self._known - NEAR and tasks[i].found is not None
                anew = self.method.redraws and _may_change(tasks[i]) and not tasks[i].chosen
                if near and not (anew and cosine > self._like):
                    cosine = _highest([cosine, self._cosine_as_found(photo, shown, tasks[i])])
                self._note(tasks[i], cosine, scale)
        return [i for i in these if not tasks[i].audit["passed"]]

    def _cosine_as_found(self, photo: Pixels, shown: Pixels, task: _Task) -> float:
        """Return what the judge says of a face before and after, by the points as they were found."""
        face = task.found or task.face
        if task.old_found is None:
            (task.old_found,) = self._judge.embed(photo, [face])
        (now,) = self._judge.embed(shown, [face])
        return float(task.old_found @ now)

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
        if task.thrown_away:
            task.audit["redrawn"] = task.thrown_away
        if scale:
            first = {"cosine": before.get("cosine"), "fault": task.fault}
            first = before.get("covered", first)
            if task.edited is not None and not task.barred:  # what the method made: nobody sees it
                first = {**first, "figures": dict(task.edited.figures)}
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
        enlarged = 1 / crops.scale_of(task.crop.matrix)
        notes = list(task.notes)
        if own and self.method.template != "window" and enlarged > 1:
            notes.append(f"the face is {enlarged:.1f} times larger than the drawn crop: soft")
        return FaceRecord(
            box=(face.box.left, face.box.top, face.box.right, face.box.bottom),
            points=tuple((float(x), float(y)) for x, y in face.points),
            points_from=face.points_from,
            score=face.score,
            detector=face.detector,
            method=task.method,
            settings={**self.settings.model_dump(), **self._told, **task.edited.settings}
            if own and task.edited
            else task.cover
            if task.method == DOUBTFUL
            else {},
            seed=task.crop.seed if self.tells_seeds else None,
            mask_scale=task.scale,
            crop_scale=enlarged,
            audit=task.audit,
            notes=tuple(notes),
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


def _plainly(name: str, *, strength: float | None = None) -> tuple[str, Settings, FaceEdit]:
    """Return a method's name, its settings as they are by themselves or at a strength, and its edit."""
    chosen = method(name)
    own = settings(chosen, {}, strength=strength)
    return name, own, chosen.build(own, "cpu")


def _doubt(face: Face, others: Sequence[Face], enlarged: float, *, by_hand: bool) -> str:
    """Return why this may be no face, so that none is to be drawn here; or nothing.

    enlarged: photo pixels a crop pixel. A face drawn into a hand or a pattern is a ghost, and one
    drawn into a false alarm far larger than a head hides the real ones.
    """
    if by_hand:
        return ""  # a person's word
    held = [
        other
        for other in others
        if other.score > face.score
        and other.box.side < HELD * face.box.side
        and other.box.inside(face.box) > 0.5
    ]
    if held:
        return "it holds a smaller face that was found more surely: too large to be one"
    if any(o.score > face.score and face.box.inside(o.box) > WITHIN for o in others):
        return ""  # the surer face is drawn over it
    unsure = f"found too unsurely (score {face.score:.2f})"
    if enlarged > LARGE and face.score < SURE_IF_LARGE:
        return f"{unsure} for a face {enlarged:.0f} times the drawn one"
    if face.score < SURE.get(face.detector, 0.0):
        return f"{unsure} for a face to be drawn there"
    return ""


def _apart(tasks: Sequence[_Task]) -> tuple[list[_Task], list[Face]]:
    """Return the faces to handle, in their order, and the finds that others replace whole.

    In a large photo the detector takes an eye or a nostril for a face. To draw it and let the judge
    look at it ends in paint on the face that was just drawn. It is left out when a surer face that is
    itself handled and drawn replaces all that would be drawn for it: then no pixel of it leaves, be
    it a false alarm or a real face. A face that merely overlaps keeps some of its own, and is handled.
    """
    kept: list[_Task] = []
    for task in sorted(tasks, key=lambda one: -one.face.score):
        if not any(_replaces(surer, task) for surer in kept):
            kept.append(task)
    gone = [task.face for task in tasks if task not in kept]
    return [task for task in tasks if task in kept], gone


def _replaces(surer: _Task, task: _Task) -> bool:
    """Whether one face's drawing replaces another find: its box, and the ellipse of its own drawing.

    Hair line, ears and jaw are in that ellipse. Where the feather begins, the photo shows through.
    """
    if surer.barred or surer.face.score <= task.face.score:
        return False
    box = task.face.box
    edges = int(box.left), int(box.top), int(np.ceil(box.right)), int(np.ceil(box.bottom))
    parts = _alpha_in(surer, edges), _alpha_in(surer, task.bounds)[task.alpha > 0]
    return all(part.size and float((part >= 1).mean()) >= WHOLE for part in parts)


def _shared(task: _Task, smaller: Sequence[_Task]) -> Alpha:
    """Return a drawing's mask without what belongs to faces beside it that are drawn already.

    Where two heads touch, each pixel is that of the face to whose middle it is nearer, in units of
    its own ellipse. Only pixels that the other drawing has replaced whole are left to it. A find much
    smaller, or one that lies within, is no face beside this one.
    """
    alpha, feather = task.alpha, method(task.method).mask_feather
    for other in smaller:
        if masks.tight_side(other.face) < BESIDE * masks.tight_side(task.face):
            continue
        whole = _alpha_in(other, task.bounds) >= 1
        if not whole.any():
            continue
        own = masks.depth(task.face, task.bounds, scale=task.drawn_scale)
        its = masks.depth(other.face, task.bounds, scale=other.drawn_scale)
        if own.flat[int(its.argmin())] < BESIDE:  # its middle lies within
            continue
        nearer = np.clip((own - its) / SEAM + 0.5, 0, 1)
        given = nearer * np.clip((1 - feather - its) / SEAM, 0, 1) * whole
        alpha = alpha * (1 - given)
    return alpha.astype(np.float32, copy=False)


def _alpha_in(task: _Task, bounds: crops.Bounds) -> Alpha:
    """Return the face's mask in another window, 0 where it does not reach."""
    left, top, right, bottom = bounds
    seen = np.zeros((bottom - top, right - left), np.float32)
    own = task.bounds
    x, y = max(own[0], left), max(own[1], top)
    until_x, until_y = min(own[2], right), min(own[3], bottom)
    if x < until_x and y < until_y:
        part = task.alpha[y - own[1] : until_y - own[1], x - own[0] : until_x - own[0]]
        seen[y - top : until_y - top, x - left : until_x - left] = part
    return seen


def _touched(tasks: Sequence[_Task], changed: Sequence[int]) -> list[int]:
    """Return the faces that must be judged again: those that changed, and those near them."""
    return [
        i
        for i, task in enumerate(tasks)
        if i in changed or any(_meet(task.bounds, tasks[j].bounds) for j in changed)
    ]


def _meet(one: crops.Bounds, other: crops.Bounds) -> bool:
    """Whether two windows overlap, or nearly: a recogniser's view may reach beyond its own."""
    margin = [(b - a) // 4 for a, b in ((one[0], one[2]), (one[1], one[3]))]
    return all(
        one[k] - margin[k] < other[k + 2] and other[k] < one[k + 2] + margin[k] for k in (0, 1)
    )


def _may_change(task: _Task) -> bool:
    """Whether another drawing of this face may take the place of the one that the judge knows.

    A face shared through --identity keeps the one it has: drawn anew it would be a second person.
    """
    return task.edited is not None and task.crop.identity is None and not task.barred


def _highest(cosines: Sequence[float]) -> float:
    """Return the highest cosine; one that is no number counts as higher than any."""
    return max(cosines, key=lambda one: math.inf if math.isnan(one) else one)


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
