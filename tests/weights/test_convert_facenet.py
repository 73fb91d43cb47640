"""The Keras converter: drawn small networks by an independent route, and what it refuses."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from moretta.errors import WeightsRejected
from moretta.weights import convert

h5py = pytest.importorskip("h5py")
SIDE = 160


def conv(name, source, filters, size, *, strides=(1, 1), padding="valid", bias=False):
    config = {
        "filters": filters,
        "kernel_size": list(size),
        "strides": list(strides),
        "padding": padding,
        "use_bias": bias,
        "activation": "linear",
        "dilation_rate": [1, 1],
    }
    return layer("Conv2D", name, [source], config)


def layer(kind, name, sources, config=None):
    inbound = [[[source, 0, 0, {}] for source in sources]] if sources else []
    return {"class_name": kind, "name": name, "config": config or {}, "inbound_nodes": inbound}


def norm(name, source):
    return layer("BatchNormalization", name, [source], {"scale": False, "epsilon": 0.001})


def small():
    """Every kind of layer once: a residual block of two branches, then the vector."""
    return [
        layer("InputLayer", "in", [], {"batch_input_shape": [None, SIDE, SIDE, 3]}),
        conv("stem", "in", 4, (3, 3), strides=(2, 2)),
        norm("stem_n", "stem"),
        layer("Activation", "stem_a", ["stem_n"], {"activation": "relu"}),
        layer(
            "MaxPooling2D",
            "pool",
            ["stem_a"],
            {"padding": "valid", "pool_size": [3, 3], "strides": [2, 2]},
        ),
        conv("left", "pool", 2, (1, 7), padding="same"),
        norm("left_n", "left"),
        conv("right", "pool", 3, (1, 1), padding="same"),
        norm("right_n", "right"),
        layer("Concatenate", "both", ["left_n", "right_n"], {"axis": 3}),
        conv("up", "both", 4, (1, 1), padding="same", bias=True),
        layer("Lambda", "x_ScaleSum", ["pool", "up"], {"arguments": {"scale": 0.17}}),
        layer("Activation", "relu", ["x_ScaleSum"], {"activation": "relu"}),
        layer("GlobalAveragePooling2D", "mean", ["relu"]),
        layer("Dropout", "drop", ["mean"]),
        layer("Dense", "Bottleneck", ["drop"], {"activation": "linear", "use_bias": False}),
        norm("Bottleneck_n", "Bottleneck"),
    ]


def arrays(rng):
    shapes = {"stem": (3, 3, 3, 4), "left": (1, 7, 4, 2), "right": (1, 1, 4, 3), "up": (1, 1, 5, 4)}
    made = {f"{n}/{n}/kernel:0": rng.normal(size=s).astype("f4") for n, s in shapes.items()}
    made["up/up/bias:0"] = rng.normal(size=4).astype("f4")
    made["Bottleneck/Bottleneck/kernel:0"] = rng.normal(size=(4, 128)).astype("f4")
    widths = {"stem_n": 4, "left_n": 2, "right_n": 3, "Bottleneck_n": 128}
    for name, width in widths.items():
        for what in ("beta", "moving_mean"):
            made[f"{name}/{name}/{what}:0"] = rng.normal(size=width).astype("f4")
        made[f"{name}/{name}/moving_variance:0"] = rng.uniform(0.1, 2, width).astype("f4")
    return made


def packed(layers, stored):
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        opened.attrs["model_config"] = json.dumps({"config": {"layers": layers}})
        for name, array in stored.items():
            opened.create_dataset(f"model_weights/{name}", data=array)
    return file.getvalue()


def by_hand(picture, stored):
    """The same network in numpy loops, channels last, as Keras documents its layers."""

    def a(name, what):
        return stored[f"{name}/{name}/{what}:0"].astype(np.float64)

    def normalised(x, name):
        return (x - a(name, "moving_mean")) / np.sqrt(a(name, "moving_variance") + 0.001) + a(
            name, "beta"
        )

    def convolved(x, kernel, stride=1):
        h, w, _, outputs = kernel.shape
        rows, columns = (x.shape[0] - h) // stride + 1, (x.shape[1] - w) // stride + 1
        out = np.zeros((rows, columns, outputs))
        for i in range(h):
            for j in range(w):
                part = x[i : i + stride * rows : stride, j : j + stride * columns : stride]
                out += part[:rows, :columns] @ kernel[i, j]
        return out

    x = picture.astype(np.float64)
    x = (x - x.mean()) / max(x.std(), 1 / np.sqrt(x.size))
    x = np.maximum(normalised(convolved(x, a("stem", "kernel"), 2), "stem_n"), 0)
    rows, columns = (x.shape[0] - 3) // 2 + 1, (x.shape[1] - 3) // 2 + 1
    x = np.max(
        [x[i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(3) for j in range(3)], 0
    )
    left = convolved(np.pad(x, ((0, 0), (3, 3), (0, 0))), a("left", "kernel"))
    both = [normalised(left, "left_n"), normalised(convolved(x, a("right", "kernel")), "right_n")]
    up = convolved(np.concatenate(both, 2), a("up", "kernel")) + a("up", "bias")
    x = np.maximum(x + 0.17 * up, 0).mean((0, 1))
    return normalised(x @ a("Bottleneck", "kernel"), "Bottleneck_n")


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(convert, "_FACENET_LAYERS", len(small()))


def test_the_graph_computes_what_keras_would(few):
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    stored = arrays(rng)
    finished = convert.convert_facenet(packed(small(), stored))
    assert finished == convert.convert_facenet(packed(small(), stored))
    session = onnxruntime.InferenceSession(finished, providers=["CPUExecutionProvider"])
    pictures = rng.integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.float32)
    pictures[1] = 7  # no contrast at all: the least deviation counts
    found = session.run(None, {"data": pictures.transpose(0, 3, 1, 2)})[0]
    for vector, picture in zip(found, pictures, strict=True):
        np.testing.assert_allclose(vector, by_hand(picture, stored), rtol=2e-4, atol=2e-4)


def changed(what):
    layers, stored = small(), arrays(np.random.default_rng(0))
    if what == "an array left over":
        stored["more/more/kernel:0"] = np.zeros(3, "f4")
    elif what == "an array missing":
        del stored["up/up/bias:0"]
    elif what == "not finite":
        stored["up/up/bias:0"][0] = np.nan
    elif what == "uneven padding":
        layers[1]["config"]["padding"] = "same"
    elif what == "another activation":
        layers[3]["config"]["activation"] = "tanh"
    elif what == "another lambda":
        layers[11]["name"] = "y"
        layers[12]["inbound_nodes"] = [[["y", 0, 0, {}]]]
    elif what == "dilated":
        layers[5]["config"]["dilation_rate"] = [2, 2]
    elif what == "a layer too many":
        layers.append(layer("Dropout", "more", ["Bottleneck_n"]))
    elif what == "settings missing":
        del layers[1]["config"]["strides"]
    return packed(layers, stored)


@pytest.mark.parametrize(
    "what",
    [
        "an array left over",
        "an array missing",
        "not finite",
        "uneven padding",
        "another activation",
        "another lambda",
        "dilated",
        "a layer too many",
        "settings missing",
    ],
)
def test_another_network_is_refused(few, what):
    with pytest.raises(WeightsRejected, match="not the source of facenet"):
        convert.convert_facenet(changed(what))


@pytest.mark.parametrize("source", [b"", b"\x89HDF\r\n\x1a\n" + bytes(100), b"hello"])
def test_what_is_no_keras_file_is_refused(source):
    with pytest.raises(WeightsRejected, match="not a Keras 2 model"):
        convert.convert_facenet(source)
