"""`moretta anonymize --dry-run`: check everything, write nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moretta.errors import count_of, one_line

if TYPE_CHECKING:
    from moretta.pipeline.custody import Keyring
    from moretta.pipeline.options import Options


def rehearse(
    inputs: Sequence[str],
    output: Path,
    options: Options,
    *,
    jobs: int | Literal["auto"],
    resume: bool,
    overwrite: bool,
    boxes: Path | None,
    internal_record: Path | None,
    keyring: Keyring | None,
    as_json: bool,
) -> int:
    """Print what a run would do; return 0 when it is ready to start.

    Returns 4 when some input is at fault, or the photos would not fit on the disk. What would refuse a
    run (unknown names, altered weights, an earlier run in the output) is raised here as it would be
    there.
    """
    from moretta.photos import manifest
    from moretta.pipeline.protect import Protector
    from moretta.pipeline.run import admitted

    ready = admitted(
        inputs,
        output,
        options,
        jobs=jobs,
        resume=resume,
        overwrite=overwrite,
        boxes=boxes,
        internal_record=internal_record,
        keyring=keyring,
    )
    items, to_draw = ready.items, ready.to_draw
    photos = [item for item in items if item.photo]
    Protector(options)
    faults = [(item.name, item.fault) for item in photos if item.fault]
    outside = sum(item.outside for item in items)
    earlier = (output / manifest.MANIFEST).exists() or (output / manifest.RUN).exists()
    others = 0 if earlier else sum(1 for _ in manifest.not_of_a_run(output))
    above = next(path for path in (output, *output.resolve().parents) if path.exists())
    free = shutil.disk_usage(above).free
    sizes = {item.output: item.path.stat().st_size for item in photos if not item.fault}
    needed = sum(sizes.values())
    to_do = sum(size for name, size in sizes.items() if name not in ready.done)
    fits = free > to_do
    report = {
        "photos": len(photos),
        "not_photos": len(items) - len(photos) - outside,
        "links_outside": outside,
        "others_in_output": others,
        "faults": [{"input": name, "reason": fault} for name, fault in faults],
        "boxes_for": len(ready.drawn),
        "input_bytes": needed,
        "free_bytes": free,
        "to_draw": to_draw,
        "settings": options.model_dump(),
        "ready": fits,
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
        if not fits:
            print(  # noqa: T201
                f"not ready: the photos take {to_do / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free"
            )
    return 4 if faults or not fits else 0
