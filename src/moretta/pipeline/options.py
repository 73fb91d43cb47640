"""Everything a run can be told, in one frozen, typed record: the same for Python, TOML and command."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from moretta.errors import UsageError, nearest
from moretta.records import Settings


class Options(BaseModel):
    """How photos are protected. Unknown names, other types and values out of range are refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    method: str = Field("solid", description="what is done to each face")
    settings: Mapping[str, Any] = Field(
        default_factory=dict, description="the method's own options"
    )
    strength: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] | None = Field(
        None, description="where the method has a scale; auto where it can find the least one"
    )
    identity: Literal["per-photo", "per-person", "per-run"] = Field(
        "per-photo", description="who shares one new face, for methods that draw one"
    )
    persons: str | None = Field(
        None, min_length=1, description="folders, group, or a CSV file, with identity per-person"
    )
    ledger: str | None = Field(
        None, min_length=1, description="file of the budgets, for methods that spend one"
    )
    detector: tuple[str, ...] = Field(
        ("yunet",), min_length=1, description="joined: any find counts"
    )
    threshold: float | None = Field(None, gt=0, lt=1, description="least score of a find")
    min_face: float = Field(
        12, ge=1, le=100_000, description="smaller faces are not looked for, px"
    )
    thorough: bool = Field(False, description="all turns, twice the size, every detector")
    on_no_face: Literal["withhold", "copy"] = Field(
        "withhold", description="a photo in which no face was found"
    )
    on_audit_fail: Literal["cover", "withhold"] = Field(
        "cover", description="a face that the judge still knows"
    )
    audit_far: Literal["1e-2", "1e-3", "1e-4"] = Field(
        "1e-3",
        description="the judge's false-accept rate: 1e-2 is the strictest, 1e-4 laxer than the default",
    )
    metadata: Literal["none", "profile"] = Field(
        "none", description="profile keeps the colour profile, none nothing at all"
    )
    format: Literal["jpeg", "png", "webp", "tiff", "bmp", "avif", "heic"] | None = Field(
        None, description="of the outputs; the input's own by default"
    )
    quality: int = Field(
        95, ge=1, le=100, description="of lossy formats; refused beside a format that is none"
    )
    rename: bool = Field(False, description="neutral names in random order, fixed times")
    reversible: bool = Field(False, description="a sealed original beside every output")
    scope: Literal["record", "subject", "collection"] = Field(
        "record", description="who shares a keyed pseudonym"
    )
    linkable: bool = Field(False, description="accepts what the scope collection gives away")
    seed: int | None = Field(None, ge=0, lt=2**63, description="repeatable results")
    max_pixels: int = Field(250_000_000, ge=1, description="larger photos are refused")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="for every network")

    @field_validator("persons", "ledger", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("detector", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(","))
        return tuple(value) if isinstance(value, list) else value  # TOML has lists alone


def options(given: Mapping[str, Any]) -> Options:
    """Return checked options. Raises UsageError naming the option, what it was and what it accepts."""
    from moretta.methods import expected

    known = list(Options.model_fields)
    plain = normalised(given)
    for key in plain:
        if key not in known:
            raise UsageError(
                f"there is no option {key!r}",
                hint=_of_method(key, plain) or nearest(key, known),
            )
    try:
        checked = Options(**plain)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-") if first["loc"] else "options"
        raise UsageError(
            f"{name} is {first['input']!r}: {expected(error)}",
            hint="moretta anonymize --help lists every option and its range",
        ) from None
    _check_names(checked)
    _check_quality(checked)
    if checked.format == "heic" and find_spec("pillow_heif") is None:
        raise UsageError("--format heic needs one more package", hint='pip install "moretta[heic]"')
    return checked


def weaker(checked: Options) -> list[str]:
    """Return what is said before a run that hides less than the defaults: a line each, mostly none."""
    from moretta.faces.recognise import threshold
    from moretta.methods import method, settings

    own = settings(method(checked.method), checked.settings, strength=checked.strength)
    said = [own.weak] if own.weak else []
    usual = Options.model_fields["audit_far"].default
    passes, by_default = threshold(checked.audit_far), threshold(usual)
    if passes > by_default:
        said.append(
            f"--audit-far {checked.audit_far}: a laxer judge than the default {usual}. It lets faces pass up to"
            f" a cosine of {passes:.2f} with the old ones instead of {by_default:.2f}: more that can be known"
            " again are published (docs/threat-model.md)"
        )
    return said


def _of_method(key: str, given: Mapping[str, Any]) -> str:
    """Return where an option of the chosen method belongs, or nothing if it has no such option."""
    from moretta.methods import METHODS, method

    name = given.get("method", Options.model_fields["method"].default)
    if name not in METHODS or key not in method(name).settings.model_fields:
        return ""
    return (
        f"it is an option of {name}: settings={{{key!r}: {given[key]!r}}}, in TOML under [settings]"
    )


def normalised(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with "_" in their names. Raises UsageError when one is given both ways."""
    plain = {key.replace("-", "_"): value for key, value in given.items()}
    if len(plain) < len(given):
        raise UsageError("an option is given twice, with - and with _", hint="keep one of them")
    return plain


def from_toml(path: Path) -> dict[str, Any]:
    """Return the options in a TOML file, unchecked. Raises UsageError when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", hint="check --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        why = error if isinstance(error, tomllib.TOMLDecodeError) else "it is not text in UTF-8"
        raise UsageError(f"{path} is not TOML: {why}", hint="see docs/configuration.md") from error


def _check_names(checked: Options) -> None:
    from moretta.faces.detect import detector
    from moretta.methods import method, require, settings

    for name in checked.detector:
        detector(name)
    chosen = method(checked.method)
    own = settings(chosen, checked.settings, strength=checked.strength)
    if own.spends:
        _check_spending(checked, own)
    else:
        _check_identity(checked, draws=chosen.draws_identity or chosen.keyed)
        if checked.identity == "per-run" and not chosen.keyed and own.asked("match"):
            raise UsageError(
                "--match is given, and with --identity per-run one new face is everybody's",
                hint="leave one of them out: a shared face is matched to nobody",
            )
    _check_scope(checked, keyed=chosen.keyed)
    if own.secret_chance:
        _check_chance(checked)
    require(chosen)


def _check_quality(checked: Options) -> None:
    from moretta.photos.encode import LOSSLESS

    if "quality" in checked.model_fields_set and checked.format in LOSSLESS:
        raise UsageError(
            f"--quality is given, and --format {checked.format} keeps every pixel as it is",
            hint="leave --quality out, or choose jpeg, webp, avif or heic",
        )


def _check_identity(checked: Options, *, draws: bool) -> None:
    option = "persons" if checked.identity == "per-photo" else "identity"
    asked = checked.identity != "per-photo" or checked.persons is not None
    if asked and not draws:
        raise UsageError(
            f"--{option} is given, and {checked.method} draws no new face that could be shared",
            hint="leave it out, or choose a method that draws faces; `moretta methods` lists them",
        )
    if checked.persons is not None and checked.identity != "per-person":
        raise UsageError(
            f"--persons is given, and --identity is {checked.identity}",
            hint="--persons says who is who for --identity per-person",
        )
    if checked.ledger is not None:
        raise UsageError(
            f"--ledger is given, and {checked.method} spends no budget",
            hint="leave it out, or choose identitydp, or falco with --donor-epsilon",
        )


def _check_spending(checked: Options, own: Settings) -> None:
    if checked.identity != "per-photo" and not own.secret_chance:
        raise UsageError(
            f"--identity is given, and {checked.method} releases a face from each person's own",
            hint="--alias person gives a person one new face; newface draws one from nobody's",
        )
    if checked.ledger is not None and not own.counted:
        raise UsageError(
            f"--ledger is given, and with these settings {checked.method} spends nothing",
            hint="leave it out, or give an epsilon above 0",
        )
    if own.needs_persons and checked.persons is None:
        raise UsageError(
            "--alias is person, and nobody says who is who",
            hint="--persons folders, group, or a CSV file; see docs/persons.md",
        )
    if checked.seed is not None and own.counted and not own.secret_chance:  # at 0 nothing is lost
        raise UsageError(
            "--seed makes releases predictable: whoever has it takes the noise off again",
            hint="leave it out; tests have --predictable, whose releases promise nothing",
        )


def _check_chance(checked: Options) -> None:
    for option, given in (
        ("seed", checked.seed is not None),
        ("identity", checked.identity != "per-photo"),
    ):
        if given:
            raise UsageError(
                f"--{option} is given, and these settings of {checked.method} draw for each face with"
                " the operating system's entropy",
                hint=f"leave --{option} out, or the epsilon: moretta methods {checked.method}",
            )


def _check_scope(checked: Options, *, keyed: bool) -> None:
    if not keyed:
        if checked.scope != "record" or checked.linkable:
            raise UsageError(
                f"--scope is given, and {checked.method} draws no keyed pseudonym",
                hint="leave it out, or choose a keyed method; `moretta methods` lists them",
            )
        return
    if checked.scope == "collection" and not checked.linkable:
        raise UsageError(
            "--scope collection gives one rotation to everybody: faces can be linked, and known pairs "
            "of originals and outputs undo it",
            hint="--linkable says that you accept this; --scope record does not have the problem",
        )
    if checked.linkable and checked.scope != "collection":
        raise UsageError("--linkable is for --scope collection", hint="leave it out")
    if checked.seed is not None and checked.scope == "record":
        raise UsageError(
            f"--seed repeats nothing: with --scope record {checked.method} draws a new secret for every"
            " photo",
            hint="leave it out; --scope subject and collection have secrets that last",
        )
    if (checked.scope == "subject") != (checked.identity == "per-person"):
        raise UsageError(
            f"--scope is {checked.scope}, and --identity is {checked.identity}",
            hint="one pseudonym for one person needs both: --scope subject --identity per-person",
        )
    if checked.identity == "per-run":
        raise UsageError(
            "--identity per-run is for faces drawn by chance",
            hint="one pseudonym for all is --scope collection --linkable",
        )
