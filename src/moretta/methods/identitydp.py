"""IdentityDP: a face drawn from an identity that was released with a stated epsilon.

Three stages, as published: the face's identity vector is taken apart from its attributes; the vector is
released under differential privacy; the composer draws a face from the release, the surroundings and a
short noisy code of attributes. Epsilon covers the vector. At epsilon 0 the vector is not even used, and
whatever still tells the person is what epsilon cannot cover: its leak is the floor under every other.

Checked  tests/contracts, tests/methods/test_identitydp.py; mechanisms and ledger in tests/privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from moretta.errors import ReleaseRefused
from moretta.records import Charge, Crop, Edited, FaceEdit, Method, Settings
from moretta.weights.backends import MASK_FEATHER, MASK_SCALE, NETWORKS, SIDE

if TYPE_CHECKING:
    import numpy as np

    from moretta.networks.pool import Pool
    from moretta.networks.traits import TraitsHead
    from moretta.records import Statement

WEAK = 10.0  # above this epsilon, a guess among thousands is right more often than not

#: Attack on drawn faces that does best on other people, among 100, with the bundled composer: what no
#: epsilon can go below. Measured in docs/identitydp.md, "What was found at each epsilon".
FLOOR_LINES = (
    "at epsilon 0, 17 % of 100 people were found again",
    "(bound 24 %; chance 1 %): the leak floor",
)
FLOOR = " ".join(FLOOR_LINES)

MatchedOn = Literal["none", "age", "gender", "age,gender"]


class IdentityDP(Settings):
    """Options of `identitydp`."""

    accept_weak_epsilon: bool = Field(
        False, description=f"allow epsilons above {WEAK:g}, which promise next to nothing"
    )
    mechanism: Literal[
        "pool", "privunit", "laplace", "laplace-compat", "l2-laplace", "vmf", "uniform"
    ] = Field(
        "pool", description="how the identity is released; `docs/identitydp.md` compares them"
    )
    epsilon: float = Field(
        0.0,
        ge=0,
        le=650,
        description="of one release; 0: an identity that has nothing to do with the old one (recommended);"
        " 1 strong, 5 moderate, 10 weak",
        validate_default=True,
    )
    cap: float = Field(
        10.0,
        ge=0,
        description="largest sum of epsilons of one person in the ledger; a face beyond it is covered",
        validate_default=True,
    )
    alias: Literal["photo", "person"] = Field(
        "photo",
        description="photo: each photo is a release and costs epsilon; person: one release for all photos of"
        " a person, who keeps one new face (needs --persons)",
    )
    match: MatchedOn = Field(
        "none",
        description="what the new identity has in common with the old one, as it appears: that much is"
        " released in clear (mechanism pool)",
    )
    pool: str = Field(
        "",
        description="folder of `moretta pool build`, whose identities are chosen from; 60,000 public ones"
        " if empty (mechanism pool)",
    )
    level: int = Field(
        0, ge=0, le=2, description="hardening: 64, 16 or 0 numbers of the attribute code are kept"
    )
    truncation: float = Field(
        1.0,
        ge=0.5,
        le=1,
        description="how far a face is drawn from the mean of the released identity's apparent age and"
        " gender: lower is cleaner and more alike; it reads nothing but the release",
    )
    predictable: bool = Field(
        False, description="releases follow from seeds and promise nothing: for tests"
    )

    @property
    def spends(self) -> bool:
        """Always: at epsilon 0 too a face is drawn from its own person's release."""
        return True

    @property
    def counted(self) -> bool:
        """At epsilon 0 nothing is spent; predictable releases cannot be counted, since they end at once."""
        return self.epsilon > 0 and not self.predictable

    @property
    def needs_persons(self) -> bool:
        """One face a person needs persons."""
        return self.alias == "person"

    @property
    def weak(self) -> str:
        """Say that a seed which others may know proves nothing, at any epsilon."""
        if not self.predictable:
            return ""
        return (
            "identitydp --predictable: releases follow from seeds, and whoever has those makes them again:"
            " nothing is proved, and the record says so; for tests alone (docs/identitydp.md)"
        )

    @property
    def told(self) -> Mapping[str, Any]:
        """The pool by its hash."""
        from moretta.weights import pools

        return pools.told(self.pool)

    @field_validator("epsilon")
    @classmethod
    def _sensible(cls, value: float, info: ValidationInfo) -> float:
        mechanism = info.data.get("mechanism", "pool")
        if 0 < value < 1e-6:
            raise _wrong("it is 0, or 0.000001 and more")
        if value and mechanism == "uniform":
            raise _wrong("uniform has epsilon 0: leave --epsilon out, or choose another mechanism")
        if _true(mechanism, value) > WEAK and not info.data.get("accept_weak_epsilon"):
            raise _wrong(
                f"above {WEAK:g} it promises next to nothing; --accept-weak-epsilon allows it"
            )
        return value

    @field_validator("match")
    @classmethod
    def _from_a_pool(cls, value: str, info: ValidationInfo) -> str:
        if value != "none" and info.data.get("mechanism", "pool") != "pool":
            raise _wrong("only the mechanism pool chooses among identities whose looks are known")
        return value

    @field_validator("pool")
    @classmethod
    def _for_the_pool(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("mechanism", "pool") != "pool":
            raise _wrong("only the mechanism pool draws from one")
        return value

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        """Refuse a cap that holds nothing, and what hangs on counting where nothing is counted."""
        if self.counted:
            if self.cap < _true(self.mechanism, self.epsilon):
                raise ValueError(
                    f"cap is {self.cap:g}: it does not hold a single release; raise cap or lower epsilon"
                )
            return self
        why = "epsilon is 0" if not self.epsilon else "predictable releases end at once"
        if self.asked("cap"):
            raise ValueError(f"cap bounds what is spent, and {why}: leave cap out")
        if self.alias == "person" and self.match != "none":
            raise ValueError(
                f"nothing is remembered of a person, since {why}: whoever looks otherwise in another photo"
                " would get another face; leave match or alias out"
            )
        return self


def _true(mechanism: str, epsilon: float) -> float:
    """Return the epsilon that is really held; the published sensitivity states too little."""
    if mechanism != "laplace-compat":
        return epsilon
    from moretta.networks.pool import LENGTH
    from moretta.privacy.mechanisms import LaplaceCompat

    return LaplaceCompat().true_epsilon(epsilon, LENGTH)


def _wrong(text: str) -> PydanticCustomError:
    return PydanticCustomError("identitydp", text)


def prepare(
    settings: IdentityDP, device: str, faces: int, listener: Callable[[int, int], None] | None
) -> int:
    """Refuse a pool that cannot be used, before a run begins or goes on; draw none."""
    _pool(settings)
    return 0


def _pool(settings: IdentityDP) -> tuple[Pool, TraitsHead]:
    from moretta.weights import backends, pools

    if settings.pool:
        return pools.stand_ins(settings.pool, settings.match)
    return backends.stand_ins()


def build(settings: IdentityDP, device: str) -> FaceEdit:
    """Return the edit: read the identity, release it, draw."""
    import numpy as np
    import torch

    from moretta.faces.crop import points_in
    from moretta.networks import pool as pools
    from moretta.networks.backend import by_batches, noise_of, pictures_of, pixels_of
    from moretta.privacy.entropy import Entropy, Predictable
    from moretta.privacy.mechanisms import FinitePool, mechanism
    from moretta.weights.backends import composer

    backend = composer(device=device)
    epsilon = settings.epsilon
    pool, head = _pool(settings)
    whole = mechanism(settings.mechanism, pool.identities)
    alike: dict[tuple[str, str], FinitePool] = {}  # pools of one apparent age and gender
    figures = {}
    if settings.match == "none":  # among faces that look alike it is larger, and hangs on the face
        figures = {"expected_cosine": whole.expected_cosine(epsilon, pools.LENGTH)}
    bare = whole.statement(epsilon, pools.LENGTH, secure=not settings.predictable)
    statement = stated(settings, bare)
    unnamed = stated(settings, bare, person=False)
    charge = Charge(
        mechanism=statement.mechanism,
        epsilon=statement.epsilon,
        delta=statement.delta,
        cap=settings.cap,
        shared=settings.alias == "person",
    )

    @torch.inference_mode()
    def drawn(crops: Sequence[Crop]) -> list[Edited]:
        pictures = pictures_of([crop.pixels for crop in crops], backend.device)
        points = torch.from_numpy(np.stack([points_in(crop) for crop in crops])).to(pictures)
        old = backend.identity(pictures, points)
        new = [released(crop, one) for crop, one in zip(crops, old.cpu().numpy(), strict=True)]
        asked = torch.from_numpy(np.stack(new)).to(old)
        noise = noise_of([crop.seed for crop in crops], old)
        code = backend.known(pictures, noise, level=settings.level)
        crowd = None
        if settings.truncation < 1:  # towards what the release looks like: nothing else is read
            crowd = torch.from_numpy(pools.crowds(pool, head, np.stack(new))).to(old)
        psi = torch.tensor(settings.truncation)
        drawing = backend.redrawn(pictures, points, asked, code, crowd=crowd, truncation=psi)
        made = pixels_of(drawing)
        return [
            Edited(
                pixels=one,
                statement=unnamed if crop.identity is None else statement,
                figures=figures,
            )
            for crop, one in zip(crops, made, strict=True)
        ]

    def released(crop: Crop, old: np.ndarray) -> np.ndarray:
        if not settings.counted:
            shared = settings.alias == "person" and crop.identity is not None
            return vector(
                old,
                Predictable(crop.identity if shared and crop.identity is not None else crop.seed),
            )
        if crop.guard is None:
            raise ReleaseRefused(
                "a release must be counted, and there is no ledger",
                hint="run it through the pipeline",
            )
        answer = crop.guard(charge, lambda: vector(old, Entropy()).tobytes())
        return np.frombuffer(answer, np.float32)

    def vector(old: np.ndarray, entropy: Entropy) -> np.ndarray:
        chosen = whole
        if settings.match != "none":
            looks = head.read(old)
            kind = looks.band, looks.gender
            if kind not in alike:
                places = pools.members(pool, looks, settings.match)
                alike[kind] = FinitePool(pool.identities[places])
            chosen = alike[kind]
        return chosen.release(old, epsilon, entropy).vector

    return by_batches(drawn)


def stated(settings: IdentityDP, statement: Statement, *, person: bool = True) -> Statement:
    """Add to a mechanism's statement what these settings release beside it.

    person: whether somebody said whose face it is; a face of nobody known is a person of its own.
    """
    from dataclasses import replace

    said = statement
    if settings.alias == "person" and person:
        said = replace(said, covers=f"{said.covers}; one release for all photos of the person")
    elif settings.epsilon:
        said = replace(said, excludes=f"{said.excludes}; releases of one person add up")
    if settings.match == "none":
        return said
    traits = {
        "age,gender": "apparent age and gender",
        "age": "apparent age",
        "gender": "apparent gender",
    }
    kept = traits[settings.match]
    return replace(
        said,
        mechanism=f"{said.mechanism}, among those of one {kept}",
        neighbours=f"any two unit vectors that are read as the same {kept} (local model, worst case)",
        excludes=f"{kept}, released in clear; {said.excludes}",
        numerics=said.numerics
        if settings.epsilon
        else f"the vector is read for its {kept}, and for nothing else",
    )


def explained() -> str:
    """Say what epsilon means, with what it leaves of the vector and what it lets anybody guess."""
    from moretta.networks.pool import LENGTH
    from moretta.privacy.mechanisms import guess_bound, mechanism

    shown = [mechanism(name) for name in ("privunit", "laplace", "l2-laplace", "vmf")]
    text = (
        "What epsilon means: whatever comes out is at most e^epsilon times as likely from one face as from"
        " any other. So whoever asks which of N people it was is right at most as often as the table says,"
        " by any attack on the vector; attacks on hair, clothes and place are not covered. Then: how much"
        " of the vector is left on average (mean cosine; pool as privunit up to epsilon 10)."
        f" Measured on the drawn faces, {FLOOR}."
    )
    lines = [
        text,
        "",
        f"{'epsilon':>7}  {'of 100':>7}  {'of 10,000':>9}"
        + "".join(f"  {one.name:>10}" for one in shown),
    ]
    for epsilon in (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0):
        guesses = f"{guess_bound(epsilon, 100):>7.1%}  {guess_bound(epsilon, 10_000):>9.2%}"
        left = "".join(f"  {one.expected_cosine(epsilon, LENGTH):>10.3f}" for one in shown)
        lines.append(f"{epsilon:>7g}  {guesses}{left}")
    return "\n".join(lines)


METHOD = Method(
    name="identitydp",
    summary="a face from an identity released with a stated epsilon",
    settings=IdentityDP,
    build=build,
    template="wide",
    side=SIDE,
    mask_scale=MASK_SCALE,
    mask_feather=MASK_FEATHER,
    promise="proved",
    promises="the identity vector is released with local differential privacy, epsilon as stated in the record"
    " (worst case over all unit vectors); the ledger adds up what is released about one person",
    excludes="epsilon covers the identity vector and no more: surroundings, hair, skin, light, pose and"
    " expression are kept roughly, and may tell who it is at epsilon 0 too; drawn faces are softer than a"
    " sharp photo",
    source="Wen, Song, Liu, Ding, Xie 2022 (IdentityDP); mechanisms: docs/identitydp.md",
    draws_identity=True,
    spent=(
        "epsilon covers the identity vector alone:",
        *FLOOR_LINES,
        "docs/identitydp.md; moretta budget show",
    ),
    explain=explained,
    prepare=prepare,
    networks=NETWORKS,
    needs=("torch", "safetensors"),
    trained_with=("dlib",),
)
