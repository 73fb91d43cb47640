"""FALCO: the photo's own latent code, some rows moved from a synthetic neighbour to a wanted distance.

A synthetic face whose attributes are near takes the place of the old one in the rows that carry
identity; these rows alone are then optimised: the cosine to the old face goes to a target, the attribute
features stay. The other rows are the photo's own code: that is what FALCO is, and what links its output
to this photo. No key, no budget, no theorem.

Sources  Barattin, Tzelepis, Patras, Sebe, CVPR 2023. What we decided otherwise: docs/falco.md.
Checked  tests/methods/test_falco.py, tests/networks/test_optimise.py; measured in docs/falco.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from moretta.errors import UsageError
from moretta.records import Crop, Edited, FaceEdit, Method, Settings
from moretta.weights.backends import MASK_FEATHER, MASK_SCALE, NETWORKS, SIDE

if TYPE_CHECKING:
    import numpy as np
    import torch

BATCH = 8  # faces that are optimised together
#: Cosines between different people in the recogniser of the loss: mean, standard deviation, and the
#: 99th percentile, at which draws are cut off (docs/networks.md).
IMPOSTOR, FARTHEST = (0.015, 0.147), 0.369
_SEARCHED = 64  # neighbours looked through for one that is neither too near nor taken
_SHARES = (1.0, 0.75, 0.5, 0.25)  # of a row that is re-sampled, the largest within tolerance
_TOLERANCE = 1.1  # of the attribute distance, that re-sampling may cost


class Falco(Settings):
    """Options of `falco`."""

    target: float | Literal["impostor"] = Field(
        "impostor",
        ge=-1,
        le=1,
        description="cosine to the old face that is aimed at, -1 to 1; impostor: drawn as between"
        " strangers, so that the value itself gives nothing away",
    )
    steps: int = Field(50, ge=0, le=1000, description="of optimisation; 0 only swaps the rows")
    metric: Literal["cosine", "euclidean"] = Field(
        "cosine", description="by which neighbours are near in attribute features"
    )
    neighbours: int = Field(
        8, ge=1, le=_SEARCHED, description="one of so many nearest is taken, by chance"
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


def strength(value: float) -> Mapping[str, Any]:
    """0 aims at cosine 1, 1 at cosine 0."""
    return {"target": 1 - value}


def prepare(settings: Falco, device: str, faces: int) -> None:
    """Open or draw the pool, in the process that starts the others; refuse one that is too small."""
    pool = _networks(settings, device)[2]
    if settings.unique == "yes" and faces > len(pool):
        raise UsageError(
            f"{faces} photos need a synthetic face each, and the pool has {len(pool)}",
            hint=f"moretta pool build --count {4 * faces}, or --unique no",
        )


def together(settings: Falco) -> bool:
    """Whether all faces of a run pass through one process: who has which neighbour is kept in it."""
    return settings.unique == "yes"


def _networks(settings: Falco, device: str) -> tuple[Any, Any, Any]:
    from moretta.networks.optimise import require_gradient
    from moretta.weights import backends, pools

    backend = backends.composer(device=device)
    require_gradient(backend)
    features = backends.features(settings.features, backend)
    networks = backends.digests(settings.features)
    return backend, features, pools.ready(settings.pool, backend, features, networks)


def build(settings: Falco, device: str) -> FaceEdit:
    """Return the edit: find a neighbour, swap its rows in, optimise them."""
    import numpy as np
    import torch

    from moretta.faces.crop import points_in
    from moretta.networks import pool as pools
    from moretta.networks.backend import by_batches, pictures_of, pixels_of
    from moretta.networks.features import distance
    from moretta.networks.optimise import Task, move

    backend, features, pool = _networks(settings, device)
    moved = list(backend.identity_rows)
    copied = [row for row in range(len(backend.layers)) if row not in moved]
    taken: dict[int, tuple[str, int]] = {}  # member -> who has it

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
            members = [chosen(crop, near[i], old[i].cpu().numpy()) for i, crop in enumerate(crops)]
            found = [member if member is not None else 0 for member in members]
            rows = own.clone()
            rows[:, moved] = latents(np.array(found))[:, moved]
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
        answers = []
        for i, pixels in enumerate(pixels_of(faces.nan_to_num(0))):
            if members[i] is None:
                fault = "no synthetic face is left that nobody has: a larger pool, or --unique no"
            else:
                fault = "its loss was not finite" if bool(done.lost[i]) else ""
            figures = {
                "cosine": float(done.cosines[i]),
                "target": float(targets[i]),
                "attribute distance": float(done.attributes[i]),
                "steps": float(done.steps[i]),
                "pool": float(len(pool)),
            }
            answers.append(
                Edited(pixels=np.zeros_like(pixels), fault=fault)
                if fault
                else Edited(pixels=pixels, figures=figures)
            )
        return answers

    def latents(members: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pool.latents(members)).to(backend.device)

    def target(crop: Crop) -> float:
        if settings.target != "impostor":
            return float(settings.target)
        shared = crop.seed if crop.identity is None else crop.identity
        drawn = np.random.default_rng([shared, 1]).normal(*IMPOSTOR)
        return float(np.clip(drawn, -FARTHEST, FARTHEST))

    def chosen(crop: Crop, near: np.ndarray, old: np.ndarray) -> int | None:
        """Choose a neighbour that nobody has; of the whole pool where the new face is shared."""
        if crop.identity is not None:  # nothing is read from faces that may look unlike
            who = ("identity", crop.identity)
            order = np.random.default_rng(crop.identity).permutation(len(pool))
            free = order
        else:
            who = ("seed", crop.seed)
            strange = near[pool.identities[near] @ old < pools.TOO_NEAR]
            free = strange if len(strange) else near
        if settings.unique == "yes":
            kept = next((member for member, has in taken.items() if has == who), None)
            if kept is not None:
                return kept
            rest = [int(member) for member in free if int(member) not in taken]
            if not rest:
                rest = [member for member in range(len(pool)) if member not in taken]
            if not rest:
                return None
            free = np.array(rest)
        if crop.identity is None:
            rng = np.random.default_rng([crop.seed, 0])
            free = free[rng.integers(min(settings.neighbours, len(free))) :]
        taken[int(free[0])] = who
        return int(free[0])

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
    " attributes are kept by design, surroundings stay, and other recognisers were in no loss",
    source="Barattin, Tzelepis, Patras, Sebe 2023 (FALCO), on the composer of design section 6",
    draws_identity=True,
    strength=strength,
    prepare=prepare,
    together=together,
    networks=(*NETWORKS, "features"),
    needs=("torch", "safetensors"),
    trained_with=("dlib",),
)
