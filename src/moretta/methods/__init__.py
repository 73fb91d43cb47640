"""The methods: one file each, one line in the list below.

No method imports another, none reads a file, and each imports its network inside `build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from moretta.errors import UsageError, nearest

if TYPE_CHECKING:
    from pydantic import ValidationError

    from moretta.records import Method, Settings

METHODS = (
    "solid",
    "pixelate",
    "blur",
    "newface",
    "identitydp",
    "ifadit",
    "falco",
    "styleid",
)


def method(name: str) -> Method:
    """Return a method by name. Raises UsageError with the nearest name."""
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}", hint=nearest(name, list(METHODS)))
    found: Method = import_module(f"moretta.methods.{name}").METHOD
    return found


def missing(chosen: Method) -> list[str]:
    """Return the modules that the method needs and this installation lacks."""
    return [name for name in chosen.needs if find_spec(name) is None]


def require(chosen: Method) -> None:
    """Raise UsageError when this installation cannot run the method."""
    if lacking := missing(chosen):
        raise UsageError(
            f"{chosen.name} needs {' and '.join(lacking)}, which are not installed",
            hint="pip install 'moretta[generative]'",
        )


def from_words(chosen: Method, words: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a command line says of the method's settings, in their types.

    Settings take no text for a number. What is no number, or no setting, stays as it is: `settings`
    refuses it by name.
    """
    fields = chosen.settings.model_fields
    return {
        key: _read(word, fields[key].annotation)
        if key in fields and isinstance(word, str)
        else word
        for key, word in words.items()
    }


def _read(word: str, annotation: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    for kind in (bool, int, float):
        if kind in _kinds(annotation):
            try:
                return TypeAdapter(kind).validate_python(word)
            except ValidationError:
                pass
    return word


def _kinds(annotation: Any) -> set[Any]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(inner[0])
    if origin in (Union, UnionType):
        return {kind for one in inner for kind in _kinds(one)}
    return {annotation}


def expected(error: ValidationError) -> str:
    """Return what the first option that was refused should have been: a number, a word, or either."""
    first, *others = error.errors()
    said = first["msg"].lower()
    if first["type"].endswith("_type"):
        begins = "input should be "
        words = [one["msg"] for one in others if one["loc"][:1] == first["loc"][:1]]
        said += "".join(f" or {one.lower().removeprefix(begins)}" for one in words)
    return said


def settings(
    chosen: Method, given: Mapping[str, Any] | None = None, *, strength: float | str | None = None
) -> Settings:
    """Return the method's settings from its defaults, and the strength or what was given.

    Raises UsageError naming the option, what it was and what it accepts, and where the strength and
    an option speak of one setting: one of them would change nothing.
    """
    from pydantic import ValidationError

    merged: dict[str, Any] = {}
    if strength == "auto":
        if chosen.auto is None:
            raise UsageError(
                f"{chosen.name} cannot find a strength by itself", hint="give a number from 0 to 1"
            )
        merged.update(chosen.auto)
    elif strength is not None:
        if isinstance(strength, str) or not 0 <= strength <= 1:
            raise UsageError(f"strength is {strength}", hint="strength goes from 0 to 1")
        if chosen.strength is None:
            raise UsageError(
                f"{chosen.name} has no scale of strength",
                hint=f"leave --strength out for {chosen.name}",
            )
        merged.update(chosen.strength(strength))
    for key in given or {}:
        if key in merged:
            raise UsageError(
                f"{chosen.name}: strength and {key} are both given, and strength sets {key}",
                hint="keep one of them; what stands in a --config file counts too",
            )
    merged.update(given or {})
    known = list(chosen.settings.model_fields)
    for key in merged:
        if key not in known:
            hint = nearest(key, known) if known else f"{chosen.name} has no options"
            raise UsageError(f"{chosen.name} has no option {key!r}", hint=hint)
    try:
        return chosen.settings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0]) if first["loc"] else ""  # what follows is pydantic's own
        if not where:  # a rule of several options
            fault = str(first.get("ctx", {}).get("error", first["msg"]))
            raise UsageError(
                f"{chosen.name}: {fault}",
                hint=f"moretta methods {chosen.name} lists the options and their ranges",
            ) from None
        raise UsageError(
            f"{chosen.name}: {where} is {first['input']!r}: {expected(error)}",
            hint=f"moretta methods {chosen.name} lists the options and their ranges",
        ) from None
