"""FALCO: the photo's own latent code, some rows moved from a synthetic neighbour to a wanted distance.

A synthetic face whose attributes are near takes the place of the old one in the rows that carry
identity; these rows alone are then optimised: the cosine to the old face goes to a target, the attribute
features stay. The other rows are the photo's own code: that is what FALCO is, and what links its output
to this photo. No key; a theorem and a budget for the choice of the neighbour alone, where asked for.

Sources  Barattin, Tzelepis, Patras, Sebe, CVPR 2023. What we decided otherwise: docs/falco.md.
         Duchi, Wainwright, Jordan 2013 and Ye, Barg 2018 (subset selection): privacy.mechanisms.
Checked  tests/methods/test_falco.py, tests/networks/test_optimise.py; measured in docs/falco.md.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from moretta.errors import LedgerError, ReleaseRefused, UsageError, count_of
from moretta.records import Charge, Crop, Edited, FaceEdit, Method, Settings, Statement
from moretta.weights.backends import MASK_FEATHER, MASK_SCALE, NETWORKS, SIDE

if TYPE_CHECKING:
    import numpy as np
    import torch

    from moretta.networks import neighbours
    from moretta.networks.backend import Backend
    from moretta.networks.features import Features
    from moretta.privacy.entropy import Entropy
    from moretta.records import Guard

BATCH = 8  # faces that are optimised together
#: Cosines between different people in the recogniser of the loss: mean, standard deviation, and the
#: 99th percentile, at which draws are cut off (docs/networks.md).
IMPOSTOR, FARTHEST = (0.015, 0.147), 0.369
_SEARCHED = 64  # neighbours looked through for one that is neither too near nor taken
_SHARES = (1.0, 0.75, 0.5, 0.25)  # of a row that is re-sampled, the largest within tolerance
_TOLERANCE = 1.1  # of the attribute distance, that re-sampling may cost
_NEIGHBOURS = 8
NONE_LEFT = "no synthetic face is left that nobody has: a larger pool, or --unique no"
#: What the epsilon of a private choice covers, and what it does not.
COVERS = (
    "which synthetic face is the neighbour: one draw from the pool, as a function of the old face's"
    " attribute features; the old identity is not read for it; nothing else"
)
EXCLUDES = (
    "the rows copied from the photo's own inversion, and those that --resample moves; optimisation, which"
    " reads the old face's identity and attributes at every step; whether the face was covered; the"
    " surroundings. Epsilons of photos of one person add up: the ledger counts them where --persons says"
    " who is who"
)


class Falco(Settings):
    """Options of `falco`."""

    target: Annotated[float, Field(ge=-1, le=1)] | Literal["impostor"] = Field(
        "impostor",
        description="cosine to the old face that is aimed at, -1 to 1; impostor: drawn as between"
        " strangers, so that the value itself gives nothing away",
    )
    steps: int = Field(
        50,
        ge=0,
        le=1000,
        description="of optimisation; 0 only swaps the rows, and aims at no target",
    )
    metric: Literal["cosine", "euclidean"] = Field(
        "cosine", description="by which neighbours are near in attribute features"
    )
    neighbours: int = Field(
        _NEIGHBOURS, ge=1, le=_SEARCHED, description="one of so many nearest is taken, by chance"
    )
    donor_epsilon: Annotated[float, Field(ge=0, le=10)] | Literal["off"] = Field(
        "off",
        description="a number from 0 to 10: the neighbour is drawn from the whole pool by the subset"
        " mechanism, so that this choice, and nothing else of the picture, says at most so much about the"
        " old face's attributes; 0 draws evenly",
    )
    cap: float = Field(
        10.0,
        ge=0,
        description="largest sum of epsilons of one person in the ledger; a face beyond it is covered",
    )
    unique: Literal["yes", "no"] = Field(
        "yes", description="yes: no two faces, or persons, of a run start from one synthetic face"
    )
    resample: Literal["yes", "no"] = Field(
        "no",
        description="yes: rows of the photo's own code give way to another neighbour's as far as"
        " attributes allow: a weaker link to this photo",
    )
    features: Literal["features", "farl"] = Field(
        "features", description="what sees attributes: bundled, or official FaRL weights"
    )
    compat: bool = Field(
        False,
        description="tensor ranges and contrast of the published code, all steps, for comparison",
    )
    pool: str = Field(
        "", description="folder of synthetic faces; the usual one, made at first use, if empty"
    )

    @property
    def secret_chance(self) -> bool:
        """Whether the neighbour is drawn for a stated epsilon."""
        return self.donor_epsilon != "off"

    @property
    def spends(self) -> bool:
        """Whether the neighbour is drawn for a stated epsilon."""
        return self.donor_epsilon != "off"

    @property
    def counted(self) -> bool:
        """At epsilon 0 nothing is spent."""
        return isinstance(self.donor_epsilon, float) and self.donor_epsilon > 0

    @property
    def weak(self) -> str:
        """Say so where the target is nearer to the old face than strangers are."""
        if isinstance(self.target, str) or self.target <= FARTHEST:
            return ""
        return (
            f"falco, target {self.target:g}: nearer to the old face than strangers are. Of 60 people the"
            " judge still knew 21 at 0.5, by default none: those it covers, and what lies just below its"
            " threshold is published (docs/falco.md)"
        )

    @property
    def told(self) -> Mapping[str, Any]:
        """The pool by its hash."""
        from moretta.weights import pools

        return pools.told(self.pool)

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        if isinstance(self.donor_epsilon, float):
            from moretta.privacy.mechanisms import checked_epsilon

            checked_epsilon(self.donor_epsilon)
            if self.neighbours != _NEIGHBOURS:
                raise ValueError(
                    "neighbours and donor_epsilon exclude each other: how many count as near follows"
                    " from epsilon"
                )
            if self.metric != "cosine":
                raise ValueError("donor_epsilon ranks by cosine: leave metric out")
            if self.cap < self.donor_epsilon:
                raise ValueError(
                    f"cap {self.cap:g} does not hold a single choice of donor_epsilon"
                    f" {self.donor_epsilon:g}: raise cap or lower donor_epsilon"
                )
        if (not self.donor_epsilon or self.donor_epsilon == "off") and self.asked("cap"):
            said = "off" if self.donor_epsilon == "off" else "0, so nothing is spent"
            raise ValueError(f"cap is for donor_epsilon, which is {said}: leave cap out")
        return self

    @model_validator(mode="after")
    def _aimed(self) -> Self:
        if self.steps == 0 and self.asked("target"):
            raise ValueError(
                "target, or strength, is aimed at by optimisation, and steps is 0: keep one of them"
            )
        return self


def strength(value: float) -> Mapping[str, Any]:
    """0 aims at cosine 1, 1 at cosine 0."""
    return {"target": 1 - value}


def prepare(
    settings: Falco, device: str, faces: int, listener: Callable[[int, int], None] | None
) -> int:
    """Open or draw the pool, in the process that starts the others; refuse one that is too small.

    listener: None draws nothing. Returns how many faces were to be drawn.
    """
    from moretta.weights import pools

    networks = _networks(settings, device)
    pool = pools.existing(settings.pool, networks[2])
    size = pools.SMALL if pool is None else len(pool)
    if settings.unique == "yes" and faces > size:
        raise UsageError(
            f"{count_of(faces, 'photo')} need a synthetic face each, and the pool has {size}",
            hint=f"{_larger(settings, 4 * faces, networks[2], pool)}, or --unique no",
        )
    if pool is None and listener:
        pools.ready(settings.pool, *networks, listener=listener)
    return size if pool is None else 0


def _larger(
    settings: Falco, count: int, networks: Mapping[str, str], pool: neighbours.Faces | None
) -> str:
    """Return the command that makes the pool of these settings larger."""
    from pathlib import Path

    from moretta.networks.neighbours import command

    folder = Path(settings.pool).expanduser() if settings.pool else None
    return command(count, {"networks": networks} if pool is None else pool.about, folder)


def together(settings: Falco) -> bool:
    """Whether all faces of a run pass through one process: who has which neighbour is kept in it."""
    return settings.unique == "yes"


def _networks(settings: Falco, device: str) -> tuple[Any, Any, Mapping[str, str]]:
    """Backend, attribute features, and the hashes that a pool of theirs must have."""
    from moretta.networks.optimise import require_gradient
    from moretta.weights import backends

    backend = backends.composer(device=device)
    require_gradient(backend)
    features = backends.features(settings.features, backend)
    return backend, features, backends.digests(settings.features)


def build(settings: Falco, device: str) -> FaceEdit:
    """Return the edit: find a neighbour, swap its rows in, optimise them.

    The usual pool, where there is none yet, is drawn at the first edit: building writes nothing.
    """
    from moretta.weights import pools

    networks = _networks(settings, device)
    pool = pools.existing(settings.pool, networks[2])
    if pool is not None:
        return _edit(settings, networks[0], networks[1], pool)
    kept: list[FaceEdit] = []

    def first(crops: Sequence[Crop]) -> Sequence[Edited]:
        if not kept:
            drawn = pools.ready(settings.pool, *networks)
            kept.append(_edit(settings, networks[0], networks[1], drawn))
        return kept[0](crops)

    return first


def _edit(
    settings: Falco, backend: Backend, features: Features, pool: neighbours.Faces
) -> FaceEdit:
    import numpy as np
    import torch

    from moretta.faces.crop import points_in
    from moretta.networks import pool as pools
    from moretta.networks.backend import by_batches, pictures_of, pixels_of
    from moretta.networks.features import distance
    from moretta.networks.optimise import Task, move

    moved = list(backend.identity_rows)
    copied = [row for row in range(len(backend.layers)) if row not in moved]
    taken: dict[int, tuple[str, int]] = {}  # member -> who has it
    epsilon = settings.donor_epsilon
    private = None if epsilon == "off" else Donors(pool.vectors, float(epsilon), cap=settings.cap)
    said: dict[str, Any] = {}
    if private:
        said = {"statement": private.statement(), "settings": {"neighbours": None}}

    def changed(crops: Sequence[Crop]) -> list[Edited]:
        with torch.no_grad():
            pictures = pictures_of([crop.pixels for crop in crops], backend.device)
            points = torch.from_numpy(np.stack([points_in(crop) for crop in crops])).to(pictures)
            shown = (pictures + 1) / 2 if settings.compat else pictures
            old, maps = backend.seen(shown, points)
            truth = features.of(shown, points, maps=maps).tokens
            vectors = features.of(pictures, points).vectors.float().cpu().numpy()
            own = backend.rows(backend.identity(pictures, points), backend.attributes(pictures))
            near = pool.nearest(vectors, min(len(pool), _SEARCHED), settings.metric)
            choices = [
                chosen(crop, near[i], old[i].cpu().numpy(), vectors[i])
                for i, crop in enumerate(crops)
            ]
            kept = [i for i, one in enumerate(choices) if isinstance(one, int)]
            answers = [
                Edited(
                    pixels=np.zeros_like(crop.pixels), fault="" if i in kept else str(choices[i])
                )
                for i, crop in enumerate(crops)
            ]
            if not kept:
                return answers
            crops, near = [crops[i] for i in kept], near[kept]
            pictures, points, old, truth = (x[kept] for x in (pictures, points, old, truth))
            rows = own[kept].clone()
            rows[:, moved] = latents(np.array([choices[i] for i in kept]))[:, moved]
            if settings.resample == "yes":
                rows = resampled(rows, near, crops, pictures, points, truth)
        targets = torch.tensor([target(crop) for crop in crops]).to(pictures)
        task = Task(
            pictures=pictures,
            points=points,
            rows=rows,
            moved=moved,
            old=old,
            truth=truth,
            targets=targets,
        )
        done = move(task, backend, features, steps=settings.steps, stops=not settings.compat)
        faces = done.pictures
        if settings.compat:
            faces = stretched(faces)
        for i, pixels in enumerate(pixels_of(faces.nan_to_num(0))):
            fault = "its loss was not finite" if bool(done.lost[i]) else ""
            figures = {
                "cosine": float(done.cosines[i]),
                "target": float(targets[i]),
                "attribute distance": float(done.attributes[i]),
                "steps": float(done.steps[i]),
                "pool": float(len(pool)),
            }
            answers[kept[i]] = (
                Edited(pixels=np.zeros_like(pixels), fault=fault)
                if fault
                else Edited(pixels=pixels, figures=figures, **said)
            )
        return answers

    def latents(members: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pool.latents(members)).to(backend.device)

    def target(crop: Crop) -> float:
        if settings.target != "impostor":
            return float(settings.target)
        whose = crop.seed if crop.identity is None or private else crop.identity
        drawn = np.random.default_rng([whose, 1]).normal(*IMPOSTOR)
        return float(np.clip(drawn, -FARTHEST, FARTHEST))

    def chosen(crop: Crop, near: np.ndarray, old: np.ndarray, vector: np.ndarray) -> int | str:
        """Choose a neighbour that nobody has; or say why there is none.

        A shared new face takes any member. A private choice looks at the old face through the
        mechanism alone: members near the old identity are not left out, since that would tell which
        they are.
        """
        if private:
            return privately(private, crop, vector)
        if crop.identity is not None:  # nothing is read from faces that may look unlike
            who = ("identity", crop.identity)
            free = np.random.default_rng(crop.identity).permutation(len(pool))
        else:
            who = ("seed", crop.seed)
            strange = near[pool.identities[near] @ old < pools.TOO_NEAR]
            free = strange if len(strange) else near
        if settings.unique == "yes":
            kept = next((member for member, has in taken.items() if has == who), None)
            if kept is not None:
                return kept
            rest = [int(member) for member in free if int(member) not in taken]
            if not rest:  # any that is free, and of those not one whose identity is near
                rest = [member for member in range(len(pool)) if member not in taken]
                if crop.identity is None:
                    strange = pool.identities[rest] @ old < pools.TOO_NEAR
                    rest = np.array(rest)[strange].tolist() or rest
            if not rest:
                return NONE_LEFT
            free = np.array(rest)
        if crop.identity is None:
            rng = np.random.default_rng([crop.seed, 0])
            free = free[rng.integers(min(settings.neighbours, len(free))) :]
        taken[int(free[0])] = who
        return int(free[0])

    def privately(donors: Donors, crop: Crop, vector: np.ndarray) -> int | str:
        """Choose the member drawn for this face, or the free one that is most like that member."""
        who = ("seed", crop.seed)
        others: Container[int] = ()
        if settings.unique == "yes":
            kept = next((member for member, has in taken.items() if has == who), None)
            if kept is not None:
                return kept
            if len(taken) == len(pool):
                return NONE_LEFT
            others = taken
        try:
            member = donors.released(vector, crop.guard)
        except (ReleaseRefused, LedgerError) as error:
            return error.told
        member = donors.likest(member, others)
        taken[member] = who
        return member

    def resampled(
        rows: torch.Tensor,
        near: np.ndarray,
        crops: Sequence[Crop],
        pictures: torch.Tensor,
        points: torch.Tensor,
        truth: torch.Tensor,
    ) -> torch.Tensor:
        """Move the copied rows towards another neighbour's, each face as far as tolerance allows."""
        others = [
            near[i, np.random.default_rng([crop.seed, 2]).integers(near.shape[1])]
            for i, crop in enumerate(crops)
        ]
        towards = latents(np.array(others))[:, copied]
        context = backend.context(pictures)

        def apart(which: torch.Tensor) -> torch.Tensor:
            drawn = backend.composed(pictures, backend.draw(context, points, which))
            return distance(features.of(drawn, points).tokens, truth)

        least = apart(rows)
        result, open_ = rows.clone(), torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        for share in _SHARES:
            tried = rows.clone()
            tried[:, copied] = rows[:, copied].lerp(towards, share)
            fits = open_ & (apart(tried) <= least * _TOLERANCE)
            result[fits] = tried[fits]
            open_ &= ~fits
        return result

    return by_batches(changed, BATCH)


class Donors:
    """The neighbour by the finite-pool subset mechanism: exact epsilon, whole numbers.

    It always draws from the whole pool, so that its answer can be remembered. Where somebody has that
    member, the free one that is most like it takes its place: that follows from the answer and from
    other faces' answers, and says nothing more about this face. So all donors of a run together say at
    most epsilon about any one face.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        epsilon: float,
        *,
        cap: float = 10.0,
        entropy: Entropy | None = None,
    ) -> None:
        """vectors: (N, length), the pool's features. entropy: the operating system's by default."""
        import numpy as np

        from moretta.privacy.entropy import Entropy
        from moretta.privacy.mechanisms import FinitePool

        norms = np.linalg.norm(np.asarray(vectors, np.float64), axis=1, keepdims=True)
        self._unit = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
        self._among = FinitePool(self._unit) if len(vectors) > 1 else None
        self._epsilon = epsilon
        self._entropy = entropy or Entropy()
        statement = self.statement()
        self._charge = Charge(
            mechanism=statement.mechanism,
            epsilon=statement.epsilon,
            delta=0.0,
            cap=cap,
            shared=False,
        )

    def released(self, vector: np.ndarray, guard: Guard | None) -> int:
        """Return the member remembered for this person and photo, or draw one and charge it.

        vector: (length,), the face's features. Raises ReleaseRefused for features that are 0 or not
        finite, and where nothing counts; BudgetSpent and LedgerError as the guard does.
        """
        if self._charge.epsilon == 0:
            return self.drawn(vector)
        if guard is None:
            raise ReleaseRefused(
                "a choice with an epsilon must be counted, and there is no ledger",
                hint="run it through the pipeline",
            )
        answer = guard(self._charge, lambda: self.drawn(vector).to_bytes(8, "big"))
        return int.from_bytes(answer, "big")

    def drawn(self, vector: np.ndarray) -> int:
        """Draw a member for a face's features (length,), charging nothing."""
        import numpy as np

        from moretta.privacy.mechanisms import checked

        with np.errstate(invalid="ignore"):
            x = checked(vector / np.linalg.norm(vector))
        if self._among is None:  # no choice: nothing is said
            return 0
        return self._among.indices(x, self._epsilon, self._entropy, 1)[0]

    def likest(self, member: int, taken: Container[int]) -> int:
        """Return the member, or the one whose features are nearest to its own among those not taken."""
        import numpy as np

        if member not in taken:
            return member
        order = np.argsort(-(self._unit @ self._unit[member]), kind="stable")
        return next(int(one) for one in order if int(one) not in taken)

    def statement(self) -> Statement:
        """Say what is promised, of the whole pool, with its size and the hash of its features."""
        size, length = self._unit.shape
        if self._among is None:
            true, numerics, pool = 0.0, "there is one member", "one synthetic face"
        else:
            true = self._among.true_epsilon(self._epsilon, length)
            numerics = self._among.numerics(self._epsilon, length)
            k = self._among.weights(self._epsilon)[2]
            pool = f"{k} of {size} synthetic faces, sha256 {self._among.digest[:16]}"
        return Statement(
            promise="proved",
            mechanism=f"subset mechanism on the choice of a neighbour (epsilon {self._epsilon:g}, {pool})",
            epsilon=true,
            neighbours="any two faces, and any features that they may have (local model, worst case)",
            covers=COVERS,
            excludes=EXCLUDES,
            numerics=numerics,
        )


def explained() -> str:
    """Say what the epsilon of the neighbour's choice covers."""
    return (
        "What --donor-epsilon E covers: "
        + COVERS
        + ". Each member of the pool is at most e^E times as likely for one face as for any other."
        " It does not cover: "
        + EXCLUDES
        + ". So the picture as a whole has no epsilon. The draw takes the operating system's entropy and is"
        " not repeatable: --seed is refused, and so is --identity, where the neighbour comes from the"
        " person and no face is read. The same person and photo get the same neighbour again, which costs"
        " nothing more; --persons says who is who, and a face beyond --cap is covered."
    )


def stretched(pictures: torch.Tensor) -> torch.Tensor:
    """The published code's contrast: each picture's least value becomes -1, its greatest 1."""
    low, high = (each[:, :, None, None] for each in _range(pictures))
    return (pictures - low) / (high - low).clamp_min(1e-5) * 2 - 1


def _range(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    flat = pictures.flatten(1)
    return flat.min(1, keepdim=True)[0], flat.max(1, keepdim=True)[0]


METHOD = Method(
    name="falco",
    summary="the face of a synthetic neighbour, optimised away from the old one, attributes kept",
    settings=Falco,
    build=build,
    template="wide",
    side=SIDE,
    mask_scale=MASK_SCALE,
    mask_feather=MASK_FEATHER,
    promise="measured",
    promises="the rows of the latent code that carry identity come from a synthetic face and were moved"
    " to the wanted cosine from the old one; the judge has compared the result",
    excludes="the other rows are the photo's own code: whoever has a candidate photo can compare them;"
    " attributes are kept by design, surroundings stay, and other recognisers were in no loss; with"
    " --donor-epsilon the choice of the neighbour alone has an epsilon, the picture has none",
    source="Barattin, Tzelepis, Patras, Sebe 2023 (FALCO), on the composer of design section 6",
    draws_identity=True,
    strength=strength,
    spent=(
        "epsilon covers the choice of a synthetic neighbour alone; the picture has none",
        "docs/falco.md; moretta budget show",
    ),
    explain=explained,
    prepare=prepare,
    together=together,
    networks=(*NETWORKS, "features"),
    needs=("torch", "safetensors"),
    trained_with=("dlib",),
)
