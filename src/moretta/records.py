"""Frozen records that every room may read.

Coordinates (ADR 0001): upright pixels, x right, y down, continuous: pixel (row, column) covers
[column, column + 1) x [row, row + 1), so pixel centres lie at .5 and a box is half-open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]  # (height, width, 3) RGB, 0..255
    Alpha = npt.NDArray[np.float32]  # (height, width), 0 keeps the photo, 1 takes the edit
    Points = npt.NDArray[np.float64]  # (5, 2) x, y
    Matrix = npt.NDArray[np.float64]  # (2, 3), acts on continuous coordinates
    Vector = npt.NDArray[np.float32]  # (length,), unit length


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open rectangle: left <= x < right, top <= y < bottom."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.bottom - self.top

    @property
    def side(self) -> float:
        """Geometric mean of width and height: "the face is N px"."""
        return float((self.width * self.height) ** 0.5)

    def overlap(self, other: Box) -> float:
        """Intersection over union, 0..1.

        >>> Box(0, 0, 2, 2).overlap(Box(1, 0, 3, 2))
        0.3333333333333333
        """
        common = self._common(other)
        union = self.width * self.height + other.width * other.height - common
        return common / union if union > 0 else 0.0

    def inside(self, other: Box) -> float:
        """Share of this box's area that lies in `other`, 0..1."""
        area = self.width * self.height
        return self._common(other) / area if area > 0 else 0.0

    def _common(self, other: Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Face:
    """One found face, in pixels of the upright photo (EXIF rotation already applied)."""

    box: Box
    points: Points  # (5, 2): right eye (image left), left eye, nose, right and left mouth corner
    score: float  # the detector's own scale; not a probability
    detector: str  # name in the catalogue, or "manual"
    points_from: Literal["detector", "box"] = "detector"  # "box": nobody measured them


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crop:
    """What a method gets to see of one face, and all that it needs to edit it.

    `matrix` takes photo coordinates to crop coordinates. For a method that works on the "window"
    it is a shift by whole pixels, so nothing is resampled; on the "wide" template it is the
    similarity of the five points (design section 4).
    """

    pixels: Pixels
    mask: Alpha  # same height and width: where the edit will be used
    matrix: Matrix
    face: Face
    seed: int  # this face's own: batch size and order cannot change a result
    # seed of the new identity: faces with equal numbers get the same new face; None: the face's own
    # seed. Everything else that is drawn (attributes, noise) comes from `seed`, so that it differs.
    identity: int | None = None
    #: 32 bytes from a key, this face's own: what a keyed method's pseudonym comes from.
    secret: bytes | None = field(default=None, repr=False)
    #: counts what is released about this face's person, for methods that spend a budget
    guard: Guard | None = field(default=None, repr=False)
    attempt: int = 0  # how many drawings of this face were too like it before


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one release costs. Equal charges for one person and photo are one release."""

    mechanism: str  # with all its parameters
    epsilon: float  # infinite without a theorem: no cap holds it
    delta: float
    cap: float  # of the person's whole epsilon
    shared: bool  # one release serves all photos of the person


#: Returns the remembered answer, or draws one and charges it. Raises BudgetSpent and LedgerError.
Guard = Callable[[Charge, Callable[[], bytes]], bytes]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edited:
    """A method's answer for one face."""

    pixels: Pixels  # same shape as the crop's
    statement: Statement | None = None
    figures: Mapping[str, float] = field(default_factory=dict)  # for the record
    settings: Mapping[str, Any] = field(default_factory=dict)  # where this face had others
    fault: str = ""  # why this face could not be edited: it is covered, and `pixels` is not used


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is promised about one release, in exact words; no theorem means epsilon infinity."""

    promise: Literal["proved", "measured", "none"]
    covers: str
    excludes: str
    epsilon: float = float("inf")
    mechanism: str = ""
    neighbours: str = ""
    delta: float = 0.0  # beside epsilon
    metric: str = ""  # distance on which the promise is finer: loss <= metric_epsilon * distance
    metric_epsilon: float | None = None
    numerics: str = ""  # how the numbers were drawn


class Settings(BaseModel):
    """A method's own options. Unknown names, other types and values out of range are refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    def asked(self, name: str) -> bool:
        """Whether this option was asked for. A record names every option, those without effect too."""
        given = self.model_fields_set
        return name in given and not given >= set(type(self).model_fields)

    @property
    def spends(self) -> bool:
        """Whether something is released of each face for a stated epsilon, 0 included.

        `crop.identity` is then the face's person and no shared new identity.
        """
        return False

    @property
    def counted(self) -> bool:
        """Whether releases with these settings go through `crop.guard` to the ledger."""
        return False

    @property
    def networks(self) -> tuple[str, ...]:
        """Networks that these settings need beside the method's own: names in the catalogue."""
        return ()

    @property
    def secret_chance(self) -> bool:
        """Whether something is drawn for each face from entropy that nobody may know or repeat.

        Neither --seed nor --identity can then have a say in it, and both are refused.
        """
        return False

    @property
    def weak(self) -> str:
        """What is said before a run whose settings hide less than the method's defaults; mostly nothing."""
        return ""

    @property
    def told(self) -> Mapping[str, Any]:
        """What records say in place of settings that are paths: those may name somebody."""
        return {}

    @property
    def needs_persons(self) -> bool:
        """Whether these settings make sense only where persons are known."""
        return False


FaceEdit = Callable[[Sequence[Crop]], Sequence[Edited]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to change faces: one file in methods/, one line in its list."""

    name: str
    summary: str  # one line
    settings: type[Settings]
    build: Callable[[Any, str], FaceEdit]  # (settings, device); imports its network itself
    template: Literal["window", "wide"]
    promise: Literal["proved", "measured", "none"]
    promises: str  # what the user gets, in exact words
    excludes: str  # what the user does not get
    source: str
    side: int = 0  # of the crop in pixels; 0 for "window": the photo's own
    mask_scale: float = 1.5  # of the ellipse in design section 4
    mask_feather: float = 0.14  # of its semi-axes, inwards, where a face is drawn on a template
    fills_view: bool = False  # the mask also covers all that a recogniser's crop shows
    match_colour: bool = False
    reversible: bool = False
    keyed: bool = False  # its pseudonym comes from `crop.secret`; it runs only with a key
    draws_identity: bool = False  # it draws a new face and reads `crop.identity`
    redraws: int = 0  # how often a face that the judge knows, or nearly, is drawn anew
    spent: tuple[
        str, ...
    ] = ()  # what an epsilon covers: lines of the report, each under 80 columns
    strength: Callable[[float], Mapping[str, Any]] | None = None  # 0..1 -> settings
    explain: Callable[[], str] | None = None  # more for `moretta methods NAME`
    auto: Mapping[str, Any] | None = None  # settings that find the least strength for each face
    #: (settings, device, faces at least to come, listener) -> synthetic faces that are to be drawn: makes
    #: or refuses what must be there before a run. It tells the listener how many faces it has drawn, and
    #: of how many; without one, in a dry run, it makes nothing. `build` writes nothing either.
    prepare: Callable[[Any, str, int, Callable[[int, int], None] | None], int] | None = None
    #: settings -> whether all faces of a run must pass through one process.
    together: Callable[[Any], bool] | None = None
    networks: tuple[str, ...] = ()  # names in the catalogue: their hashes go into the record
    needs: tuple[str, ...] = ()  # modules of the extra `generative`
    trained_with: tuple[str, ...] = ()  # recognisers that may not judge it


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceRecord:
    """What happened to one face. Figures only: never an embedding."""

    box: tuple[float, float, float, float]
    points: tuple[tuple[float, float], ...]
    points_from: str
    score: float
    detector: str
    method: str  # what finally covers the face: the method asked for, or the cover
    settings: Mapping[str, Any]
    seed: int | None  # None: kept secret, since noise or an identity came from it
    mask_scale: float
    crop_scale: float  # photo pixels per crop pixel; above 1 a drawn face is softer than the photo
    audit: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    statement: Statement | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


Decision = Literal["published", "withheld", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoRecord:
    """One line of the manifest: what happened to one photo and why."""

    name: str  # relative to the output folder, with "/" between folders
    decision: Decision
    reason: str
    width: int = 0
    height: int = 0
    faces: tuple[FaceRecord, ...] = ()
    notes: tuple[str, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)  # name -> sha256
    seconds: Mapping[str, float] = field(default_factory=dict)  # stage -> seconds
    output_sha256: str = ""
    output_bytes: int = 0
    sidecar_sha256: str = ""  # of the sealed original beside it, with --reversible
    sidecar_bytes: int = 0
    sidecar_core: str = ""  # SHA-256 of what stays when it is given to other keys
    pseudonym: Mapping[str, str] = field(default_factory=dict)  # scope and salt; nothing secret
    method: str = ""
    seed: int | None = None
    version: str = ""

    @property
    def covered(self) -> int:
        """How many faces of a published photo the policy covered, because the judge knew them."""
        if self.decision != "published":
            return 0
        return sum("covered" in face.audit for face in self.faces)

    @property
    def soft(self) -> list[float]:
        """How many times larger than its drawing each face is that was drawn too small."""
        if self.decision != "published":
            return []
        drawn = (face.crop_scale for face in self.faces if "covered" not in face.audit)
        return [scale for scale in drawn if scale > 1]
