"""The attackers: one file each, one line in the list below.

An attacker sees a Case (attack.py) and nothing else: no folders, no method, no part E.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moretta.evaluation.attackers import (
    closed,
    context,
    head,
    inverter,
    keyed,
    mapping,
    naive,
    operator,
    parrot,
    perceptron,
    permutation,
    restorer,
    unet,
    whole,
)

if TYPE_CHECKING:
    from moretta.evaluation.attackers.attack import Attacker

ATTACKERS: tuple[Attacker, ...] = (
    naive.SAME,
    naive.OTHER,
    parrot.PARROT,
    parrot.REVERSE,
    head.HEAD,
    head.CROSS,
    closed.CLOSED,
    whole.WHOLE,
    restorer.LINEAR,
    permutation.PERMUTATION,
    operator.OPERATOR,
    unet.UNET,
    mapping.ANTI,
    mapping.SHIFT,
    mapping.PROCRUSTES,
    mapping.RIDGE_MAP,
    mapping.CCA,
    perceptron.PERCEPTRON,
    inverter.INVERTER,
    keyed.KEYED,
    context.CONTEXT,
)

#: Which attacks decide the verdict in which situation.
SCENARIOS = {
    "published": {"A0-same"},  # the originals are in the attacker's hands, this very shot included
    "bystander": set(),
    "series": set(),
}


def decides(attacker: Attacker, scenario: str) -> bool:
    """Whether the attack counts for the verdict; A8 is a floor and never does."""
    if attacker.floor:
        return False
    return not attacker.same_photo or attacker.name in SCENARIOS[scenario]
