"""Figures of the report as inline SVG: no script, no fonts from elsewhere, the same bytes each time.

Lines take their colour from the page (currentColor), so they can be read in light and dark.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moretta.evaluation.report.schema import AttackPart

INK = "#010203"  # stands for the page's own colour until the SVG is finished
COLOURS = ("#1f77b4", "#e07b00", "#2ca02c", "#d62728", "#9467bd", "#8c6d5d", "#d457a5", "#808080")
SIZE = (6.4, 3.6)
SHOWN = 8  # lines a figure


def by_people(rows: Sequence[AttackPart], title: str) -> str:
    """Return top-1 against the number of people in the gallery, on a logarithmic axis."""
    figure, axes = _axes("people in the gallery", "top-1", title)
    axes.set_xscale("log")
    for row, colour in zip(rows[:SHOWN], COLOURS, strict=False):
        sizes = sorted(int(n) for n in row.by_n)
        values = [row.by_n[str(n)] for n in sizes]
        axes.plot(sizes, values, "o-", color=colour, label=_name(row))
    sizes = sorted({int(n) for row in rows for n in row.by_n})
    axes.plot(sizes, [1 / n for n in sizes], ":", color=INK, label="chance")
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    return _svg(figure, axes, title)


def by_rank(rows: Sequence[AttackPart], title: str) -> str:
    """Return top-k against k."""
    figure, axes = _axes("k", "share of people within the first k", title)
    longest = 1
    for row, colour in zip(rows[:SHOWN], COLOURS, strict=False):
        ranks = range(1, len(row.by_rank) + 1)
        longest = max(longest, len(row.by_rank))
        axes.plot(ranks, row.by_rank, "-", color=colour, label=_name(row))
    if rows and rows[0].N:
        ranks = range(1, longest + 1)
        axes.plot(ranks, [k / rows[0].N for k in ranks], ":", color=INK, label="chance")
    return _svg(figure, axes, title)


def errors(rows: Sequence[AttackPart], title: str) -> str:
    """Return FNMR against FMR on normal-deviate axes (DET)."""
    from scipy.stats import norm

    ticks = [1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.99]
    figure, axes = _axes("false match rate", "false non-match rate", title, rates=False)
    for row, colour in zip(rows[:SHOWN], COLOURS, strict=False):
        points = [(a, b) for a, b in row.det if 0 < a < 1 and 0 < b < 1]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(norm.ppf(x), norm.ppf(y), "-", color=colour, label=_name(row))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(norm.ppf(ticks), [f"{t:g}" for t in ticks])
    axes.set_xlim(norm.ppf(8e-5), norm.ppf(0.9))
    axes.set_ylim(norm.ppf(8e-4), norm.ppf(0.9995))
    ends = norm.ppf([1e-4, 0.9])
    axes.plot(ends, -ends, ":", color=INK, label="chance")
    return _svg(figure, axes, title)


def learning(rows: Sequence[AttackPart], title: str) -> str:
    """Return top-1 on V against the number of photos that the attacker learnt from."""
    figure, axes = _axes("photos of part T", "top-1 on part V", title)
    for row, colour in zip(rows[:SHOWN], COLOURS, strict=False):
        if row.curve:
            x, y = zip(*row.curve, strict=True)
            axes.plot(x, y, "o-", color=colour, label=_name(row))
    return _svg(figure, axes, title)


def tradeoff(points: Sequence[tuple[str, float, float]], title: str) -> str:
    """Return utility against leak: (name, top-1 upper bound, utility), one point a setting."""
    figure, axes = _axes("best attack, upper bound of top-1", "faces found in the output", title)
    for (name, leak, use), colour in zip(points, COLOURS * 10, strict=False):
        axes.plot([leak], [use], "o", color=colour)
        axes.annotate(name, (leak, use), textcoords="offset points", xytext=(5, 4), color=INK)
    axes.set_xlim(-0.03, 1.03)
    return _svg(figure, axes, title, legend=False)


def _name(row: AttackPart) -> str:
    return f"{row.id} ({row.recogniser})"


def _axes(x: str, y: str, title: str, *, rates: bool = True) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    axes: Any = figure.add_subplot()
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    if rates:
        axes.set_ylim(-0.03, 1.03)
    axes.tick_params(colors=INK)
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#888888", alpha=0.25)
    return figure, axes


def _svg(figure: Any, axes: Any, title: str, *, legend: bool = True) -> str:
    from matplotlib import rc_context

    if legend and axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="best")
    figure.patch.set_visible(False)
    file = io.StringIO()
    with rc_context({"svg.hashsalt": "moretta", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # several figures on one page: names within one may not meet those of another
    key = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\1{key}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
