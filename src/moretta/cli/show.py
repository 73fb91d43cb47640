"""What a run shows: progress on standard error, the summary on standard output."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

from moretta.errors import count_of, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from moretta.pipeline.run import Summary
    from moretta.records import PhotoRecord

EVERY = 10.0  # seconds between two lines of --progress text
FOLDED = 3  # photos named for one reason, where each would have a line
NAMED = 20  # published photos with covered faces printed by name; the manifest has all of them


class Display:
    """Listens to a run and shows it as a bar, as lines of text, as JSON lines, or not at all."""

    def __init__(self, kind: str) -> None:
        self._kind = ("bar" if sys.stderr.isatty() else "text") if kind == "auto" else kind
        self._bar: Any = None
        self._task: Any = None
        self._start = self._last = time.monotonic()
        self._drawing = False

    def __enter__(self) -> Self:
        if self._kind == "bar":
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[counts]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.__enter__()
            self._task = self._bar.add_task("photos", total=None, counts="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, value, trace)

    def drawing(self, done: int, count: int) -> None:
        """Show how many synthetic faces are drawn: before the first photo, and once for all runs."""
        now = time.monotonic()
        if self._kind == "bar":
            text = "synthetic faces to choose from, drawn once"
            self._bar.update(self._task, total=count, completed=done, counts=text)
        elif self._kind == "jsonl":
            print(json.dumps({"drawn": done, "of": count}), file=sys.stderr, flush=True)  # noqa: T201
        elif self._kind == "text" and (not self._drawing or now - self._last >= EVERY):
            self._last = now
            text = f"drawing synthetic faces to choose from, once: {done} of {count}"
            print(text, file=sys.stderr, flush=True)  # noqa: T201
        self._drawing = done < count
        self._start = now  # the pace is that of photos

    def __call__(self, summary: Summary, record: PhotoRecord | None) -> None:
        """Show how far the run is; `record` is the photo that was just done."""
        if not summary.inputs and summary.to_draw:
            self.drawing(summary.drawn, summary.to_draw)
            return
        now = time.monotonic()
        done = summary.inputs - summary.left
        fresh = summary.published + summary.withheld + summary.failed
        pace = fresh / max(now - self._start, 1e-9)
        if self._kind == "bar":
            counts = f"{count_of(summary.faces, 'face')}, {summary.withheld} withheld, {pace:.1f} photos/s"
            if summary.looked and not fresh:
                counts = f"first look: {summary.looked}"
            self._bar.update(self._task, total=summary.inputs, completed=done, counts=counts)
        elif self._kind == "jsonl":
            line: dict[str, Any] = {
                "done": done,
                "of": summary.inputs,
                "faces": summary.faces,
                "withheld": summary.withheld,
                "failed": summary.failed,
                "photos_per_second": round(pace, 3),
            }
            if summary.looked:
                line["looked"] = summary.looked
            if record is not None:
                line |= {"name": record.name, "decision": record.decision}
            print(json.dumps(line), file=sys.stderr, flush=True)  # noqa: T201
        elif self._kind == "text" and summary.looked and not fresh:
            if now - self._last >= EVERY:
                self._last = now
                text = f"first look at {summary.looked} of {count_of(summary.inputs, 'photo')}"
                print(text, file=sys.stderr, flush=True)  # noqa: T201
        elif self._kind == "text" and record is not None and now - self._last >= EVERY:
            self._last = now
            left = summary.left / pace if pace else 0
            text = (
                f"{done} of {count_of(summary.inputs, 'photo')}, {count_of(summary.faces, 'face')}, "
                f"{summary.withheld} withheld, {pace:.1f} photos/s, {left:.0f} s left"
            )
            print(text, file=sys.stderr, flush=True)  # noqa: T201


class Faults:
    """Prints what is wrong with single photos; of one reason the first few, then how many more."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for reason, names in self._names.items():
            rest = names[FOLDED:]
            if rest:
                who = rest[0] if len(rest) == 1 else f"and {len(rest):,} more"
                print(f"moretta: {who}: {reason}", file=sys.stderr)  # noqa: T201

    def say(self, name: str, reason: str) -> None:
        """Say it now, or count it until the end."""
        name, reason = one_line(name), one_line(reason)
        names = self._names.setdefault(reason, [])
        names.append(name)
        if len(names) <= FOLDED:
            print(f"moretta: {name}: {reason}", file=sys.stderr)  # noqa: T201


def summary_table(summary: Summary, *, as_json: bool, spent_on: Sequence[str] = ()) -> None:
    """Print the counts, which add up to the inputs, and name what was not simply published.

    spent_on: lines that say what an epsilon that was spent covers.
    """
    if as_json:
        counts = {k: v for k, v in asdict(summary).items() if k != "troubles"}
        counts |= {"left": summary.left, "exit_code": summary.exit_code}
        counts["troubles"] = [
            {"input": name, "decision": decision, "reason": reason}
            for name, decision, reason in summary.troubles
        ]
        print(json.dumps(counts))  # noqa: T201
        return
    covered = [one for one in summary.troubles if one[1] == "covered"]
    others = [one for one in summary.troubles if one[1] != "covered"]
    for name, decision, reason in (*others, *covered[:NAMED]):
        print(f"moretta: {one_line(name)}: {decision}: {one_line(reason)}", file=sys.stderr)  # noqa: T201
    if len(covered) > NAMED:
        more = len(covered) - NAMED
        print(f"moretta: and {more} more published; manifest.jsonl names all", file=sys.stderr)  # noqa: T201
    rows = [
        ("published", summary.published),
        ("withheld", summary.withheld),
        ("could not be read or written", summary.failed),
        ("done by an earlier run", summary.kept),
        ("of these withheld", summary.kept_withheld),
        ("of these without their sidecars, which are not there any more", summary.kept_bare),
        ("done again: the file or its sidecar was gone or cut off", summary.again),
        ("left undone", summary.left),
    ]
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for label, number in rows:
        if number or label == "published":
            table.add_row(label, str(number))
    table.add_row("[bold]photos in[/bold]", f"[bold]{summary.inputs}[/bold]")
    if summary.not_photos:
        table.add_row("other files, left alone", str(summary.not_photos))
    if summary.links_outside:
        table.add_row("links out of the inputs, left alone", str(summary.links_outside))
    if summary.others_in_output:
        label = "files in the output folder that are not ours, left alone"
        table.add_row(label, str(summary.others_in_output))
    table.add_row("faces", str(summary.faces))
    table.add_row("of these covered by policy", str(summary.covered))
    if summary.soft:
        label = f"of these softer than their photos, up to {summary.softest:.1f} times"
        table.add_row(label, str(summary.soft))
    pace = (summary.inputs - summary.left - summary.kept) / max(summary.seconds, 1e-9)
    table.add_row("seconds", f"{summary.seconds:.1f}")
    table.add_row("photos/s", f"{pace:.1f}")
    console = Console()
    console.print(table)
    for line in (*_spent(summary.spent), *spent_on) if summary.spent else ():
        console.print(line, highlight=False, markup=False)
    console.print(f"written to {summary.output}", highlight=False, markup=False, soft_wrap=True)
    if summary.interrupted or summary.disk_full:
        why = "interrupted" if summary.interrupted else "the disk is full: free some room"
        print(f"moretta: {why}; run the same command with --resume", file=sys.stderr)  # noqa: T201


def _spent(spent: Mapping[str, Any]) -> Sequence[str]:
    """Return what was spent, in lines of less than 80 columns."""
    releases = count_of(spent["releases"], "new release")
    people = count_of(spent["people"], "person", "people")
    return (
        f"epsilon spent: {spent['epsilon']:g} in {releases} on {people};",
        f"most on one in the ledger: {spent['most_on_one']:g}",
    )
