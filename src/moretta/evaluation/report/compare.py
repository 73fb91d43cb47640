"""Several reports side by side: one row each, and privacy against utility as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moretta.evaluation.report import figures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moretta.evaluation.report.schema import Report

USE = "faces found by centerface"  # the utility on the picture's vertical axis

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Methods compared</title>
<style>
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #8886; }
figure { margin: 1.5rem 0; max-width: 42rem; } svg { width: 100%; height: auto; }
</style></head><body>
<h1>Methods compared</h1>
<p>Best attack of each method, chosen on part V, scored on part E; the same people for all.
Rates of different profiles, scenarios or data cannot stand side by side.</p>
<div class="wide"><table><thead><tr>{% for key in keys %}<th>{{ key.replace("_", " ") }}</th>
{% endfor %}</tr></thead><tbody>{% for row in rows %}<tr>{% for value in row.values() %}
<td>{{ "-" if value is none else value }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>
<figure>{{ picture }}<figcaption>Left is better protected, up is more useful. Horizontal: upper
bound of top-1 of the best attack. Vertical: {{ use }}.</figcaption></figure>
</body></html>
"""


def comparison(reports: Sequence[tuple[str, Report]]) -> tuple[list[dict[str, Any]], str]:
    """Return one row a method and the page that shows them."""
    import jinja2
    from markupsafe import Markup

    rows = [row(label, report) for label, report in reports]
    points = [
        (each["method"], each["top1_upper"], each["faces_found"])
        for each in rows
        if each["top1_upper"] is not None and each["faces_found"] is not None
    ]
    environment = jinja2.Environment(autoescape=True)
    html = environment.from_string(_PAGE).render(
        rows=rows,
        keys=list(rows[0]) if rows else [],
        picture=Markup(figures.tradeoff(points, "privacy and utility")),  # noqa: S704 - drawn here
        use=USE,
    )
    return rows, html


def row(label: str, report: Report) -> dict[str, Any]:
    """Return the figures of one report that a table of methods shows."""
    head = report.headline
    useful = {each.name: each.value for each in report.utility}
    naive = next(
        (
            each.end_to_end.top1.v
            for each in report.attacks
            if each.id == "A0-other" and each.recogniser == head.recogniser and each.end_to_end
        ),
        None,
    )
    return {
        "method": label,
        "verdict": head.verdict,
        "best_attack": f"{head.attack} ({head.recogniser})" if head.attack else None,
        "naive_top1": naive,
        "top1": head.top1.v if head.top1 else None,
        "top1_lower": head.top1.lo if head.top1 else None,
        "top1_upper": head.H,
        "highest_upper": head.highest_upper,
        "tar_1e-3": head.tar_1e_3.v if head.tar_1e_3 else None,
        "a8_top1": head.a8.v if head.a8 else None,
        "people": head.people,
        "faces_found": useful.get(USE),
        "point_error": useful.get("five-point error"),
        "ssim_outside": useful.get("SSIM outside the changed area"),
        "no_output": report.coverage.no_output,
        "missed": report.coverage.missed,
        "minutes": round(report.run.seconds / 60, 1),
    }
