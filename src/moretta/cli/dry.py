"""`moretta anonymize --dry-run`: check everything, write nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moretta.errors import count_of, one_line

if TYPE_CHECKING:
    from moretta.pipeline.options import Options


def rehearse(
    inputs: Sequence[str],
    output: Path,
    options: Options,
    *,
    boxes: Path | None,
    jobs: int | Literal["auto"],
    as_json: bool,
) -> int:
    """Print what a run would do; return 0 when it is ready to start, 4 when some input is at fault.

    Faults that would stop a run (unknown names, altered weights, a missing device) are raised here
    as they would be there.
    """
    from moretta.photos import manifest
    from moretta.pipeline.boxes import read_boxes
    from moretta.pipeline.inputs import listed
    from moretta.pipeline.persons import planned
    from moretta.pipeline.protect import Protector
    from moretta.pipeline.run import check_boxes, prepared

    items = listed(inputs, output, container=options.format, rename=options.rename)
    drawn = read_boxes(boxes) if boxes else {}
    check_boxes(drawn, items)
    planned(items, options)
    photos = [item for item in items if item.photo]
    _, to_draw = prepared(options, len(photos), jobs, None)
    Protector(options)
    faults = [(item.name, item.fault) for item in photos if item.fault]
    outside = sum(item.outside for item in items)
    earlier = (output / manifest.MANIFEST).exists() or (output / manifest.RUN).exists()
    others = 0 if earlier else sum(1 for _ in manifest.not_of_a_run(output))
    above = next(path for path in (output, *output.resolve().parents) if path.exists())
    free = shutil.disk_usage(above).free
    needed = sum(item.path.stat().st_size for item in photos if not item.fault)
    report = {
        "photos": len(photos),
        "not_photos": len(items) - len(photos) - outside,
        "links_outside": outside,
        "others_in_output": others,
        "faults": [{"input": name, "reason": fault} for name, fault in faults],
        "boxes_for": len(drawn),
        "input_bytes": needed,
        "free_bytes": free,
        "to_draw": to_draw,
        "settings": options.model_dump(),
        "ready": free > needed,
    }
    if as_json:
        print(json.dumps(report))  # noqa: T201
    else:
        first = (
            f"; a pool of {count_of(to_draw, 'synthetic face')} would be drawn first"
            if to_draw
            else ""
        )
        for name, fault in faults:
            print(f"{one_line(name)}: {one_line(fault)}")  # noqa: T201
        print(  # noqa: T201
            f"{count_of(len(photos), 'photo')}, {needed / 1e6:.1f} MB; {free / 1e9:.1f} GB free; method "
            f"{options.method}; networks loaded{first}; nothing was written"
        )
        if report["not_photos"]:
            print(f"other files, to be left alone: {report['not_photos']}")  # noqa: T201
        if outside:
            print(f"links out of the inputs, to be left alone: {outside}")  # noqa: T201
        if others:
            print(f"files in the output folder that are not ours, to be left alone: {others}")  # noqa: T201
    return 4 if faults else 0
