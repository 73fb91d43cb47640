"""Which numbers of a latent code carry identity: changes of identity and attributes, a feature each.

A feature is a set of numbers that is taken from another face's code: one channel of S, one number of
W+, half a row of W+ (a group) or a whole row. For pairs of a source s and a target t, and G(s) what is
drawn from s,

    Did(f) = mean of d_id(G(s), G(s with f of t))      how much identity it moves
    Dat(f) = mean of d_at(G(s), G(s with f of t))      how much else it moves
    D(f)   = Did(f) / (Dat(f) + tau)                   tau: median of Dat over the features

d_id is |a - b| of unit vectors, 0..2. d_at is the root mean square of differences in the columns of a
panel of attributes, each in units of its own standard deviation. Both are per face.

Assumes   a backend (networks.backend); pictures RGB -1..1, points in units of the crop's side.
Promise   nothing of one face stays in a ranking: it holds means over pairs.
Sources   Le & Carlsson 2023 (StyleID): rank by identity and attribute distance. The published formula
          could not be read; the ratio of means, tau, the panel and the shortcut are ours.
Checked   tests/networks/test_ranking.py; agreement of shortcut and exact ranking in docs/styleid.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch.nn import functional

from moretta.networks.traits import TENSORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from moretta.networks.backend import Backend
    from moretta.networks.composer import Layer

    Floats = npt.NDArray[np.float64]

Space = Literal["channels", "numbers", "groups", "rows"]
#: What is ranked: channels of S; numbers, half rows and rows of W+.
SPACES: tuple[Space, ...] = get_args(Space)
GRID = 3  # the panel's colours: means of GRID x GRID fields


# ---- features --------------------------------------------------------------------------------


def count(layers: Sequence[Layer], latent: int, space: Space) -> int:
    """How many features a space has."""
    rows = len(layers)
    sizes: dict[Space, int] = {
        "channels": sum(layer.channels for layer in layers),
        "numbers": rows * latent,
        "groups": 2 * rows,
        "rows": rows,
    }
    return sizes[space]


def first_row(layers: Sequence[Layer], latent: int, space: Space, feature: int) -> int:
    """Return the first row that a feature acts on: what comes before it need not be drawn again."""
    if space == "channels":
        return max(layer.row for layer in layers if layer.offset <= feature)
    return feature // {"numbers": latent, "groups": 2, "rows": 1}[space]


def spread(
    weights: torch.Tensor, layers: Sequence[Layer], latent: int, space: Space
) -> torch.Tensor:
    """Weights of features (n, features) as weights of what they are made of.

    Returns (n, S) for channels, (n, rows, latent) for the others.
    """
    if space == "channels":
        return weights
    each = {"numbers": 1, "groups": latent // 2, "rows": latent}[space]
    return weights.repeat_interleave(each, 1).view(len(weights), len(layers), latent)


def swapped(source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Take numbers from the target: source at weight 0, target at 1, exactly.

    All three of one shape. Raises ValueError where a target is its source: nothing would change.
    """
    if bool((source == target).flatten(1).all(1).any()):
        raise ValueError("a target is equal to its source: there is nothing to swap")
    return torch.lerp(source, target, weights)


def swapped_styles(
    backend: Backend,
    source: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
    space: Space,
) -> torch.Tensor:
    """Return S after a swap: rows of W+ (n, rows, latent) twice, weights (n, features) -> (n, S)."""
    parts = spread(weights, backend.layers, source.shape[2], space)
    if space == "channels":
        return swapped(backend.styles(source), backend.styles(target), parts)
    return backend.styles(swapped(source, target, parts))


def strengths(order: npt.NDArray[np.integer[Any]], shares: Floats | Sequence[float]) -> Floats:
    """Weights of features that are swapped at each share, (n, features), most important first.

    order: (features,) from the first to swap to the last. share: 0..1 of the features; the one at the
    edge is taken in part, so that privacy moves without steps. Raises ValueError outside 0..1.

    >>> strengths(np.array([2, 0, 1]), [0.5]).tolist()
    [[0.5, 0.0, 1.0]]
    """
    wanted = np.asarray(shares, dtype=np.float64)
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ValueError(f"strength is {shares}, not within 0..1")
    place = np.empty(len(order))
    place[order] = np.arange(len(order))
    return np.clip(wanted[:, None] * len(order) - place, 0, 1)


# ---- what is read from a picture ---------------------------------------------------------------


class Panel(Protocol):
    """Attributes of faces: what a swap should leave alone."""

    @property
    def names(self) -> list[str]:
        """A name for each column."""

    def __call__(
        self, pictures: torch.Tensor, points: torch.Tensor, identities: torch.Tensor
    ) -> torch.Tensor:
        """(n, 3, side, side), (n, 5, 2), (n, 48) -> (n, columns); differentiable."""


@dataclass(frozen=True, slots=True, eq=False)
class BundledPanel:
    """The panel of what ships: the attribute code, colours of nine fields, apparent age and gender."""

    backend: Backend
    head: tuple[torch.Tensor, ...]  # networks.traits.TENSORS
    code: int = 64

    @classmethod
    def of(cls, backend: Backend, tensors: Mapping[str, Any], *, code: int = 64) -> BundledPanel:
        """Build it from `load.tensors("identity")`, on the backend's device."""
        head = (torch.as_tensor(tensors[one]).float().to(backend.device) for one in TENSORS)
        return cls(backend, tuple(head), code)

    @property
    def names(self) -> list[str]:
        """A name for each column."""
        fields = [
            f"{c} {y}{x}" for c in ("red", "green", "blue") for y in range(3) for x in range(3)
        ]
        traits = ["child", "youth", "adult", "middle", "senior", "female"]
        return [*(f"code {i}" for i in range(self.code)), *fields, *traits]

    def __call__(
        self,
        pictures: torch.Tensor,
        points: torch.Tensor,  # noqa: ARG002 - a panel may need them; this one does not
        identities: torch.Tensor,
    ) -> torch.Tensor:
        """Read the columns."""
        side = pictures.shape[-1]
        low, high = round(0.2 * side), round(0.8 * side)
        colours = functional.adaptive_avg_pool2d(pictures[..., low:high, low:high], GRID)
        a, b, c, d = self.head
        hidden = functional.relu(identities * identities.shape[1] ** 0.5 @ a.t() + b)
        logits = hidden @ c.t() + d
        traits = [logits[:, :-1].softmax(1), logits[:, -1:].sigmoid()]
        return torch.cat([self.backend.attributes(pictures), colours.flatten(1), *traits], 1)


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Sources with their surroundings, and targets: two people in each pair."""

    pictures: torch.Tensor  # (n, 3, side, side): of what lies inside the mask nothing is drawn from
    points: torch.Tensor  # (n, 5, 2)
    sources: torch.Tensor  # rows (n, rows, latent)
    targets: torch.Tensor

    def __post_init__(self) -> None:
        if bool((self.sources == self.targets).flatten(1).all(1).any()):
            raise ValueError("a target is equal to its source: pairs are of different people")

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, chosen: slice) -> Pairs:
        return Pairs(
            self.pictures[chosen], self.points[chosen], self.sources[chosen], self.targets[chosen]
        )


@dataclass(frozen=True, slots=True, eq=False)
class Readers:
    """How pictures are compared: identity by the backend's own network, attributes by the panel."""

    backend: Backend
    panel: Panel
    scale: torch.Tensor  # (columns,): standard deviations of the columns over faces

    @classmethod
    def fitted(cls, backend: Backend, panel: Panel, pairs: Pairs) -> Readers:
        """Measure the columns' deviations on what the pairs' sources and targets look like."""
        whole = cls(backend, panel, torch.ones(1, device=backend.device))
        read = []
        for each in (pairs.sources, pairs.targets):
            for start in range(0, len(pairs), 16):
                part = pairs[start : start + 16]
                drawn = whole.drawn(part, backend.styles(each[start : start + 16]))
                read.append(whole(drawn, part.points)[1])
        return cls(backend, panel, torch.cat(read).std(0).clamp_min(1e-3))

    def drawn(self, pairs: Pairs, styles: torch.Tensor) -> torch.Tensor:
        """Draw each pair's picture from S and blend it in."""
        context = self.backend.context(pairs.pictures)
        drawn = self.backend.draw_styles(context, pairs.points, styles)
        return self.backend.composed(pairs.pictures, drawn)

    def __call__(
        self, pictures: torch.Tensor, points: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Identities (n, 48) and attributes (n, columns), these in units of their deviations."""
        identities = self.backend.identity(pictures, points)
        return identities, self.panel(pictures, points, identities) / self.scale


def identity_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """d_id of unit vectors (n, length), 0..2: |a - b| = sqrt(2 - 2 cosine)."""
    gap: torch.Tensor = torch.linalg.vector_norm(a - b, dim=1)
    return gap


def attribute_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """d_at of scaled columns (n, columns): root mean square, one number a face."""
    return (a - b).square().mean(1).sqrt()


# ---- measuring -------------------------------------------------------------------------------


@torch.inference_mode()
def exact(
    readers: Readers,
    pairs: Pairs,
    space: Space,
    features: Sequence[int] | None = None,
    *,
    batch: int = 32,
    also: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[tuple[Floats, Floats, Floats, Floats]]:
    """Swap one feature at a time and look; yield four arrays for each pair in turn.

    Did (features,), Dat (features,), changes of the columns (features, columns), and d_id by the
    recogniser `also` (pictures, points) -> unit vectors, nan without one. features: which; all of the
    space by default. batch: how many are drawn at once; it does not change the result.
    """
    backend = readers.backend
    latent = pairs.sources.shape[2]
    total = count(backend.layers, latent, space)
    chosen = list(range(total)) if features is None else list(features)
    by_row: dict[int, list[int]] = {}
    for place, feature in enumerate(chosen):
        by_row.setdefault(first_row(backend.layers, latent, space, feature), []).append(place)
    for at in range(len(pairs)):
        pair = pairs[at : at + 1]
        styles = backend.styles(pair.sources)
        drawn, begun = backend.begun(backend.context(pair.pictures), pair.points, styles)
        before = backend.composed(pair.pictures, drawn)
        was, had = readers(before, pair.points)
        was_also = also(before, pair.points) if also else None
        did, dat, by_other = (np.full(len(chosen), np.nan) for _ in range(3))
        columns = np.zeros((len(chosen), had.shape[1]))
        for row, places in by_row.items():
            for start in range(0, len(places), batch):
                part = places[start : start + batch]
                n = len(part)
                weights = torch.zeros(n, total)
                weights[torch.arange(n), [chosen[place] for place in part]] = 1
                mixed = swapped_styles(
                    backend,
                    pair.sources.expand(n, -1, -1),
                    pair.targets.expand(n, -1, -1),
                    weights.to(styles),
                    space,
                )
                now = backend.composed(pair.pictures, backend.continued(begun, mixed, row))
                points = pair.points.expand(n, -1, -1)
                identities, attributes = readers(now, points)
                did[part] = identity_distance(identities, was).cpu().numpy()
                dat[part] = attribute_distance(attributes, had).cpu().numpy()
                columns[part] = (attributes - had).abs().cpu().numpy()
                if also and was_also is not None:
                    by_other[part] = identity_distance(also(now, points), was_also).cpu().numpy()
        yield did, dat, columns, by_other


def sketch(
    readers: Readers, pairs: Pairs, *, projections: int = 8, seed: int = 0
) -> dict[str, Floats]:
    """Estimate every single channel's and number's change at once, by the norm of the Jacobian.

    |J[:, c] (t_c - s_c)|, J of what is read with respect to the code at the source, from `projections`
    random vector-Jacobian products: E |v J|^2 = |J|^2 for v ~ N(0, 1). One drawing and 2 x projections
    backward passes a batch, whatever the number of features.
    Returns "channels did", "channels dat" (pairs, S), "numbers did", "numbers dat" (pairs, W+).
    """
    backend = readers.backend
    rows = pairs.sources.detach().clone().requires_grad_(True)
    styles = backend.styles(rows)
    identities, attributes = readers(readers.drawn(pairs, styles), pairs.points)
    torch_rng = torch.Generator().manual_seed(seed)
    steps = {
        "channels": (backend.styles(pairs.targets) - styles).detach(),
        "numbers": (pairs.targets - rows).detach(),
    }
    found = {}
    for name, read, size in (("did", identities, 1), ("dat", attributes, attributes.shape[1])):
        squares = {key: torch.zeros_like(step) for key, step in steps.items()}
        for _ in range(projections):
            v = torch.randn(read.shape, generator=torch_rng).to(read)
            by_styles, by_rows = torch.autograd.grad(read, (styles, rows), v, retain_graph=True)
            squares["channels"] += by_styles.square()
            squares["numbers"] += by_rows.square()
        for key, step in steps.items():
            size_of = step.abs() * (squares[key] / projections / size).sqrt()
            found[f"{key} {name}"] = size_of.flatten(1).double().cpu().numpy()
    return found


def sketch_columns(readers: Readers, pairs: Pairs) -> dict[str, Floats]:
    """Each column's change by each channel and number, to first order: one backward pass a column.

    Returns "channels", "numbers": means over the pairs, (features, columns).
    """
    backend = readers.backend
    rows = pairs.sources.detach().clone().requires_grad_(True)
    styles = backend.styles(rows)
    _, attributes = readers(readers.drawn(pairs, styles), pairs.points)
    by_channel = (backend.styles(pairs.targets) - styles).detach()
    by_number = (pairs.targets - rows).detach()
    made: dict[str, list[torch.Tensor]] = {"channels": [], "numbers": []}
    for column in range(attributes.shape[1]):
        slopes = torch.autograd.grad(attributes[:, column].sum(), (styles, rows), retain_graph=True)
        made["channels"].append((slopes[0] * by_channel).abs().mean(0))
        made["numbers"].append((slopes[1] * by_number).abs().mean(0).flatten())
    return {name: torch.stack(parts, 1).double().cpu().numpy() for name, parts in made.items()}


# ---- the metric ------------------------------------------------------------------------------


def disentanglement(did: Floats, dat: Floats, tau: float | None = None) -> Floats:
    """D = Did / (Dat + tau): (features,) each. tau: median of Dat by default; 0 is a plain ratio.

    >>> disentanglement(np.array([1.0, 1.0]), np.array([1.0, 3.0]), 1.0).tolist()
    [0.5, 0.25]
    """
    extra = float(np.median(dat)) if tau is None else tau
    score: Floats = did / np.maximum(dat + extra, 1e-12)
    return score


def scores(did: Floats, dat: Floats) -> dict[str, Floats]:
    """Four ways to order features from per-pair arrays (pairs, features): higher is better.

    "ratio": D as above. "per pair": mean of each pair's ratio, same tau. "difference": standardised
    Did less standardised Dat. "identity": Did alone (tau without end).
    """
    a, b = did.mean(0), dat.mean(0)
    tau = float(np.median(b))
    standard = [(each - each.mean()) / max(float(each.std()), 1e-12) for each in (a, b)]
    return {
        "ratio": disentanglement(a, b),
        "per pair": (did / np.maximum(dat + tau, 1e-12)).mean(0),
        "difference": standard[0] - standard[1],
        "identity": a,
    }


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation; ties have the mean of their ranks.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 25.0]))
    1.0
    """
    ranks = []
    for each in (a, b):
        _, place, counts = np.unique(each, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        ranks.append(((2 * ends - counts - 1) / 2)[place])
    first, second = (rank - rank.mean() for rank in ranks)
    length = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return round(float((first * second).sum() / length), 12) if length else 0.0


def halves(did: Floats, dat: Floats) -> float:
    """Spearman of D between the even and the odd pairs: per-pair arrays (pairs, features)."""
    first, second = (
        disentanglement(did[start::2].mean(0), dat[start::2].mean(0)) for start in (0, 1)
    )
    return spearman(first, second)


def overlap(a: Floats, b: Floats, share: float = 0.1) -> float:
    """Share of the first `share` of features by score a that are so by b too."""
    n = max(1, round(share * len(a)))
    return len(set(np.argsort(-a)[:n]) & set(np.argsort(-b)[:n])) / n


def stratified(
    layers: Sequence[Layer], latent: int, space: Space, score: Floats, size: int, seed: int
) -> list[int]:
    """Choose features evenly over rows and over the score's deciles: for checks of a shortcut."""
    rng = np.random.default_rng(seed)
    decile = (np.argsort(np.argsort(score)) * 10 // len(score)).astype(int)
    kinds: dict[tuple[int, int], list[int]] = {}
    for feature in rng.permutation(len(score)):
        row = first_row(layers, latent, space, int(feature))
        kinds.setdefault((row, decile[feature]), []).append(int(feature))
    taken: list[int] = []
    while len(taken) < min(size, len(score)):
        for members in kinds.values():
            if members and len(taken) < size:
                taken.append(members.pop())
    return sorted(taken)


# ---- the artefact ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """One space's means over pairs."""

    did: Floats  # (features,)
    dat: Floats
    columns: Floats  # (features, columns): mean absolute change, in deviations

    @property
    def score(self) -> Floats:
        """D of each feature."""
        return disentanglement(self.did, self.dat)

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """Features from the first to swap to the last; equal ones by their number."""
        placed: npt.NDArray[np.int64] = np.argsort(-self.score, kind="stable")
        return placed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """A backend's ranking: `training.ranking` makes it, `weights.backends.ranking` opens it."""

    backend: str  # sha256 of the weights that it was measured on
    names: tuple[str, ...]  # of the panel's columns
    spaces: Mapping[str, Measured]  # SPACES, and "regions" of networks.regions
    #: Cosine above which a calibration recogniser takes two drawn faces for one person's.
    thresholds: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of the file: NAME.did, NAME.dat, NAME.columns."""
        made: dict[str, npt.NDArray[Any]] = {}
        for name, one in self.spaces.items():
            made[f"{name}.did"] = one.did.astype(np.float32)
            made[f"{name}.dat"] = one.dat.astype(np.float32)
            made[f"{name}.columns"] = one.columns.astype(np.float16)
        return made

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any], about: Mapping[str, Any]) -> Ranking:
        """Build it from the file's arrays and what it says about itself.

        Raises KeyError and ValueError for a file of another form.
        """
        spaces = {}
        for name in (*SPACES, "regions"):
            did, dat, columns = (
                np.asarray(tensors[f"{name}.{part}"], np.float64)
                for part in ("did", "dat", "columns")
            )
            if did.ndim != 1 or dat.shape != did.shape or columns.shape[:1] != did.shape:
                raise ValueError(f"{name} has shapes {did.shape}, {dat.shape}, {columns.shape}")
            if not (np.isfinite(did).all() and np.isfinite(dat).all()):
                raise ValueError(f"{name} has numbers that are not finite")
            spaces[name] = Measured(did=did, dat=dat, columns=columns)
        return cls(
            backend=str(about["backend"]),
            names=tuple(about["names"]),
            spaces=spaces,
            thresholds={str(k): float(v) for k, v in about["thresholds"].items()},
            about=about,
        )
