"""`moretta anonymize --dry-run`: check everything, write nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moretta.errors import one_line

if TYPE_CHECKING:
    from moretta.pipeline.options import Options


def rehearse(
    inputs: Sequence[str], output: Path, options: Options, *, boxes: Path | None, as_json: bool
) -> int:
    """Print what a run would do; return 0 when it is ready to start, 4 when some input is at fault.

    Faults that would stop a run (unknown names, altered weights, a missing device) are raised here
    as they would be there.
    """
    from moretta.pipeline.boxes import read_boxes
    from moretta.pipeline.inputs import listed
    from moretta.pipeline.persons import planned
    from moretta.pipeline.protect import Protector
    from moretta.pipeline.run import check_boxes

    items = listed(inputs, output, container=options.format, rename=options.rename)
    drawn = read_boxes(boxes) if boxes else {}
    check_boxes(drawn, items)
    planned(items, options)
    Protector(options)
    photos = [item for item in items if item.photo]
    faults = [(item.name, item.fault) for item in photos if item.fault]
    above = next(path for path in (output, *output.resolve().parents) if path.exists())
    free = shutil.disk_usage(above).free
    needed = sum(item.path.stat().st_size for item in photos if not item.fault)
    report = {
        "photos": len(photos),
        "not_photos": len(items) - len(photos),
        "faults": [{"input": name, "reason": fault} for name, fault in faults],
        "boxes_for": len(drawn),
        "input_bytes": needed,
        "free_bytes": free,
        "settings": options.model_dump(),
        "ready": free > needed,
    }
    if as_json:
        print(json.dumps(report))  # noqa: T201
    else:
        for name, fault in faults:
            print(f"{one_line(name)}: {one_line(fault)}")  # noqa: T201
        print(  # noqa: T201
            f"{len(photos)} photos, {needed / 1e6:.1f} MB; {free / 1e9:.1f} GB free; method "
            f"{options.method}; networks loaded; nothing was written"
        )
    return 4 if faults else 0
