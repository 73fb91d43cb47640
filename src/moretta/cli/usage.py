"""Calls that typer does not understand, told in the form of all our errors: one line and a hint."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from moretta.errors import UsageError

#: What typer raises for such a call. Its versions take it from different packages.
Misused: type[Exception] = typer.BadParameter.__mro__[2]


class Interrupted(Exception):
    """Ctrl-C ended a command that has no word of its own for it."""


class Commands(TyperGroup):
    """Commands of which none is interrupted in silence: typer alone ends with 130 and not a word."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        """Read the call."""
        try:
            return super().make_context(*given, **more)
        except KeyboardInterrupt:
            raise Interrupted from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None


def explained(error: Any, name: str) -> UsageError:
    """Return what is wrong with the call, and the help that says how it is meant.

    name: of the command, where the error knows no part of it.
    """
    context, param = getattr(error, "ctx", None), getattr(error, "param", None)
    more = f"{context.command_path if context else name} --help lists all"
    if param is not None:
        named = max(param.opts, key=len) if param.param_type_name == "option" else param.name
        text = (getattr(param, "help", None) or "").rstrip(".")
        hint = f"{named}: {text}; {more}" if text else more
        return UsageError(f"{named} {_trouble(error)}", hint=hint)
    if hasattr(error, "possibilities"):
        meant = " or ".join(sorted(error.possibilities or ()))
        fault = f"there is no option {error.option_name}"
        return UsageError(fault, hint=f"did you mean {meant}? {more}" if meant else more)
    fault, _, advice = error.format_message().partition(". ")
    return UsageError(_inside(fault), hint=f"{_inside(advice)} {more}".strip())


def help_shown(error: Any) -> bool:
    """Whether the call asked for nothing, which shows the help; printed here if it is not yet."""
    if type(error).__name__ != "NoArgsIsHelpError":
        return False
    if text := error.format_message():
        print(text, file=sys.stderr)  # noqa: T201
    return True


def _trouble(error: Any) -> str:
    if hasattr(error, "param_type"):
        return "is missing"
    told = getattr(error.__cause__, "errors", None)  # pydantic's, which has the value
    what = f"is {told()[0]['input']!r}: " if callable(told) else "is not as it must be: "
    return what + _inside(error.message)


def _inside(text: str) -> str:
    """Return a sentence as it stands within another."""
    return text[:1].lower() + text[1:].rstrip(".")
