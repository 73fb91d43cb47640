"""`moretta recover`: the originals back, for the key holder."""

from __future__ import annotations

import json as jsons
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from moretta.errors import count_of

EPILOG = (
    "Exit codes: 0 all are there; 2 wrong use; 3 some sidecar did not open; 4 some was not bound to "
    "its photo, or could not be read or written; 6 the access log does not hold together."
)


def command(
    photos: Annotated[
        list[Path], typer.Argument(help="Protected photos, their sidecars, or folders of them.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", "--out", help="Folder for the originals.")
    ],
    purpose: Annotated[str, typer.Option(help="Why they are needed: goes to the access log.")],
    key: Annotated[
        list[Path] | None, typer.Option(help="Key file, or a recipient's private key; repeatable.")
    ] = None,
    passphrase: Annotated[
        str | None,
        typer.Option(help="prompt, fd:NUMBER or file:PATH; never the passphrase itself."),
    ] = None,
    key_table: Annotated[Path | None, typer.Option(help="Of photos that can be shredded.")] = None,
    sidecars: Annotated[
        Path | None, typer.Option(help="Folder of the sidecars, if not beside the photos.")
    ] = None,
    allow_unbound: Annotated[
        bool,
        typer.Option(
            "--allow-unbound", help="Also where the photo is not the one that was sealed."
        ),
    ] = False,
    neural: Annotated[
        bool,
        typer.Option(
            "--neural",
            help="Approximate: read pseudonyms from the photos, turn them back by the key and draw likenesses.",
        ),
    ] = False,
    log: Annotated[
        Path | None, typer.Option(help="Access log (default ~/.local/state/moretta/access.jsonl).")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a photo on standard output.")
    ] = False,
) -> None:
    """Open sidecars and write the originals, byte for byte, or nothing.

    Example: [bold]moretta recover protected --key my.key --output originals --purpose "case 7"[/bold]
    """
    from dataclasses import asdict

    from moretta.cli.show import Faults
    from moretta.errors import UsageError, one_line
    from moretta.photos.manifest import MANIFEST, RUN
    from moretta.pipeline import custody
    from moretta.pipeline.likeness import drawn_with_a_key, likenesses
    from moretta.pipeline.recover import Recovered, listed, recover

    why = custody.purpose(purpose)
    for place in (output.absolute(), *output.absolute().parents):
        if (place / MANIFEST).exists() and (place / RUN).exists():
            raise UsageError(
                f"{output} lies in {place}, a folder of protected photos",
                hint="choose an --output outside of it: originals do not belong among what is shown",
            )
    openers = custody.openers(key=key or (), how=passphrase)

    faults = Faults()

    def show(done: Recovered) -> None:
        if json:
            print(jsons.dumps(asdict(done)), flush=True)  # noqa: T201
            return
        good = done.outcome in ("recovered", "kept", "drawn")
        said: list[str] = [done.status] if done.status else []
        if done.outcome != "unbound":  # the status says that already
            said.append(done.outcome)
        place = f" as {one_line(done.original)}" if good else ""
        text = f"{', '.join(said)}{place}: {one_line(done.reason)}"
        if good:
            print(f"{one_line(done.name)}: {text}")  # noqa: T201
        else:
            faults.say(done.name, text)

    if neural:
        from moretta.methods import method, require

        require(method("ifadit"))
    how: dict[str, Any] = {
        "purpose": why,
        "log": custody.AccessLog(log or custody.default_log()),
        "table": custody.KeyTable(key_table) if key_table else None,
        "allow_unbound": allow_unbound,
        "listener": show,
    }
    with faults:
        if neural:
            counts = likenesses(drawn_with_a_key(photos, sidecars), output, openers, **how)
        else:
            counts = recover(listed(photos, sidecars), output, openers, **how)
    if not json:
        left = counts.sealed - counts.recovered - counts.kept - counts.drawn
        what, several = (
            ("approximate likeness", "approximate likenesses")
            if neural
            else ("original", "originals")
        )
        done = counts.recovered + counts.kept + counts.drawn
        where = f" in {output}" if done else ""
        print(f"{done} of {count_of(counts.sealed, what, several)}{where}")  # noqa: T201
        if left:
            verb = "is" if left == 1 else "are"
            print(f"moretta: {left} {verb} not there: the lines above say why", file=sys.stderr)  # noqa: T201
    raise typer.Exit(counts.exit_code)
