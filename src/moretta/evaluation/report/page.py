"""report.html: made from report.json alone, in one file that needs no network."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from moretta.evaluation.ladder import SHUFFLES
from moretta.evaluation.report import figures
from moretta.evaluation.verdict import LEAST_PEOPLE

if TYPE_CHECKING:
    from moretta.evaluation.report.schema import (
        AttackPart,
        Difference,
        Interval,
        Report,
        TarPart,
    )


def page(report: Report) -> str:
    """Return the whole page. Every text of the report is escaped."""
    import jinja2
    from markupsafe import Markup

    source = resources.files("moretta.evaluation.report").joinpath("page.html.jinja")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    head = report.headline
    measured = [row for row in report.attacks if row.end_to_end]
    best = next(
        (r for r in measured if (r.id, r.recogniser) == (head.attack, head.recogniser)), None
    )
    drawn = [
        (caption, Markup(svg))  # noqa: S704 - drawn by us; its labels are escaped by matplotlib
        for caption, svg in _figures(_shown(report), report)
    ]
    return environment.from_string(source.read_text("utf-8")).render(
        r=report,
        title=f"How private, how useful: {report.data.anonymized}",
        head=head,
        best=best,
        attacks=sorted(report.attacks, key=lambda row: row.recogniser != head.recogniser),
        figures=drawn,
        shuffles=SHUFFLES,
        least=LEAST_PEOPLE,
        pc=_percent,
        iv=_interval,
        tar=_tar,
        pp=_points,
        num=_number,
    )


def _shown(report: Report) -> list[AttackPart]:
    """Return the rows worth a line: the headline's recogniser, clear and A8, then the best ones."""
    own = [
        row
        for row in report.attacks
        if row.end_to_end and row.recogniser == (report.headline.recogniser or row.recogniser)
    ]
    always = [row for row in own if row.id in ("clear", "A0-other", "A8")]
    rest = [row for row in own if row not in always]
    rest.sort(key=lambda row: -(row.v_top1 or 0))
    return [*always, *rest][: figures.SHOWN]


def _figures(rows: list[AttackPart], report: Report) -> list[tuple[str, str]]:
    learners = [row for row in report.attacks if row.curve]
    learners.sort(key=lambda row: -(row.v_top1 or 0))
    found = []
    if any(row.by_n for row in rows):  # 20 people or more
        drawn = figures.by_people(rows, "by people")
        found.append(("Top-1 by the number of people in the gallery.", drawn))
    found += [
        (
            f"The right person within the first k of {report.headline.N or 'all'}.",
            figures.by_rank(rows, "by rank"),
        ),
        ("Error rates on normal-deviate axes (DET), part E.", figures.errors(rows, "errors")),
    ]
    if learners:
        found.append(
            (
                (
                    "What more training data brings the attacker. A curve that still climbs means that "
                    "the attack is limited by data, not by the tool."
                ),
                figures.learning(learners, "learning"),
            )
        )
    return found


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _interval(found: Interval | None) -> str:
    return "-" if found is None else _percent(found.v)


def _tar(found: TarPart | None) -> str:
    return "-" if found is None else _percent(found.v)


def _points(found: Difference) -> str:
    return f"{100 * found.v:+.1f} points ({100 * found.lo:+.1f} to {100 * found.hi:+.1f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
