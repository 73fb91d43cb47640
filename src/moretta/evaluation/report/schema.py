"""report.json, the only source of the page. A change of any definition gets a new schema number.

Source  evaluation.md 8.5. Numbers that could not be measured are null, never zero.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = "moretta-eval/1"
BANDS = 1  # version of the verdict's bands


class Part(BaseModel):
    """A piece of the report: unknown keys are refused, infinities too."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Interval(Part):
    """A value with its 95 % interval over people."""

    v: float | None
    lo: float | None
    hi: float | None


class Run(Part):
    """When, by what and how it ran. Only `utc` and `seconds` differ between two runs."""

    utc: str
    seconds: float
    moretta: str
    seed: int
    profile: str
    scenario: str
    threads: int
    versions: dict[str, str]


class Data(Part):
    """What was attacked: people and photos of each part."""

    original: str
    anonymized: str
    people: int
    photos: int
    parts: dict[str, dict[str, int]]  # part -> people, photos
    part_hashes: dict[str, str]  # part -> sha256 over the content hashes of its people's photos
    labelled: str
    duplicates: str
    gallery: str


class Coverage(Part):
    """Every face has one place."""

    photos: int
    excluded: dict[str, int]
    processed: int
    missed: int
    no_output: int
    attacker_undetected: int
    strangers: int
    share: float | None


class RecogniserPart(Part):
    """A recogniser that attacked."""

    id: str
    sha256: str
    flip: bool
    trained_with: bool  # the method met it in training: marked, never decides
    clear_top1: Interval
    clear_tar_1e_3: Interval | None
    measured: bool
    reason: str


class TarPart(Part):
    """True accept rate at a threshold set on V."""

    fmr_target: float
    fmr_realised: float
    threshold_from: str
    v: float
    lo: float
    hi: float


class Rates(Part):
    """Top-1 and top-5 among N people."""

    top1: Interval
    top5: Interval
    people: int
    probes: int


class AttackPart(Part):
    """One line of the ladder."""

    id: str
    summary: str
    recogniser: str
    trained_with: bool
    decides: bool
    gallery: str
    same_photo: bool
    status: str
    reason: str
    variant: str
    person_score: str
    N: int
    selected_on: str
    v_top1: float | None
    v_twin: float | None
    end_to_end: Rates | None
    conditional: Rates | None
    S1: Interval | None
    chance: float | None
    chance_measured: float | None
    chance_sd: float | None
    by_n: dict[str, float]
    by_rank: list[float]
    image_top1: float | None
    tar: list[TarPart]
    det: list[tuple[float, float]]
    eer: float | None
    auc: float | None
    curve: list[tuple[int, float]]
    learnt_from: int
    seconds: float
    watchlist: Watchlist | None = None


class Linkability(Part):
    """A5: two released photos of one person, without any clear one."""

    case: str
    recogniser: str
    features: str
    auc: float | None
    eer: float | None
    d_sys: float | None
    tar: list[TarPart]


class UtilityPart(Part):
    """One figure of what the released photos are good for."""

    name: str
    group: str
    value: float | None
    lo: float | None
    hi: float | None
    ceiling: float | None
    unit: str
    n: int
    net: str
    definition: str


class Subgroup(Part):
    """One figure of one group of people of part E, as readers of the clear photos group them."""

    by: str
    group: str
    people: int
    metric: str
    v: float | None
    lo: float | None
    hi: float | None


class Watchlist(Part):
    """Open set: half of E enrolled. How many of them are found where so many others raise an alarm."""

    fpir_target: float
    fpir_realised: float
    tpir: Interval  # 1 - FNIR at rank 1
    enrolled: int
    others: int


class WorstPeople(Part):
    """The people who are easiest to tell apart in the released photos, chosen by that: conditional."""

    people: int
    attack: str
    recogniser: str
    top1: Interval
    chance: float


class GatePart(Part):
    """One test of the evaluation."""

    id: str
    what: str
    passed: bool
    value: str
    bound: str


class Difference(Part):
    """Best attack minus A8, paired over people."""

    v: float
    lo: float
    hi: float


class Headline(Part):
    """The number that the verdict rests on, and the verdict."""

    verdict: str
    light: str  # green, amber, red or grey
    sentence: str
    notes: list[str]
    H: float | None
    attack: str
    recogniser: str
    N: int | None
    chance: float | None
    top1: Interval | None
    S1_hi: float | None
    highest_upper: float | None  # over all attacks that may decide, whatever V said
    highest_attack: str
    tar_1e_3: TarPart | None
    relative_leak: float | None
    a8: Interval | None
    above_a8: Difference | None
    people: int
    probes: int
    releases: list[float | None] = []  # top-1 of each release that top1 is the mean of; none: one
    band_version: int = BANDS


class Worst(Part):
    """A probe with a large margin; no picture, no name."""

    photo: str  # the first half of its content hash
    margin: float


class Report(Part):
    """One evaluation."""

    schema_name: str = Field(SCHEMA, alias="schema")
    run: Run
    data: Data
    method: dict[str, Any]
    coverage: Coverage
    recognisers: list[RecogniserPart]
    attacks: list[AttackPart]
    linkability: list[Linkability]
    forensic: dict[str, float | None]
    utility: list[UtilityPart]
    subgroups: list[Subgroup] = Field(default_factory=list)
    not_measured: list[str]
    worst_people: WorstPeople | None = None
    gates: list[GatePart]
    headline: Headline
    worst: list[Worst]
    limits: list[str]


def read(text: str) -> Report:
    """Return the report in a JSON text. Raises ValueError for anything else, other schemas included."""
    import json

    found = json.loads(text)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"not a report of schema {SCHEMA}")
    return Report.model_validate(found)


def written(report: Report) -> str:
    """Return the report as JSON, keys in the order of the schema."""
    return report.model_dump_json(by_alias=True, indent=1) + "\n"
