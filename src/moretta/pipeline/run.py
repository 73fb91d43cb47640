"""Run over many photos: plan, workers, manifest, summary. The rim where files are touched."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import re
import secrets
import signal
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self, TypeVar

import numpy as np

from moretta import __version__
from moretta.errors import (
    DiskFull,
    ManifestError,
    MorettaError,
    PhotoError,
    UsageError,
    count_of,
    one_line,
)
from moretta.faces.detect import detector
from moretta.faces.recognise import JUDGE
from moretta.methods import method
from moretta.methods import settings as chosen_settings
from moretta.photos import manifest as manifests
from moretta.photos.encode import as_written, shows_all
from moretta.photos.files import encode_photo, read_photo, sha256_of, write_whole
from moretta.pipeline import budget, persons, sealing
from moretta.pipeline.boxes import Drawn, read_boxes
from moretta.pipeline.custody import KeyTable, other_keys
from moretta.pipeline.inputs import Input, listed, renamed
from moretta.pipeline.options import Options, weaker
from moretta.pipeline.protect import NOBODY, Identities, Picture, Protector
from moretta.pipeline.recover import beside
from moretta.privacy.keys import derived
from moretta.records import PhotoRecord
from moretta.weights import load

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    import numpy.typing as npt

    from moretta.photos.files import Photo
    from moretta.pipeline.custody import Keyring
    from moretta.pipeline.protect import Written
    from moretta.privacy.ledger import Ledger
    from moretta.records import Face

_SPAWNED = multiprocessing.get_context("spawn")
AUTO = 8  # photos from which `--jobs auto` starts a worker for each core
FINE = 90  # least quality of a JPEG that keeps cosines as they are
BATCH = 8  # photos whose faces are drawn together by methods that use a network


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """A worker's answer in the first pass, for grouping: faces and vectors, in memory only."""

    path: Path
    faces: tuple[Face, ...]
    vectors: npt.NDArray[np.float32]  # (faces, length)
    check: int  # of the pixels: another picture under this name is searched anew


@dataclass(frozen=True, slots=True)
class Work:
    """One photo for a worker."""

    path: Path
    name: str  # of the output
    folder: Path
    drawn: Drawn | None
    hashed: bool = False  # for the internal record
    identities: Identities = NOBODY
    looked: Looked | None = None  # what the first pass found, when there was one
    original: str = ""  # the input's name, to be sealed; empty when no sidecar is written


@dataclass(frozen=True, slots=True)
class Done:
    """A worker's answer."""

    record: PhotoRecord
    input_sha256: str = ""
    ours: bool = False  # the failure is our fault
    full: bool = False  # the disk is full


@dataclass(slots=True, kw_only=True)
class Summary:
    """Counts that add up: inputs = published + withheld + failed + kept + left."""

    output: str
    inputs: int = 0  # photos, and what could not be read as one
    published: int = 0
    withheld: int = 0
    failed: int = 0
    drawn: int = 0  # synthetic faces, by a method that needs them before the first photo
    to_draw: int = 0
    kept: int = 0  # done by an earlier run, with --resume
    looked: int = 0  # photos of the first pass, when persons are grouped
    not_photos: int = 0  # other files in the folders: left alone
    links_outside: int = 0  # links in the folders to what lies outside the inputs: left alone
    others_in_output: int = 0  # files that no run of ours wrote into the output folder: left alone
    faces: int = 0  # these four counts: of this run and of what an earlier one did
    covered: int = 0
    soft: int = 0  # faces larger than the drawing
    softest: float = 0.0  # how many times larger, at most
    kept_withheld: int = 0  # of those kept
    kept_troubled: int = 0  # of those kept: withheld, or covered by policy
    kept_bare: int = 0  # of those kept: their sidecars were moved away since
    again: int = 0  # done again: an earlier run's file, or its sidecar, was gone or cut off
    our_fault: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    disk_full: bool = False
    spent: Mapping[str, Any] = field(default_factory=dict)  # of budgets, since the run began
    weak: str = ""  # what these options hide less of than the defaults
    troubles: list[tuple[str, str, str]] = field(default_factory=list)  # input, decision, reason

    @property
    def left(self) -> int:
        """Photos that an interruption left undone."""
        return self.inputs - self.published - self.withheld - self.failed - self.kept

    @property
    def exit_code(self) -> int:
        """0 all published; 1 our fault; 3 withheld or covered; 4 unreadable; 130 interrupted."""
        if self.interrupted:
            return 130
        if self.our_fault:
            return 1
        if self.failed or self.disk_full:
            return 4
        if self.left:  # nobody interrupted us, so it is ours
            return 1
        return 3 if self.withheld or self.covered or self.kept_troubled else 0


Listener = Callable[[Summary, PhotoRecord | None], None]


def run(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    options: Options,
    *,
    jobs: int | Literal["auto"] = "auto",
    resume: bool = False,
    overwrite: bool = False,
    boxes: str | os.PathLike[str] | None = None,
    internal_record: str | os.PathLike[str] | None = None,
    keyring: Keyring | None = None,
    listener: Listener | None = None,
) -> Summary:
    """Protect photos into a folder. See `moretta anonymize --help` for what each argument means.

    Returns the counts. Raises UsageError and its kin before any work starts; what goes wrong with
    one photo is in the summary and in the manifest, and the others go on.
    """
    folder = Path(output)
    ready = admitted(
        inputs,
        folder,
        options,
        jobs=jobs,
        resume=resume,
        overwrite=overwrite,
        boxes=boxes,
        internal_record=internal_record,
        keyring=keyring,
    )
    items, drawn, plan, jobs = ready.items, ready.drawn, ready.plan, ready.jobs
    going_on = ready.going_on
    summary = Summary(output=str(folder), weak="; ".join(weaker(options)))

    def drawing(done: int, count: int) -> None:
        summary.drawn, summary.to_draw = done, count
        if listener:
            listener(summary, None)

    if ready.to_draw:
        prepared(options, sum(item.photo for item in items), jobs, drawing)
    started = time.perf_counter()
    able = sum(item.photo and not item.fault for item in items)
    team = _Team(options, _count_of_jobs(jobs, able), keyring)
    with contextlib.ExitStack() as held:  # what refuses stands first: it leaves nothing behind
        held.enter_context(team.checked(when=able > 0 and not going_on))
        internal = _internal(internal_record)
        ledger = held.enter_context(_ledger(ready.ledger))
        manifest = held.enter_context(
            manifests.opened(
                folder, ready.settings, resume=resume, overwrite=overwrite, beside=beside
            )
        )
        before = ledger.last() if ledger else 0
        if keyring is not None and keyring.table is not None:
            KeyTable(keyring.table).make()
        if options.rename:
            items = sorted(renamed(items, folder), key=lambda item: item.output)
        photos = [item for item in items if item.photo]
        summary.others_in_output = manifest.others()
        summary.inputs = len(photos)
        summary.links_outside = sum(item.outside for item in items)
        summary.not_photos = len(items) - len(photos) - summary.links_outside
        if ledger is not None and plan.kind in ("folders", "csv"):
            secret = ledger.secret  # a person stays one in every run: what is spent adds up
        else:
            secret = persons.secret(plan, manifest, _persons_seed(plan, options, keyring))
        work, sources = [], {}
        for item in photos:
            name = item.name if item.fault and not options.rename else item.output
            fault = item.fault
            if name in manifest.done:
                _keep(summary, manifest.done[name], item.name)
                summary.kept_bare += name in manifest.bare
                continue
            summary.again += name in manifest.again
            taken = [name, name + manifests.SIDECAR] if options.reversible else [name]
            if not fault and not all(map(manifest.may_write, taken)):
                fault = "a file of this name is already in the output folder"
            if fault:
                record = _failed(name, fault)
                _count(summary, record, item.name)
                manifest.append(record)
            else:
                sources[name] = item.name
                identities = plan.identities(item.name, secret)
                boxes_of = drawn.get(item.name)
                work.append(
                    Work(
                        item.path,
                        name,
                        folder,
                        boxes_of,
                        bool(internal),
                        identities=identities,
                        original=item.name if options.reversible else "",
                    )
                )
        if listener:
            listener(summary, None)

        def settle(done: Done) -> None:
            if internal:  # first: a line too many is harmless, one too few loses a link
                _note(internal, sources[done.record.name], done)
            manifest.append(done.record)
            summary.our_fault += done.ours
            _count(summary, done.record, sources[done.record.name])
            summary.seconds = time.perf_counter() - started
            if listener:
                listener(summary, done.record)

        grouping = plan.kind == "group" and work
        if going_on:
            team.jobs = _count_of_jobs(jobs, len(photos) if grouping else len(work))
        try:
            with team:
                if grouping:
                    every = _to_look_at(photos, drawn, folder)
                    looked = []
                    for one in team.each([[one] for one in every], look, lambda _: None):
                        looked.append(one)
                        summary.looked = len(looked)
                        if listener:
                            listener(summary, None)
                    work = _with_groups(work, every, looked, secret)
                try:
                    for done in team.each(_batches(work, options), handle, _lost):
                        if done.full:
                            summary.disk_full = True
                            summary.troubles.append(
                                (sources[done.record.name], "failed", done.record.reason)
                            )
                            break
                        settle(done)
                except KeyboardInterrupt:
                    summary.interrupted = True
                    for done in team.left():  # their files are there already
                        if done.record.name not in manifest.done and not done.full:
                            settle(done)
        except DiskFull as error:
            summary.disk_full = True
            summary.troubles.append((str(folder), "failed", error.fault))
        except KeyboardInterrupt:
            summary.interrupted = True
        if summary.interrupted or summary.disk_full:
            _take_back_unlisted(work, folder)
        if options.rename and not summary.left:
            (folder / manifests.NAMES).unlink(missing_ok=True)
        if not summary.left:
            persons.forget(folder)
        if ledger is not None:
            summary.spent = ledger.since(before)
    summary.seconds = time.perf_counter() - started
    return summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a run begins with, when nothing refuses it."""

    items: Sequence[Input]
    drawn: Mapping[str, Drawn]
    plan: persons.Plan
    jobs: int | Literal["auto"]  # as many as the method allows
    to_draw: int  # synthetic faces, before the first photo
    settings: Mapping[str, Any]  # as `run.json` has them
    going_on: bool  # with an earlier run
    done: frozenset[str]  # names of what that one has done
    ledger: Path | None  # where releases are counted, if they are


def admitted(
    inputs: Sequence[str | os.PathLike[str]],
    folder: Path,
    options: Options,
    *,
    jobs: int | Literal["auto"] = "auto",
    resume: bool = False,
    overwrite: bool = False,
    boxes: str | os.PathLike[str] | None = None,
    internal_record: str | os.PathLike[str] | None = None,
    keyring: Keyring | None = None,
) -> Ready:
    """Return what a run with these arguments begins with; arguments as those of `run`.

    Raises UsageError and its kin for what refuses it. Nothing is made, drawn or written, so a dry run
    calls this too. What shows only when a file is opened for writing is left to the run: another run
    in the folder, a damaged page of a ledger, other photos' sidecars.
    """
    check_earlier(resume=resume, overwrite=overwrite)
    sealing.check(options, keyring)
    sealing.check_places(keyring, folder, options, None if boxes is None else Path(boxes))
    _count_of_jobs(jobs, 1)
    drawn = read_boxes(Path(boxes)) if boxes is not None else {}
    items = listed(inputs, folder, container=options.format, rename=options.rename)
    check_boxes(drawn, items)
    plan = persons.planned(items, options)
    going_on = resume and (folder / manifests.RUN).exists()
    if not (resume or overwrite):
        manifests.refuse_earlier(folder)
    detecting = [one for wanted in options.detector for one in detector(wanted).networks]
    chosen = method(options.method)
    own = chosen_settings(chosen, options.settings, strength=options.strength)
    for name in (*detecting, *chosen.networks, *own.networks, JUDGE):
        load.locate(name)
    if options.device == "cuda":
        load.open_onnx(JUDGE, device="cuda")
    _refuse_inputs_among_outputs(items, folder)
    photos = sum(item.photo for item in items)
    jobs, to_draw = prepared(options, photos, jobs, None)
    if not photos:
        raise UsageError("there is no photo in the inputs", hint="check the names of the folders")
    settings = {**options.model_dump(exclude={"ledger"}), "version": __version__}
    if plan.kind == "csv":
        settings["persons"] = "csv"  # no path: it may name somebody
    settings["settings"] = {**options.settings, **own.told}
    told = _keys_told(keyring, manifests.settings_of(folder) if going_on else {}, folder)
    if told:
        settings["keys"] = told
    if boxes is not None:
        settings["boxes_sha256"] = sha256_of(Path(boxes))
    manifests.check_place(folder)
    lines = manifests.examined(folder, settings, resume=resume, overwrite=overwrite)
    lines = [line for line in lines if going_on and line["decision"] != "failed"]
    kept = [line for line in lines if manifests.stands(folder, line)]
    if options.rename and kept:
        _refuse_finished(folder)
    if not (own.counted and plan.kind in ("folders", "csv")):  # else they come from the ledger
        seed = _persons_seed(plan, options, keyring)
        persons.check(plan, folder, earlier=going_on, done=bool(kept), seed=seed)
    _refuse_internal(internal_record, folder)
    return Ready(
        items=items,
        drawn=drawn,
        plan=plan,
        jobs=jobs,
        to_draw=to_draw,
        settings=settings,
        going_on=going_on,
        done=frozenset(line["name"] for line in kept),
        ledger=_place_of_ledger(folder, options) if own.counted else None,
    )


def look(batch: Sequence[Work], protector: Protector) -> Iterator[Looked]:
    """Find and embed the faces of photos; what cannot be read is left out, and fails when handled."""
    for work in batch:
        try:
            photo = _read(work, protector.options)
            if work.drawn is not None:
                faces = work.drawn.faces
            else:
                faces = tuple(protector.find(photo.pixels, looks=photo.looks()))
            vectors = protector.embed(photo.pixels, faces)
        except Exception:  # noqa: BLE001, S112 - the same fault is reported when it is handled
            continue
        yield Looked(work.path, faces, vectors, _check_of(photo))


def _to_look_at(photos: Sequence[Input], drawn: Mapping[str, Drawn], folder: Path) -> list[Work]:
    """Return every photo of the run for the first pass, those of an earlier part too.

    Groups hang on all photos and on their order, so neither may hang on what is done already, or on
    neutral names.
    """
    return [
        Work(item.path, item.output, folder, drawn.get(item.name))
        for item in sorted(photos, key=lambda item: (item.name, str(item.path)))
        if not item.fault
    ]


def _with_groups(
    work: Sequence[Work], every: Sequence[Work], looked: Sequence[Looked], secret: int
) -> list[Work]:
    """Give each photo the faces that the first pass found, and each of them its group's seed."""
    found = {one.path: one for one in looked}
    ordered = [found[one.path] for one in every if one.path in found]  # not as workers were done
    seeds = persons.by_group([one.vectors for one in ordered], secret)
    group = {one.path: identities for one, identities in zip(ordered, seeds, strict=True)}
    return [
        replace(one, looked=found[one.path], identities=group[one.path])
        if one.path in found
        else one
        for one in work
    ]


def _check_of(photo: Photo) -> int:
    """Return a checksum of all that a photo shows: has it changed since it was looked at?"""
    check = zlib.crc32(repr(photo.pixels.shape).encode())
    for pixels in (photo.pixels, *photo.looks()):
        check = zlib.crc32(np.ascontiguousarray(pixels).data, check)
    return check


def _written(photo: Photo, options: Options) -> Written | None:
    """Return what tells how the file will show edited pixels; None where it shows them as they are."""
    if shows_all(photo, options.format):
        return None
    return partial(
        as_written,
        photo,
        format=options.format,
        quality=options.quality,
        metadata=options.metadata,
    )


def _rough(photo: Photo, options: Options) -> bool:
    """Return whether a file that shows edited pixels otherwise than they are shows them far from that."""
    container = photo.format if options.format is None else options.format
    fine = container == "jpeg" and options.quality >= FINE
    return not fine or photo.kind.startswith("grey")


def _picture(work: Work, photo: Photo, begun: sealing.Begun | None, options: Options) -> Picture:
    looked, identities = work.looked, work.identities
    if looked is not None and looked.check != _check_of(photo):  # replaced since: begin anew
        looked, identities = None, NOBODY
    return Picture(
        pixels=photo.pixels,
        name=work.name,
        faces=work.drawn.faces if work.drawn is not None else None,
        looks=photo.looks(),
        found=looked.faces if looked is not None else None,
        identities=identities,
        written=_written(photo, options),
        rough=_rough(photo, options),
        pseudonyms=begun.pseudonyms if begun is not None else None,
    )


def handle(batch: Sequence[Work], protector: Protector) -> Iterator[Done]:
    """Read, protect and write a batch of photos; one photo's fault stays its own.

    Each answer comes right after its file, so that an interruption finds at most one without a line:
    see `_take_back_unlisted`.
    """
    ready: list[tuple[Work, Photo, dict[str, float], str, sealing.Begun | None]] = []
    for work in batch:
        start = time.perf_counter()
        try:
            before = sha256_of(work.path) if work.original and work.path.is_file() else ""
            photo = _read(work, protector.options)
            digest = before or (sha256_of(work.path) if work.hashed else "")
            begun = sealing.begin(protector.options, protector.keyring)
            ready.append((work, photo, {"read": time.perf_counter() - start}, digest, begun))
            continue
        except Exception as error:  # noqa: BLE001 - every fault becomes a failed photo, never a leak
            fault = _fault(work, error)
        yield fault
    try:
        results = protector.protect(
            [_picture(work, photo, one, protector.options) for work, photo, _, _, one in ready]
        )
    except Exception as error:  # noqa: BLE001 - as above
        if len(ready) == 1:
            yield _fault(ready[0][0], error)
        else:
            for work, *_ in ready:
                yield from handle([work], protector)
        return
    for (work, photo, seconds, digest, begun), result in zip(ready, results, strict=True):
        try:
            done = Done(_publish(work, photo, result, seconds, protector, digest, begun), digest)
        except Exception as error:  # noqa: BLE001 - as above
            done = _fault(work, error)
        yield done


def _read(work: Work, options: Options) -> Photo:
    photo = read_photo(work.path, metadata=options.metadata, max_pixels=options.max_pixels)
    height, width = photo.pixels.shape[:2]
    if work.drawn is not None and (work.drawn.width, work.drawn.height) != (width, height):
        raise PhotoError(
            f"it is {width} x {height}, the boxes were drawn on {work.drawn.width} x "
            f"{work.drawn.height}",
            hint="export the boxes of this photo again",
        )
    return photo


def _publish(
    work: Work,
    photo: Photo,
    result: Any,
    seconds: dict[str, float],
    protector: Protector,
    digest: str,
    begun: sealing.Begun | None,
) -> PhotoRecord:
    options, keyring = protector.options, protector.keyring
    content, sidecar = b"", ("", 0, "")
    start = time.perf_counter()
    if result.decision == "published":
        content = result.file or encode_photo(
            photo,
            result.pixels,
            result.changed,
            format=options.format,
            quality=options.quality,
            metadata=options.metadata,
        )
        seconds["encode"] = time.perf_counter() - start
        start = time.perf_counter()
        target = manifests.inside(work.folder, work.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        stamp = manifests.FIXED_TIME if options.rename else None
        if work.original and begun is not None and keyring is not None:
            sidecar = sealing.seal_photo(
                target,
                content,
                work.path,
                digest=digest,
                name=work.original,
                begun=begun,
                keyring=keyring,
                model=sealing.model_digest(protector.method.name, protector.settings.model_dump()),
                faces=result.faces,
                subjects=result.subjects,
                mtime=stamp,
            )
            seconds["seal"] = time.perf_counter() - start
            start = time.perf_counter()
        write_whole(target, content, mtime=stamp, durable=False)
        seconds["write"] = time.perf_counter() - start
    else:
        _take_back(work)
    height, width = photo.pixels.shape[:2]
    return PhotoRecord(
        name=work.name,
        decision=result.decision,
        reason=result.reason,
        width=width,
        height=height,
        faces=tuple(result.faces),
        notes=(*photo.notes, *result.notes),
        weights=protector.weights(result.faces),
        seconds={**seconds, **result.seconds},
        output_sha256=hashlib.sha256(content).hexdigest() if content else "",
        output_bytes=len(content),
        sidecar_sha256=sidecar[0],
        sidecar_bytes=sidecar[1],
        sidecar_core=sidecar[2],
        pseudonym=begun.public if begun is not None and content else {},
        method=protector.method.name,
        seed=result.seed if protector.tells_seeds else None,
        version=__version__,
    )


def _fault(work: Work, error: Exception) -> Done:
    """Turn an exception into a failed photo with one clear line, free of the input's name.

    The name stands beside the reason where the user reads it, and `--rename` promises that it
    stands nowhere in the output folder.
    """
    full = isinstance(error, DiskFull)
    ours = False
    if isinstance(error, PhotoError):
        reason = f"{error.fault}; {error.hint}" if error.hint else error.fault
    elif isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no room left on the disk" if full else f"{error.strerror or error}"
    elif isinstance(error, MemoryError):
        reason = "not enough memory for a photo of this size"
    elif isinstance(error, MorettaError):
        reason = error.told  # a manifest is published: no paths of keys, ledgers and pools
    else:
        ours = True
        reason = f"internal error: {type(error).__name__}: {error}; please report it"
    for named in (
        str(work.path),
        one_line(str(work.path)),
        work.path.name,
        one_line(work.path.name),
    ):
        whole = (
            rf"(?<![\w.-]){re.escape(named)}(?![\w-])"  # a photo called "a" is not in every word
        )
        reason = re.sub(whole, "the photo", reason.removeprefix(f"{named}: "))
    with contextlib.suppress(OSError, MorettaError):  # what a killed run left has no line
        _take_back(work)
    return Done(_failed(work.name, reason), ours=ours, full=full)


def _take_back(work: Work) -> None:
    """Remove what a photo left in the output folder: no sidecar without its photo, and no photo."""
    path = manifests.inside(work.folder, work.name)
    path.unlink(missing_ok=True)
    if work.original:
        sealing.sidecar_of(path).unlink(missing_ok=True)


def _take_back_unlisted(work: Sequence[Work], folder: Path) -> None:
    """Remove what an interruption, or a full disk, left between a photo and its line."""
    listed = {line["name"] for line in manifests.read_lines(folder)}
    for one in work:
        if one.name not in listed:
            with contextlib.suppress(PhotoError):  # a name that leads elsewhere was not written
                _take_back(one)


def _failed(name: str, reason: str) -> PhotoRecord:
    return PhotoRecord(name=name, decision="failed", reason=reason, version=__version__)


def _count(summary: Summary, record: PhotoRecord, source: str) -> None:
    setattr(summary, record.decision, getattr(summary, record.decision) + 1)
    summary.faces += len(record.faces)
    summary.covered += record.covered
    summary.soft += len(record.soft)
    summary.softest = max(summary.softest, *record.soft, 0.0)
    if record.decision != "published" or record.covered:
        decision = record.decision if record.decision != "published" else "covered"
        summary.troubles.append((source, decision, record.reason))


def _keep(summary: Summary, line: Mapping[str, Any], source: str) -> None:
    """Count what an earlier run did; what it withheld or covered is still so."""
    summary.kept += 1
    faces = line.get("faces", [])
    summary.faces += len(faces)
    published = line["decision"] == "published"
    covered = 0
    for face in faces if published else ():
        if "covered" in face.get("audit", {}):
            covered += 1
        elif face.get("crop_scale", 0.0) > 1:
            summary.soft += 1
            summary.softest = max(summary.softest, face["crop_scale"])
    summary.covered += covered
    summary.kept_withheld += not published
    if covered or not published:
        summary.kept_troubled += 1
        decision = "covered" if published else line["decision"]
        summary.troubles.append((source, decision, line.get("reason", "")))


def check_boxes(drawn: Mapping[str, Drawn], items: Sequence[Input]) -> None:
    """Raise UsageError when boxes are given for a photo that is not there: a name is mistyped."""
    twice = Counter(item.name for item in items)
    for name in drawn:
        if twice[name] > 1:
            raise UsageError(
                f"--boxes names {name}, and {twice[name]} inputs have that name",
                hint="give the inputs in separate runs",
            )
    unknown = sorted(set(drawn) - {item.name for item in items})
    if unknown:
        raise UsageError(
            f"--boxes names {count_of(len(unknown), 'photo')} not among the inputs, such as {unknown[0]}",
            hint="names are relative to the input folder, as `moretta detect --json` writes them",
        )


def _refuse_inputs_among_outputs(items: Sequence[Input], folder: Path) -> None:
    """An earlier run's folder is no place for inputs: `--overwrite` would remove them first."""
    if not (folder / manifests.RUN).exists() and not (folder / manifests.MANIFEST).exists():
        return
    place = folder.resolve()
    for item in items:
        with contextlib.suppress(OSError, RuntimeError):  # what cannot be resolved is no output
            if place in item.path.resolve().parents:
                raise UsageError(
                    f"the input {item.path} lies in the output folder of an earlier run",
                    hint="choose another --output, or move the input out of it",
                )


def _refuse_finished(folder: Path) -> None:
    if not (folder / manifests.NAMES).exists():
        raise UsageError(
            f"{folder} holds a finished run whose list of names was destroyed, as --rename promises",
            hint="choose a new folder",
        )


def _persons_seed(plan: persons.Plan, options: Options, keyring: Keyring | None) -> int | None:
    """Return what persons' numbers come from: the key, where they have names that last."""
    if options.scope == "subject" and plan.kind in ("folders", "csv") and keyring is not None:
        return int.from_bytes(derived(keyring.master, b"", b"persons")[:8], "big") >> 1
    return options.seed


def _keys_told(keyring: Keyring | None, earlier: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what `run.json` says of the keys. earlier: the settings of the run that this goes on with.

    Raises ManifestError when that one had other keys: no key would open, or repeat, the whole folder.
    """
    given = keyring is not None and bool(keyring.given)
    before = earlier.get("keys")
    if before is None and given and earlier:
        raise ManifestError(
            f"{folder} was begun without keys, or by a version that did not note which",
            hint="choose a new folder, or start anew with --overwrite",
        )
    try:
        salt = before["salt"] if before is not None else secrets.token_hex(16)
        now = keyring.told(salt) if keyring is not None and given else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{folder / manifests.RUN} is damaged",
            hint="start anew with --overwrite, or choose another folder",
        ) from error
    changed = other_keys(before, now) if before is not None else []
    if changed:
        raise ManifestError(
            f"{folder} was begun with other keys: {', '.join(changed)}",
            hint="resume with the same ones; moretta key rotate gives finished sidecars to others",
        )
    return now


def _refuse_internal(path: str | os.PathLike[str] | None, folder: Path) -> None:
    """Raise UsageError for a place where no internal record may lie, or where none can be written."""
    if path is None:
        return
    wanted = Path(path)
    if folder.resolve() in wanted.resolve().parents:
        raise UsageError(
            f"the internal record {wanted} would lie in the output folder",
            hint="it links outputs to originals: keep it where the originals are",
        )
    if not wanted.exists():
        manifests.check_place(wanted.parent, hint="choose another name")
        return
    with _writing(wanted), wanted.open("r+b") as file:
        first = file.readline(100_000)
    if first and b'"input_sha256"' not in first:
        raise UsageError(
            f"{wanted} is there and is not an internal record", hint="choose another name"
        )


def _internal(path: str | os.PathLike[str] | None) -> Path | None:
    if path is None:
        return None
    wanted = Path(path)
    with _writing(wanted):
        wanted.parent.mkdir(parents=True, exist_ok=True)
        _appended(wanted).close()
    return wanted


@contextlib.contextmanager
def _writing(wanted: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{wanted} cannot be written: {error.strerror}", hint="choose another name"
        ) from error


def _place_of_ledger(folder: Path, options: Options) -> Path:
    """Return where releases are counted. Raises UsageError and LedgerError; opens nothing."""
    path = budget.place(options.ledger)
    if folder.resolve() in path.resolve().parents:
        raise UsageError(
            f"the ledger {path} would lie in the output folder",
            hint="it tells what was released about whom: keep it with the originals",
        )
    budget.examined(path)
    return path


def _ledger(path: Path | None) -> contextlib.AbstractContextManager[Ledger | None]:
    """Open the ledger, when releases are counted: what is wrong with it is said before work starts."""
    if path is None:
        return contextlib.nullcontext()
    ledger = budget.opened(path)
    ledger.check()
    return ledger


def _appended(path: Path) -> IO[bytes]:
    """Open a file to read it and to write at its end; a new one is for one reader."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o600), "a+b")


def _note(path: Path, source: str, done: Done) -> None:
    line = {
        "schema": manifests.SCHEMA,
        "input": source,
        "input_sha256": done.input_sha256,
        "name": done.record.name,
        "output_sha256": done.record.output_sha256,
        "decision": done.record.decision,
    }
    with _appended(path) as file:
        file.write(json.dumps(line).encode() + b"\n")  # ASCII: holds names that are no Unicode


def _count_of_jobs(jobs: int | Literal["auto"], photos: int) -> int:
    if jobs != "auto":
        if jobs < 1:
            raise UsageError(f"--jobs is {jobs}", hint="one or more, or auto")
        return max(1, min(jobs, photos))
    return min(_cores(), 8) if photos >= AUTO else 1


def check_earlier(*, resume: bool, overwrite: bool) -> None:
    """Refuse two wishes about an earlier run. Raises UsageError."""
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other", hint="choose one")


def prepared(
    options: Options,
    photos: int,
    jobs: int | Literal["auto"],
    listener: Callable[[int, int], None] | None,
) -> tuple[int | Literal["auto"], int]:
    """Let the method make or refuse what it needs.

    listener: hears how many synthetic faces are drawn, and of how many, where that takes long; without
    one none is drawn. Returns how many jobs the settings allow, and how many faces were to be drawn.
    """
    chosen = method(options.method)
    own = chosen_settings(chosen, options.settings, strength=options.strength)
    to_draw = 0
    if chosen.prepare and photos:
        faces = photos if options.identity == "per-photo" else 0
        to_draw = chosen.prepare(own, options.device, faces, listener)
    if chosen.together is None or not chosen.together(own):
        return jobs, to_draw
    if jobs not in ("auto", 1):
        raise UsageError(
            f"--jobs is {jobs}, and {chosen.name} keeps faces apart within one process",
            hint="--jobs 1, or the option that asks for it: moretta methods " + chosen.name,
        )
    return 1, to_draw


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batches(work: Sequence[Work], options: Options) -> list[Sequence[Work]]:
    size = 1 if method(options.method).template == "window" else BATCH
    return [work[start : start + size] for start in range(0, len(work), size)]


T = TypeVar("T")


class _Team:
    """This process, or several: their networks are built once and serve every pass of a run."""

    def __init__(self, options: Options, jobs: int, keyring: Keyring | None = None) -> None:
        self._options = options
        self._keyring = keyring
        self.jobs = jobs
        self._protector: Protector | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._stop = _SPAWNED.Event() if jobs > 1 else None  # no worker begins another batch
        self._under_way: dict[Future[list[Any]], Sequence[Work]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss()

    @contextlib.contextmanager
    def checked(self, *, when: bool) -> Iterator[None]:
        """Build the networks now, so that what a method refuses is raised; end the workers at last."""
        with self:
            if when and self.jobs == 1:
                self._built()
            elif when:
                self._pool = _pool(self._options, self.jobs, self._keyring, self._stop)
                try:
                    with _unheard():  # one question each: a worker is started by its first task
                        asked = [self._pool.submit(_built_in_worker) for _ in range(self.jobs)]
                    asked[0].result()
                except BrokenProcessPool:  # a worker that dies costs a photo, not the run
                    self._dismiss()
            yield

    def each(
        self,
        batches: Sequence[Sequence[Work]],
        act: Callable[[Sequence[Work], Protector], Iterator[T]],
        lost: Callable[[Work], T | None],
    ) -> Iterator[T]:
        """Yield each photo's answer as it is there.

        lost: the answer, if any, for a photo whose worker died of it; such a worker costs one photo,
        not the run.
        """
        if not batches:
            return
        if self.jobs > 1:
            yield from self._in_processes(batches, act, lost)
            return
        protector = self._built()
        for batch in batches:
            yield from act(batch, protector)

    def _built(self) -> Protector:
        if self._protector is None:
            self._protector = Protector(self._options)
            self._protector.keyring = self._keyring
        return self._protector

    def _in_processes(
        self,
        batches: Sequence[Sequence[Work]],
        act: Callable[[Sequence[Work], Protector], Iterator[T]],
        lost: Callable[[Work], T | None],
    ) -> Iterator[T]:
        waiting = list(batches)[::-1]
        alone: list[
            Sequence[Work]
        ] = []  # were under way when a worker died: tried again one by one
        while waiting or alone:
            suspects = bool(alone)
            source = alone if suspects else waiting
            under_way: dict[Future[list[T]], Sequence[Work]] = {}
            self._under_way = under_way
            if self._pool is None:
                count = 1 if suspects else self.jobs
                self._pool = _pool(self._options, count, self._keyring, self._stop)
            whole = False
            try:
                while source or under_way:
                    while source and len(under_way) < (1 if suspects else 2 * self.jobs):
                        with _unheard():
                            future = self._pool.submit(_act_in_worker, act, source[-1])
                        under_way[future] = source[-1]
                        source.pop()  # only now: `submit` raises when a worker has died
                    finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
                    for future in finished:
                        yield from future.result()
                        del under_way[future]
                whole = True
            except BrokenProcessPool:
                if suspects:
                    for one in [one for batch in under_way.values() for one in batch]:
                        answer = lost(one)
                        if answer is not None:
                            yield answer
                else:
                    alone = [[one] for batch in under_way.values() for one in batch]
            except (KeyboardInterrupt, GeneratorExit):
                if self._stop is not None:
                    self._stop.set()
                for future in under_way:
                    future.cancel()  # but for those that lie in the workers' queue
                raise
            finally:
                if suspects or not whole:
                    self._dismiss()

    def left(self) -> Iterator[Any]:
        """Yield the answers of batches that workers ended after an interruption; some were given."""
        for future in self._under_way:
            if future.done() and not future.cancelled() and future.exception() is None:
                yield from future.result()

    def _dismiss(self) -> None:
        """Let the workers end what they are at. A second Ctrl-C does not wait for it.

        What is cut off then left no file: pictures get their names when they are whole.
        """
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        workers = list((pool._processes or {}).values())
        try:
            pool.shutdown(wait=True, cancel_futures=True)
        except KeyboardInterrupt:
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.join()
            raise


def _lost(work: Work) -> Done:
    reason = "its worker died, probably for lack of memory; try --jobs 1"
    _take_back(work)
    return Done(_failed(work.name, reason))


def _pool(
    options: Options, jobs: int, keyring: Keyring | None, stop: Event | None = None
) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        jobs,
        mp_context=_SPAWNED,
        initializer=_start_worker,
        # by a pipe: no key is in the list of processes
        initargs=(options, keyring, max(1, _cores() // jobs), stop),
    )


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Start workers that do not hear Ctrl-C: before they ignore it, each would end in a traceback.

    A worker inherits what its starter blocks. The parent hears it right afterwards: in between it would
    leave a worker without the rest of its orders. Another thread may take the signal in spite of the
    block, and Python tells the main one.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # when it starts, it lifts every block
    heard: list[int] = []
    usual = signal.getsignal(signal.SIGINT)
    waits = usual is not None and threading.current_thread() is threading.main_thread()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if waits:
        signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        if waits:
            signal.signal(signal.SIGINT, usual)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if heard:
            signal.raise_signal(signal.SIGINT)


_protector: Protector | Exception | None = None
_stop: Event | None = None


def _start_worker(
    options: Options, keyring: Keyring | None, threads: int, stop: Event | None = None
) -> None:
    """Build this worker's networks once; a fault is kept for the first photo to report.

    threads: this worker's share of the cores. More of them than cores make every one slower.
    stop: once it is set, batches that are still handed out are left undone.
    """
    global _protector, _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see `_unheard`
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _take_threads(options, threads)
        _protector = Protector(options)
        _protector.keyring = keyring
    except Exception as error:  # noqa: BLE001 - a worker that dies here would hide the reason
        _protector = error


def _take_threads(options: Options, threads: int) -> None:
    """Let OpenCV, and torch where the method needs it, take `threads`, or what they have if less."""
    import cv2

    cv2.setNumThreads(min(threads, cv2.getNumThreads()))
    if "torch" in method(options.method).needs:
        import torch

        torch.set_num_threads(min(threads, torch.get_num_threads()))


def _end_with_parent() -> None:
    """A run that is killed takes its workers along: none goes on writing behind a resumed run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _act_in_worker(
    act: Callable[[Sequence[Work], Protector], Iterator[T]], batch: Sequence[Work]
) -> list[T]:
    if not isinstance(_protector, Protector):
        raise _protector or RuntimeError("this worker was never started")
    if _stop is not None and _stop.is_set():
        return []
    return list(act(batch, _protector))


def _built_in_worker() -> None:
    """Raise what this worker's networks were refused for."""
    if isinstance(_protector, Exception):
        raise _protector
