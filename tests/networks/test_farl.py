"""FaRL on random weights of its own names, beside torch's transformer and step by step."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional

from moretta.errors import WeightsRejected
from moretta.networks.farl import DEVIATION, MEAN, FaRL
from moretta.weights import backends

WIDTH, PLACES, DEPTH, LENGTH = 128, 2 * 2 + 1, 2, 24


def tensors():
    torch.manual_seed(0)
    made = {
        "visual.class_embedding": torch.randn(WIDTH),
        "visual.positional_embedding": torch.randn(PLACES, WIDTH),
        "visual.conv1.weight": torch.randn(WIDTH, 3, 16, 16) * 0.02,
        "visual.proj": torch.randn(WIDTH, LENGTH),
        "logit_scale": torch.tensor(1.0),
    }
    shapes = {
        "attn.in_proj_weight": (3 * WIDTH, WIDTH),
        "attn.in_proj_bias": (3 * WIDTH,),
        "attn.out_proj.weight": (WIDTH, WIDTH),
        "attn.out_proj.bias": (WIDTH,),
        "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
        "mlp.c_fc.bias": (4 * WIDTH,),
        "mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
        "mlp.c_proj.bias": (WIDTH,),
    }
    for part in [f"transformer.resblocks.{i}." for i in range(DEPTH)]:
        for name, shape in shapes.items():
            made[f"visual.{part}{name}"] = torch.randn(shape) * 0.05
        for norm in ("ln_1", "ln_2"):
            made[f"visual.{part}{norm}.weight"] = 1 + 0.1 * torch.randn(WIDTH)
            made[f"visual.{part}{norm}.bias"] = 0.1 * torch.randn(WIDTH)
    for norm in ("ln_pre", "ln_post"):
        made[f"visual.{norm}.weight"] = 1 + 0.1 * torch.randn(WIDTH)
        made[f"visual.{norm}.bias"] = 0.1 * torch.randn(WIDTH)
    return made


def by_hand(state, pictures):
    x = (functional.interpolate(pictures, (32, 32), mode="bilinear", antialias=True) + 1) / 2
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    x = (
        functional.unfold(x, 16, stride=16).transpose(1, 2)
        @ state["visual.conv1.weight"].flatten(1).t()
    )
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1)

    def norm(y, name):
        return functional.layer_norm(y, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"])

    x = norm(x + state["visual.positional_embedding"], "visual.ln_pre")
    for i in range(DEPTH):
        at = f"visual.transformer.resblocks.{i}."
        y = norm(x, at + "ln_1")
        q, k, v = (
            y @ state[at + "attn.in_proj_weight"].t() + state[at + "attn.in_proj_bias"]
        ).chunk(3, -1)
        heads = [part.unflatten(2, (-1, 64)).transpose(1, 2) for part in (q, k, v)]
        weights = torch.softmax(heads[0] @ heads[1].transpose(2, 3) / 8, -1)
        y = (weights @ heads[2]).transpose(1, 2).flatten(2)
        x = x + y @ state[at + "attn.out_proj.weight"].t() + state[at + "attn.out_proj.bias"]
        z = norm(x, at + "ln_2") @ state[at + "mlp.c_fc.weight"].t() + state[at + "mlp.c_fc.bias"]
        z = z * torch.sigmoid(1.702 * z)
        x = x + z @ state[at + "mlp.c_proj.weight"].t() + state[at + "mlp.c_proj.bias"]
    return norm(x[:, 0], "visual.ln_post") @ state["visual.proj"], x


def test_it_is_clips_transformer_with_tokens_before_the_last_norm():
    state = tensors()
    pictures = torch.rand(2, 3, 24, 24) * 2 - 1
    seen = FaRL.from_tensors(state).of(pictures, torch.zeros(2, 5, 2))
    vectors, tokens = by_hand(state, pictures)
    torch.testing.assert_close(seen.tokens, tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen.vectors, vectors, rtol=1e-4, atol=1e-3)


def test_gradients_reach_the_picture_and_no_weight():
    network = FaRL.from_tensors(tensors())
    assert isinstance(network, nn.Module)
    pictures = (torch.rand(1, 3, 24, 24) * 2 - 1).requires_grad_(True)
    network.of(pictures, torch.zeros(1, 5, 2)).tokens.sum().backward()
    assert float(pictures.grad.abs().sum()) > 0
    assert all(p.grad is None for p in network.parameters())


def test_official_weights_are_opened_where_they_lie_and_refused_clearly_elsewhere(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("MORETTA_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(
        WeightsRejected, match="is missing: FaRL's official weights do not ship"
    ) as caught:
        backends.features("farl", backends.composer())
    assert "leave --features out" in caught.value.hint
    torch.save({"state_dict": tensors()}, tmp_path / backends.FARL)
    assert backends.features("farl", backends.composer()).name == "farl"
    assert len(backends.digests("farl")["farl"]) == 64
    torch.save({"state_dict": {"visual.proj": torch.zeros(2)}}, tmp_path / backends.FARL)
    with pytest.raises(WeightsRejected, match="not FaRL's checkpoint"):
        backends.features("farl", backends.composer())
