"""What asking CenterFace about YuNet's unsure finds, and mirroring the border, bring and cost.

    python benchmarks/second_opinion.py --data ../shared/data/eval/lfw --count 1000 --out scratch/second

Looks at each photo four times: YuNet alone, as shipped (CenterFace is shown the places of which YuNet is
unsure, and the border is looked at with a mirror), the same without mirrors, and with both detectors on
the whole photo. Prints finds and CPU time a photo, and writes sheet.png with every find of what ships that
the way named by --against leaves: whether it is a face is for a person to say.
Where the folder has the truth.json of compose_groups.py, also recall by size.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from truth import group_recall

from moretta.faces.detect import detector, search
from moretta.faces.detect.search import AGREE, Eye, Found, find_faces

if TYPE_CHECKING:
    from moretta.records import Face, Pixels

SHIPPED = "as shipped"
SIDE, ACROSS = 160, 8  # px of a picture on the sheet, pictures in a row


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--enlarge", type=float, default=1.0)
    parser.add_argument("--against", default="YuNet alone", help="or 'no mirror'")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    first, second = (built(name) for name in ("yunet", "centerface"))
    ways = {
        "YuNet alone": lambda photo: find_faces(photo, [first]),
        SHIPPED: lambda photo: find_faces(photo, [first], fallback=lambda: [second]),
        "no mirror": lambda photo: unmirrored(photo, first, second),
        "both on the whole photo": lambda photo: find_faces(photo, [first, second]),
    }
    seen: dict[str, dict[str, list[tuple[float, ...]]]] = {name: {} for name in ways}
    seconds = dict.fromkeys(ways, 0.0)
    counts = dict.fromkeys(ways, 0)
    shown = []
    files = sorted(given.data.rglob("*.jpg"))[: given.count]
    for file in files:
        photo = read(file, given.enlarge)
        found = {}
        for name, way in ways.items():
            begun = time.process_time()
            found[name] = way(photo)
            seconds[name] += time.process_time() - begun
            counts[name] += len(found[name])
            boxes = [face.box for face in found[name]]
            seen[name][file.name] = [(b.left, b.top, b.right, b.bottom) for b in boxes]
        without = found[given.against]
        shown += [
            picture(photo, face)
            for face in found[SHIPPED]
            if not any(face.box.overlap(other.box) > AGREE for other in without)
        ]
    for name in ways:
        cost = 1000 * seconds[name] / len(files)
        print(f"{name}: {counts[name]} finds, {cost:.1f} ms of CPU a photo ({len(files)} photos)")
    if (given.data / "truth.json").exists():
        truth = json.loads((given.data / "truth.json").read_text())
        for name in ways:
            print(name, json.dumps(group_recall(truth, seen[name])))
    rows = [np.hstack(filled(shown[i : i + ACROSS])) for i in range(0, len(shown), ACROSS)]
    if rows:
        cv2.imwrite(str(given.out / "sheet.png"), np.vstack(rows)[..., ::-1])
    print(f"{len(shown)} beyond {given.against}: {given.out / 'sheet.png'}")


def unmirrored(photo: Pixels, first: Eye, second: Eye) -> list[Face]:
    """As shipped, but for the look at the border."""
    shipped = search.look_at_border
    search.look_at_border = lambda *_: (Found.joined([]), Found.joined([]))
    try:
        return find_faces(photo, [first], fallback=lambda: [second])
    finally:
        search.look_at_border = shipped


def built(name: str) -> Eye:
    """Return a detector with its own threshold."""
    chosen = detector(name)
    return Eye(detector=chosen, look=chosen.build("cpu", 1), least_score=chosen.least_score)


def read(file: Path, enlarge: float) -> Pixels:
    """Return a photo in RGB, enlarged."""
    photo = np.asarray(cv2.imread(str(file)))[..., ::-1]
    if enlarge != 1:
        photo = cv2.resize(photo, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(photo)


def picture(photo: Pixels, face: Face) -> Pixels:
    """A find with three times its surroundings, and the detector's score."""
    box = face.box
    reach = int(1.5 * max(box.width, box.height)) + 1
    across, down = int((box.left + box.right) / 2), int((box.top + box.bottom) / 2)
    framed = np.ascontiguousarray(photo)
    cv2.rectangle(
        framed, (int(box.left), int(box.top)), (int(box.right), int(box.bottom)), (0, 255, 0), 1
    )
    padded = cv2.copyMakeBorder(framed, *(4 * (reach,)), cv2.BORDER_CONSTANT)
    part = cv2.resize(padded[down : down + 2 * reach, across : across + 2 * reach], (SIDE, SIDE))
    cv2.putText(part, f"{face.score:.2f}", (2, 12), 0, 0.4, (255, 255, 0), 1)
    return np.asarray(part, np.uint8)


def filled(row: list[Pixels]) -> list[Pixels]:
    """Return a row of the sheet at its full length."""
    return row + [np.zeros((SIDE, SIDE, 3), np.uint8)] * (ACROSS - len(row))


if __name__ == "__main__":
    main()
