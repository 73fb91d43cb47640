"""How many known faces a detector found, by size, and how often it cried wolf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Edges = Sequence[float]  # left, top, right, bottom

BINS = (12, 16, 20, 32, 64, 128, 400)
_GRID = [(step + 0.5) / 40 for step in range(40)]


def found(face: Edges, boxes: Sequence[Edges]) -> bool:
    """Whether a box is centred in the face with IoU >= 0.3, or boxes cover 80 % of the face."""
    if any(_holds(face, _centre(box)) and _overlap(face, box) >= 0.3 for box in boxes):
        return True
    near = [box for box in boxes if _common(face, box) > 0]
    return bool(near) and covered(face, near) >= 0.8


def covered(face: Edges, boxes: Sequence[Edges]) -> float:
    """Share of the face inside the union of boxes, on a grid of 40 x 40 points."""
    left, top, right, bottom = face
    spots = [(left + u * (right - left), top + v * (bottom - top)) for u in _GRID for v in _GRID]
    return sum(any(_holds(box, spot) for box in boxes) for spot in spots) / len(spots)


def group_recall(
    truth: Mapping[str, Sequence[Mapping[str, Any]]], boxes: Mapping[str, Sequence[Edges]]
) -> dict[str, Any]:
    """Share found by size bin, and boxes centred in no face, a photo."""
    hits = dict.fromkeys(range(len(BINS) - 1), 0)
    counts = dict(hits)
    alarms = 0
    for name, faces in truth.items():
        seen = boxes.get(name, ())
        for face in faces:
            place = sum(face["side"] >= edge for edge in BINS[1:-1])
            counts[place] += 1
            hits[place] += found(face["box"], seen)
        alarms += sum(not any(_holds(face["box"], _centre(box)) for face in faces) for box in seen)
    by_size = {
        f"{BINS[place]}-{BINS[place + 1]}": {
            "faces": counts[place],
            "found": hits[place],
            "share": round(hits[place] / counts[place], 4) if counts[place] else None,
        }
        for place in counts
    }
    share = sum(hits.values()) / max(1, sum(counts.values()))
    return {
        "by_size": by_size,
        "share": round(share, 4),
        "false_alarms_a_photo": round(alarms / max(1, len(truth)), 3),
        "photos_without_answer": sorted(set(truth) - set(boxes)),
    }


def centre_recall(names: Sequence[str], boxes: Mapping[str, Sequence[Edges]]) -> dict[str, Any]:
    """Of LFW photos: the share whose middle, (125, 125), lies in a box."""
    missed = [
        name
        for name in names
        if not any(_holds(box, (125.0, 125.0)) for box in boxes.get(name, ()))
    ]
    total = sum(len(boxes.get(name, ())) for name in names)
    return {
        "photos": len(names),
        "found": len(names) - len(missed),
        "share": round(1 - len(missed) / max(1, len(names)), 4),
        "boxes_a_photo": round(total / max(1, len(names)), 3),
        "missed": missed,
    }


def _centre(box: Edges) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _holds(box: Edges, spot: tuple[float, float]) -> bool:
    return box[0] <= spot[0] < box[2] and box[1] <= spot[1] < box[3]


def _common(one: Edges, other: Edges) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _overlap(one: Edges, other: Edges) -> float:
    common = _common(one, other)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (areas - common) if areas > common else 0.0
