"""Foreign weights into the files that we open: python -m moretta.weights.convert NAME SOURCE OUTPUT.

Promise   the same source gives the same bytes; nothing in a source is ever run.
Assumes   the sources that catalogue.toml names. Anything else is refused, not guessed at.
Not here  finding and checking the finished files: load.py.
Sources   ONNX specification (opsets 9, 18 and 21); davisking/dlib: serialize.h, float_details.h,
          cuda/tensor.h; Keras 2 layers; davidsandberg/facenet (per-image standardisation).
Checked   tests/weights/test_convert.py; benchmarks/check_dlib.py compares with dlib itself.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moretta.errors import MorettaError, WeightsRejected

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt

    Tensor = npt.NDArray[np.float32]

_HINT = "catalogue.toml names the package and the sha256 of each source"
_FOLD_UP_TO = 4096  # SFace: quantised tensors up to this size gain nothing from staying so

# ---- ONNX ------------------------------------------------------------------------------------


def convert_centerface(source: bytes) -> bytes:
    """Return CenterFace for photos of any size: the export fixed 10 photos of 32 x 32 px."""
    model = _parsed(source, "centerface")
    _free_axes(model, "input.1", {0: "n", 2: "height", 3: "width"})
    return _finished(model)


def convert_yunet(source: bytes) -> bytes:
    """Return YuNet for photos of any size and number, its int8 blocks written out as float32."""
    import numpy as np

    model = _parsed(source, "yunet")
    _free_axes(model, "input", {0: "n", 2: "height", 3: "width"})
    _fold_quantised(model, up_to=sys.maxsize)
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for constant in model.graph.initializer:
        if constant.name in shapes:  # [1, -1, channels]: the 1 was the export's batch
            shape = _array(constant)
            if shape[0] != 1:
                raise _foreign("yunet", f"a head is reshaped to {shape.tolist()}")
            _set_array(constant, np.concatenate([[0], shape[1:]]).astype(np.int64))  # 0: as it is
    return _finished(model)


def convert_sface(source: bytes) -> bytes:
    """Return SFace for any number of chips, its large weights kept as int8 blocks.

    PRelu is rewritten so that onnxruntime keeps its blocked layout from one convolution to the
    next. With session.disable_quant_qdq = 1, which the catalogue asks for, a chip then takes half
    the time (docs/networks.md), and the vectors are equal within 2e-6.
    """
    model = _parsed(source, "sface")
    _free_axes(model, "data", {0: "n"})
    _fold_quantised(model, up_to=_FOLD_UP_TO)
    _rewrite_prelu(model)
    return _finished(model)


def _parsed(source: bytes, name: str) -> Any:
    import onnx

    try:
        model = onnx.load_model_from_string(source)
    except Exception as error:  # protobuf's own kind, which is not a ValueError
        raise _foreign(name, "it is not an ONNX file") from error
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise _foreign(name, "its weights lie in another file")
    if not model.graph.node:
        raise _foreign(name, "it holds no graph")
    return model


def _finished(model: Any) -> bytes:
    import onnx

    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _free_axes(model: Any, name: str, axes: dict[int, str]) -> None:
    """Leave one input, `name`, with `axes` of any length; drop the sizes recorded further on.

    Old exports list the weights as inputs too, which lets a caller replace them and keeps
    onnxruntime from folding them.
    """
    graph = model.graph
    kept = [each for each in graph.input if each.name == name]
    known = {tensor.name for tensor in graph.initializer} | {name}
    known.update(made for node in graph.node for made in node.output)
    if not kept or any(each not in known for node in graph.node for each in node.input if each):
        raise WeightsRejected(f"its only input should be {name}", hint=_HINT)
    _replace(graph.input, kept)
    for axis, symbol in axes.items():
        _free(graph.input[0].type.tensor_type.shape.dim[axis], symbol)
    for output in graph.output:
        for axis, length in enumerate(output.type.tensor_type.shape.dim):
            _free(length, f"{output.name}_{axis}")
    del graph.value_info[:]


def _free(length: Any, symbol: str) -> None:
    length.ClearField("dim_value")
    length.dim_param = symbol


def _fold_quantised(model: Any, *, up_to: int) -> None:
    """Compute every DequantizeLinear of at most `up_to` values, and the Reshape after it."""
    import numpy as np
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: _array(tensor) for tensor in graph.initializer}
    folded: dict[str, npt.NDArray[Any]] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and constants[node.input[0]].size <= up_to:
            settings = {each.name: each.i for each in node.attribute}
            folded[node.output[0]] = _dequantised(
                [constants[name] for name in node.input],
                axis=settings.get("axis", 1),
                block=settings.get("block_size", 0),
            ).astype(np.float32)
        elif node.op_type == "Reshape" and node.input[0] in folded:
            shape = constants[node.input[1]].tolist()
            folded[node.output[0]] = folded[node.input[0]].reshape(shape)
        else:
            kept.append(node)
    _replace(graph.node, kept)
    used = {name for node in graph.node for name in node.input}
    written = [numpy_helper.from_array(v, name) for name, v in folded.items() if name in used]
    _replace(graph.initializer, [t for t in graph.initializer if t.name in used] + written)


def _dequantised(inputs: list[npt.NDArray[Any]], *, axis: int, block: int) -> npt.NDArray[Any]:
    """(x - zero) * scale with one scale for the tensor, for each index of `axis`, or each block."""
    import numpy as np

    x, scale = inputs[0].astype(np.float32), inputs[1]
    zero = inputs[2].astype(np.float32) if len(inputs) > 2 else np.zeros_like(scale)

    def spread(a: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if block:
            return np.repeat(a, block, axis=axis).take(range(x.shape[axis]), axis=axis)
        if a.size > 1:
            return a.reshape([-1 if each == axis else 1 for each in range(x.ndim)])
        return a

    result: npt.NDArray[Any] = (x - spread(zero)) * spread(scale)
    return result


def _rewrite_prelu(model: Any) -> None:
    """PRelu(x) = slope x + (1 - slope) Relu(x): both products are depthwise 1 x 1 convolutions."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    slopes = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type != "PRelu":
            nodes.append(node)
            continue
        x, y = node.input[0], node.output[0]
        slope = _array(slopes[node.input[1]]).reshape(-1, 1, 1, 1).astype(np.float32)
        shape: dict[str, Any] = {"kernel_shape": [1, 1], "group": len(slope)}
        half, bend, rest = f"{y}_half", f"{y}_bend", f"{y}_rest"
        if (
            slope <= 1
        ).all():  # no sign turns: Relu becomes a part of the product, the numbers the same
            nodes.append(helper.make_node("Conv", [x, rest], [half], **shape))
            nodes.append(helper.make_node("Relu", [half], [bend]))
        else:
            nodes.append(helper.make_node("Relu", [x], [half]))
            nodes.append(helper.make_node("Conv", [half, rest], [bend], **shape))
        nodes += [
            helper.make_node("Conv", [x, f"{y}_slope"], [f"{y}_line"], **shape),
            helper.make_node("Add", [f"{y}_line", bend], [y]),
        ]
        graph.initializer.append(numpy_helper.from_array(1 - slope, f"{y}_rest"))
        graph.initializer.append(numpy_helper.from_array(slope, f"{y}_slope"))
    _replace(graph.node, nodes)
    used = {name for node in graph.node for name in node.input}
    _replace(graph.initializer, [t for t in graph.initializer if t.name in used])


def _replace(field: Any, messages: Iterable[Any]) -> None:
    copies = [type(each).FromString(each.SerializeToString()) for each in messages]
    del field[:]
    field.extend(copies)


def _array(tensor: Any) -> npt.NDArray[Any]:
    from onnx import numpy_helper

    array: npt.NDArray[Any] = numpy_helper.to_array(tensor)
    return array


def _set_array(tensor: Any, array: npt.NDArray[Any]) -> None:
    from onnx import numpy_helper

    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


# ---- dlib ------------------------------------------------------------------------------------

_DLIB_BLOCKS = 14  # residual blocks, two convolutions each, after the first convolution
_DLIB_MEANS = (122.782, 117.001, 104.298)  # RGB; the network expects (pixel - mean) / 256
_DLIB_DOWN = (3, 7, 10, 13)  # blocks that halve the picture
_CONVOLUTIONS = ("con_4", "con_5", "con_6")  # each version has one flag more than the last
_AFFINES = ("affine_", "affine_2")
_LINEARS = ("fc_2", "fc_3")
_RELUS = ("relu_", "relu_2")
_POOLS = ("max_pool_2", "avg_pool_2")
_LARGEST = 1 << 24  # values a tensor; the largest of the real file has 589,824


def convert_dlib(source: bytes) -> dict[str, Tensor]:
    """Return dlib's face ResNet as tensors named as in `networks.recogniser.DlibResNet`.

    The affine layer behind each convolution is folded into it (in float64). The stream is read
    to its last byte; whatever is not exactly this network is refused.
    """
    import numpy as np

    stream = _Stream(source)
    stream.opening()
    convolutions: list[tuple[Tensor, Tensor]] = []
    affines: list[tuple[Tensor, Tensor]] = []
    linear: list[Tensor] = []
    plan = _dlib_plan()
    for wanted in plan:
        name = stream.text()
        if name not in wanted:
            raise stream.fault(f"a layer {name!r} where {wanted[0]!r} belongs")
        if name in _CONVOLUTIONS:
            convolutions.append(stream.convolution(name, len(convolutions)))
        elif name in _AFFINES:
            affines.append(stream.affine(name, len(convolutions[-1][1])))
        elif name in _LINEARS:
            linear.append(stream.linear(name))
        elif name in _POOLS:
            stream.integers(6)
        elif name == "relu_2":
            stream.flag()
        for _ in range(3):  # which inputs are overwritten, gradients wanted
            stream.flag()
        for _ in range(3):  # gradients and cached output
            stream.tensor(empty=True)
        if name in _CONVOLUTIONS and len(convolutions) == 1:
            stream.integer()  # the input layer's sample expansion follows the innermost layer
    stream.end()

    tensors: dict[str, Tensor] = {}
    layers = zip(_dlib_names(), convolutions, affines, strict=True)
    for name, (weight, bias), (gamma, beta) in layers:
        scale = gamma.astype(np.float64)
        tensors[f"{name}.weight"] = (weight * scale[:, None, None, None]).astype(np.float32)
        tensors[f"{name}.bias"] = (bias * scale + beta).astype(np.float32)
    tensors["output.weight"] = np.ascontiguousarray(linear[0].T)
    return tensors


def _dlib_names() -> list[str]:
    blocks = [f"blocks.{i}.{which}" for i in range(_DLIB_BLOCKS) for which in ("first", "second")]
    return ["stem", *blocks]


def _dlib_plan() -> list[tuple[str, ...]]:
    """The layers in the order of the stream, input first, each with the names it may have."""
    convolution = [_CONVOLUTIONS, _AFFINES]
    plan = [*convolution, _RELUS, ("max_pool_2",)]
    for block in range(_DLIB_BLOCKS):
        plan += [*convolution, _RELUS, *convolution]
        plan += [("avg_pool_2",)] if block in _DLIB_DOWN else []
        plan += [("add_prev_",), _RELUS]
    return [*plan, ("avg_pool_2",), _LINEARS]


class _Stream:
    """dlib's serialisation, read with bounds checked. Every fault is a WeightsRejected."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._at = 0

    def fault(self, what: str) -> WeightsRejected:
        return _foreign("dlib", f"{what}, near byte {self._at:,} of {len(self._source):,}")

    def end(self) -> None:
        if self._at != len(self._source):
            raise self.fault("bytes left over after the last layer")

    def raw(self, count: int) -> bytes:
        if count < 0 or count > len(self._source) - self._at:
            raise self.fault("the file ends too early")
        self._at += count
        return self._source[self._at - count : self._at]

    def integer(self) -> int:
        """One head byte (count of bytes, bit 7 the sign), then the magnitude, little-endian."""
        head = self.raw(1)[0]
        count = head & 0x0F
        if head & 0x70 or not 1 <= count <= 8:
            raise self.fault("a malformed integer")
        value = int.from_bytes(self.raw(count), "little")
        return -value if head & 0x80 else value

    def integers(self, count: int) -> list[int]:
        return [self.integer() for _ in range(count)]

    def real(self) -> float:
        """Mantissa and exponent of two, both integers; 32000 and above stand for inf and nan."""
        mantissa, exponent = self.integer(), self.integer()
        if abs(exponent) > 1100:
            raise self.fault("a number that is not finite")
        return math.ldexp(mantissa, exponent)

    def flag(self) -> None:
        if self.raw(1) not in (b"0", b"1"):
            raise self.fault("a malformed flag")

    def text(self) -> str:
        length = self.integer()
        if not 0 <= length <= 64:
            raise self.fault("a malformed name")
        return self.raw(length).decode("latin-1")

    def shape(self, version: int) -> tuple[int, ...]:
        if self.integer() != version:
            raise self.fault("a tensor of another version")
        shape = tuple(self.integers(4))
        if min(shape) < 0 or math.prod(shape) > _LARGEST:
            raise self.fault(f"a tensor of shape {shape}")
        return shape

    def tensor(self, *, empty: bool = False) -> Tensor:
        import numpy as np

        count = math.prod(self.shape(2))
        if empty and count:
            raise self.fault("a gradient or cached output: this is not a finished network")
        tensor = np.frombuffer(self.raw(4 * count), "<f4").astype(np.float32)
        if not np.isfinite(tensor).all():
            raise self.fault("weights that are not finite")
        return tensor

    def opening(self) -> None:
        """Everything before the first layer: loss, versions, input size and means."""
        if self.integer() != 1 or self.text() != "loss_metric_2":
            raise self.fault("not a dlib network for face recognition")
        self.real(), self.real()  # margin, threshold: for training
        layers = len(_dlib_plan())
        branches = _DLIB_BLOCKS + 2 * len(_DLIB_DOWN)  # a tag a block; to halve, a tag and a skip
        versions = self.integers(layers + branches)
        if versions[-1] != 3 or sorted(versions[:-1]) != [1] * branches + [2] * (layers - 1):
            raise self.fault("not the layers of dlib's face ResNet")
        if self.text() != "input_rgb_image_sized":
            raise self.fault("not the layers of dlib's face ResNet")
        means = [self.real() for _ in _DLIB_MEANS]
        if any(abs(a - b) > 1e-3 for a, b in zip(means, _DLIB_MEANS, strict=True)):
            raise self.fault(f"colour means {means}")
        if self.integers(2) != [150, 150]:
            raise self.fault("chips that are not 150 x 150 px")

    def convolution(self, name: str, index: int) -> tuple[Tensor, Tensor]:
        params = self.tensor()
        fields = self.integers(7)
        shape, biases = self.shape(1), self.shape(1)
        for _ in range(_CONVOLUTIONS.index(name)):
            self.flag()
        for _ in range(4):  # learning rates and decays
            self.real()
        if math.prod(shape) + math.prod(biases) != params.size or math.prod(biases) != shape[0]:
            raise self.fault("a convolution whose parts do not add up")
        down = index == 0 or index in [1 + 2 * block for block in _DLIB_DOWN]
        size, stride, padding = (7 if index == 0 else 3), (2 if down else 1), (0 if down else 1)
        expected = [shape[0], size, size, stride, stride, padding, padding]
        if fields != expected or shape[2:] != (size, size):
            raise self.fault(f"convolution {index} with fields {fields}")
        count = math.prod(shape)
        return params[:count].reshape(shape), params[count:]

    def affine(self, name: str, channels: int) -> tuple[Tensor, Tensor]:
        params = self.tensor()
        gamma, beta = self.shape(1), self.shape(1)
        self.integer()  # 0: behind a convolution
        if name == "affine_2":
            self.flag()
        if [math.prod(gamma), math.prod(beta), params.size] != [channels, channels, 2 * channels]:
            raise self.fault("an affine layer that does not fit its convolution")
        return params[:channels], params[channels:]

    def linear(self, name: str) -> Tensor:
        outputs, inputs = self.integers(2)
        params = self.tensor()
        self.shape(1), self.shape(1)
        if self.integer() != 1 or params.size != inputs * outputs:
            raise self.fault("a last layer of another kind")
        for _ in range(4):  # learning rates and decays
            self.real()
        if name == "fc_3":
            self.flag()
        return params.reshape(inputs, outputs)


# ---- FaceNet ---------------------------------------------------------------------------------

_FACENET_SIDE = 160
_FACENET_LAYERS = 426
_FACENET_LAMBDA = "_ScaleSum"  # its code is never run: input + scale * branch, by its arguments


def convert_facenet(source: bytes) -> bytes:
    """Return FaceNet (Inception-ResNet-v1, 128 numbers) as ONNX, made from a Keras 2 HDF5 file.

    The file's own list of layers is followed; any layer, setting or array beyond those of this
    network is refused. Batch normalisation and the residual scale are folded into the convolutions
    (in float64). The input is RGB 0..255, (n, 3, 160, 160); the standardisation of each picture,
    (x - mean) / max(deviation, 1 / sqrt(count)), is in the graph.
    """
    import io
    import json

    import h5py
    from onnx import TensorProto, helper

    try:
        file = h5py.File(io.BytesIO(source), "r")
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        stored = file["model_weights"]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _foreign("facenet", "it is not a Keras 2 model in HDF5") from error
    if len(layers) != _FACENET_LAYERS:
        raise _foreign("facenet", f"{len(layers)} layers, not {_FACENET_LAYERS}")
    drawn = _Keras(stored)
    try:
        for layer in layers:
            drawn.add(layer)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _foreign("facenet", f"a layer without its parts: {error}") from error
    if drawn.last_shape != 128 or len(drawn.used) != len(drawn.stored_names()):
        raise _foreign("facenet", "arrays are left over, or the last layer has another length")
    shape: list[str | int | None] = ["n", 3, _FACENET_SIDE, _FACENET_SIDE]
    graph = helper.make_graph(
        drawn.nodes,
        "facenet",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["n", 128])],
        drawn.constants,
    )
    opset = [helper.make_opsetid("", 18)]
    return _finished(helper.make_model(graph, opset_imports=opset, ir_version=9))


class _Keras:
    """Layers of a Keras 2 functional model, one after the other, as ONNX nodes."""

    def __init__(self, stored: Any) -> None:
        self._stored = stored
        self.used: set[str] = set()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.last_shape = 0
        self._outputs: dict[str, str] = {}  # layer -> ONNX name
        self._waiting: dict[str, tuple[Tensor, Tensor | None, list[int], bool]] = {}

    def stored_names(self) -> set[str]:
        names: set[str] = set()
        self._stored.visit(
            lambda name: names.add(name) if hasattr(self._stored[name], "shape") else None
        )
        return names

    def add(self, layer: dict[str, Any]) -> None:
        kind, name, config = layer["class_name"], layer["name"], layer["config"]
        inputs = [each[0] for each in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else []
        if kind == "InputLayer":
            if config["batch_input_shape"][1:] != [_FACENET_SIDE, _FACENET_SIDE, 3]:
                raise _foreign("facenet", f"pictures of shape {config['batch_input_shape']}")
            self._outputs[name] = self._standardised()
        elif kind == "Conv2D":
            self._convolution(name, config, inputs[0])
        elif kind == "Dense":
            self._keep(name, config, [], ["activation"])
            self._waiting[name] = (self._array(name, "kernel").T, None, [], False)
            self._outputs[name] = self._outputs[inputs[0]]
        elif kind == "BatchNormalization":
            self._normalised(name, config, inputs[0])
        elif kind == "Activation" and config["activation"] == "relu":
            self._outputs[name] = self._node("Relu", [self._made(inputs[0])], name)
        elif kind == "MaxPooling2D" and config["padding"] == "valid":
            sizes = {"kernel_shape": config["pool_size"], "strides": config["strides"]}
            self._outputs[name] = self._node("MaxPool", [self._made(inputs[0])], name, **sizes)
        elif kind == "Concatenate" and config["axis"] == 3:
            made = [self._made(each) for each in inputs]
            self._outputs[name] = self._node("Concat", made, name, axis=1)
        elif kind == "Lambda" and name.endswith(_FACENET_LAMBDA) and len(inputs) == 2:
            branch = self._made(inputs[1], float(config["arguments"]["scale"]))
            self._outputs[name] = self._node("Add", [self._made(inputs[0]), branch], name)
        elif kind == "GlobalAveragePooling2D":
            mean = self._node("GlobalAveragePool", [self._made(inputs[0])], f"{name}_map")
            self._outputs[name] = self._node("Flatten", [mean], name, axis=1)
        elif kind == "Dropout":
            self._outputs[name] = self._outputs[inputs[0]]
        else:
            raise _foreign("facenet", f"a layer {name} of kind {kind}")

    def _keep(self, name: str, config: dict[str, Any], ones: list[str], linear: list[str]) -> None:
        """Refuse settings that would change the arithmetic."""
        if any(config[key] != [1, 1] for key in ones) or any(config[k] != "linear" for k in linear):
            raise _foreign("facenet", f"{name} has settings that this network does not have")

    def _array(self, layer: str, what: str) -> Tensor:
        import numpy as np

        path = f"{layer}/{layer}/{what}:0"
        array: Tensor = np.asarray(self._stored[path], np.float32)
        if not np.isfinite(array).all():
            raise _foreign("facenet", f"{path} is not finite")
        self.used.add(path)
        return array

    def _convolution(self, name: str, config: dict[str, Any], source: str) -> None:
        self._keep(name, config, ["dilation_rate"], ["activation"])
        kernel = self._array(name, "kernel").transpose(3, 2, 0, 1)
        bias = self._array(name, "bias") if config["use_bias"] else None
        same = config["padding"] == "same"
        if same and config["strides"] != [1, 1]:
            raise _foreign("facenet", f"{name} pads unevenly")
        self._outputs[name] = self._made(source)
        self._waiting[name] = (kernel, bias, config["strides"], same)

    def _normalised(self, name: str, config: dict[str, Any], source: str) -> None:
        """Fold gamma = 1, beta, mean and variance into the layer before."""
        import numpy as np

        if config["scale"] or source not in self._waiting:
            raise _foreign("facenet", f"{name} does not follow a convolution")
        kernel, bias, strides, same = self._waiting.pop(source)
        if bias is not None:
            raise _foreign("facenet", f"{source} has a bias before it is normalised")
        variance = self._array(name, "moving_variance").astype(np.float64)
        factor = 1 / np.sqrt(variance + config["epsilon"])
        beta = self._array(name, "beta") - self._array(name, "moving_mean") * factor
        folded = (kernel * factor.reshape([-1] + [1] * (kernel.ndim - 1))).astype(np.float32)
        self._waiting[source] = (folded, beta.astype(np.float32), strides, same)
        self._outputs[name] = self._emit(source, "vector" if kernel.ndim == 2 else name)

    def _made(self, layer: str, scale: float = 1.0) -> str:
        """Return the ONNX name of a layer's output; a convolution that waits is written now."""
        if layer in self._waiting:
            kernel, bias, strides, same = self._waiting[layer]
            if bias is None:
                raise _foreign("facenet", f"{layer} is neither normalised nor biased")
            self._waiting[layer] = (kernel * scale, bias * scale, strides, same)
            self._outputs[layer] = self._emit(layer, layer)
        elif scale != 1:
            raise _foreign("facenet", f"{layer} is scaled but no convolution")
        return self._outputs[layer]

    def _emit(self, layer: str, name: str) -> str:
        kernel, bias, strides, same = self._waiting.pop(layer)
        self.last_shape = len(kernel)
        inputs = [self._outputs[layer], self._constant(f"{layer}_weight", kernel)]
        inputs.append(self._constant(f"{layer}_bias", bias))
        if kernel.ndim == 2:
            return self._node("Gemm", inputs, name, transB=1)
        half = [(side - 1) // 2 if same else 0 for side in kernel.shape[2:]]
        return self._node("Conv", inputs, name, strides=strides, pads=half + half)

    def _standardised(self) -> str:
        import numpy as np

        axes = self._constant("picture:axes", np.array([1, 2, 3], np.int64))
        least = np.array(1 / np.sqrt(3 * _FACENET_SIDE**2), np.float32)
        mean = self._node("ReduceMean", ["data", axes], "picture:mean", keepdims=1)
        centred = self._node("Sub", ["data", mean], "picture:centred")
        square = self._node("Mul", [centred, centred], "picture:square")
        variance = self._node("ReduceMean", [square, axes], "picture:variance", keepdims=1)
        deviation = self._node("Sqrt", [variance], "picture:deviation")
        bounded = self._node(
            "Max", [deviation, self._constant("picture:least", least)], "picture:bounded"
        )
        return self._node("Div", [centred, bounded], "picture:standardised")

    def _node(self, kind: str, inputs: list[str], name: str, **settings: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [name], **settings))
        return name

    def _constant(self, name: str, array: Any) -> str:
        import numpy as np
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


# ---- readers of age, gender and expression ---------------------------------------------------

_DLIB_CHANNELS = (122.782, 117.001, 104.298)  # (RGB - mean) / 256, as for the recogniser
_EXPRESSIONS = 7


def convert_reader(source: bytes, name: str, side: int, classes: int) -> bytes:
    """Return a reader of dlib's chips, its standardisation taken into the graph.

    The input becomes RGB 0..255, (n, 3, side, side); the output stays (n, classes) probabilities.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    model = _parsed(source, name)
    _free_axes(model, "images", {0: "n"})
    graph = model.graph
    shape = [axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim][1:]
    if shape != [3, side, side] or len(graph.output) != 1:
        raise _foreign(name, f"pictures of shape {shape}")
    mean = np.array(_DLIB_CHANNELS, np.float32).reshape(1, 3, 1, 1)
    for node in graph.node:
        for place, each in enumerate(node.input):
            if each == "images":
                node.input[place] = "images:standardised"
    first = [
        helper.make_node("Sub", ["images", "images:mean"], ["images:centred"]),
        helper.make_node("Mul", ["images:centred", "images:scale"], ["images:standardised"]),
    ]
    _replace(graph.node, [*first, *graph.node])
    graph.initializer.append(numpy_helper.from_array(mean, "images:mean"))
    graph.initializer.append(
        numpy_helper.from_array(np.array([1 / 256], np.float32), "images:scale")
    )
    length = graph.output[0].type.tensor_type.shape.dim[1]
    length.ClearField("dim_param")
    length.dim_value = classes
    return _finished(model)


def convert_age(source: bytes) -> bytes:
    """Return the reader of apparent age: 81 classes, 0 to 80 years."""
    return convert_reader(source, "age", 64, 81)


def convert_gender(source: bytes) -> bytes:
    """Return the reader of apparent gender: female, male."""
    return convert_reader(source, "gender", 32, 2)


def convert_expression(source: bytes) -> bytes:
    """Return the reader of seven expressions as ONNX, made from a Keras 2 HDF5 file.

    The file's own list of layers is followed; whatever is not this network is refused. The input is
    grey 0..255, (n, 1, 64, 64); (x / 255 - 0.5) * 2 is in the graph.
    """
    import io
    import json

    import h5py
    import numpy as np
    from onnx import TensorProto, helper

    try:
        file = h5py.File(io.BytesIO(source), "r")
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        drawn = _Small(file["model_weights"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _foreign("expression", "it is not a Keras 2 model in HDF5") from error
    scale = drawn.constant("scale", np.array(2 / 255, np.float32))
    one = drawn.constant("one", np.array(1, np.float32))
    scaled = drawn.node("Mul", ["data", scale], "data:scaled")
    drawn.made["data"] = drawn.node("Sub", [scaled, one], "data:standardised")
    try:
        for layer in layers:
            drawn.add(layer)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _foreign("expression", f"a layer without its parts: {error}") from error
    shape: list[str | int | None] = ["n", 1, 64, 64]
    graph = helper.make_graph(
        drawn.nodes,
        "expression",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(drawn.last, TensorProto.FLOAT, ["n", _EXPRESSIONS])],
        drawn.constants,
    )
    opset = [helper.make_opsetid("", 18)]
    return _finished(helper.make_model(graph, opset_imports=opset, ir_version=9))


class _Small:
    """Layers of a small Keras 2 classifier, as ONNX nodes."""

    def __init__(self, stored: Any) -> None:
        self._stored = stored
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.made: dict[str, str] = {}
        self.last = ""

    def add(self, layer: dict[str, Any]) -> None:
        kind, name, config = layer["class_name"], layer["name"], layer["config"]
        if kind == "InputLayer":
            if config["batch_input_shape"][1:] != [64, 64, 1]:
                raise _foreign("expression", f"pictures of shape {config['batch_input_shape']}")
            self.made[name] = self.made["data"]
            return
        inputs = [self.made[each[0]] for each in layer["inbound_nodes"][0]]
        if kind in ("Conv2D", "SeparableConv2D"):
            if config["activation"] != "linear" or config["dilation_rate"] != [1, 1]:
                raise _foreign("expression", f"{name} has settings that this network does not have")
            self.last = self._convolution(kind, name, config, inputs[0])
        elif kind == "BatchNormalization" and config["axis"] in (-1, 3):
            parts = [
                self.constant(f"{name}_{what}", self._array(name, what))
                for what in ("gamma", "beta", "moving_mean", "moving_variance")
            ]
            self.last = self.node(
                "BatchNormalization", [inputs[0], *parts], name, epsilon=config["epsilon"]
            )
        elif kind == "Activation" and config["activation"] in ("relu", "softmax"):
            softmax = config["activation"] == "softmax"
            more = {"axis": 1} if softmax else {}
            self.last = self.node("Softmax" if softmax else "Relu", inputs, name, **more)
        elif kind == "MaxPooling2D":
            sizes = {"kernel_shape": config["pool_size"], "strides": config["strides"]}
            self.last = self.node("MaxPool", inputs, name, **sizes, auto_pad=_padding(config))
        elif kind == "Add":
            self.last = self.node("Add", inputs, name)
        elif kind == "GlobalAveragePooling2D":
            mean = self.node("GlobalAveragePool", inputs, f"{name}_map")
            self.last = self.node("Flatten", [mean], name, axis=1)
        else:
            raise _foreign("expression", f"a layer {name} of kind {kind}")
        self.made[name] = self.last

    def _convolution(self, kind: str, name: str, config: dict[str, Any], source: str) -> str:
        more = {"auto_pad": _padding(config), "strides": config["strides"]}
        if kind == "Conv2D":
            inputs = [source, self.constant(f"{name}_weight", self._kernel(name, "kernel"))]
            if config["use_bias"]:
                inputs.append(self.constant(f"{name}_bias", self._array(name, "bias")))
            return self.node("Conv", inputs, name, **more)
        if config["use_bias"] or config["depth_multiplier"] != 1:
            raise _foreign("expression", f"{name} has settings that this network does not have")
        deep = self._array(name, "depthwise_kernel").transpose(2, 3, 0, 1)
        wide = self.constant(f"{name}_wide", self._kernel(name, "pointwise_kernel"))
        each = self.node(
            "Conv",
            [source, self.constant(f"{name}_deep", deep)],
            f"{name}_each",
            group=len(deep),
            **more,
        )
        return self.node("Conv", [each, wide], name)

    def _kernel(self, layer: str, what: str) -> Tensor:
        return self._array(layer, what).transpose(3, 2, 0, 1)

    def _array(self, layer: str, what: str) -> Tensor:
        import numpy as np

        array: Tensor = np.asarray(self._stored[f"{layer}/{layer}_1/{what}:0"], np.float32)
        if not np.isfinite(array).all():
            raise _foreign("expression", f"{layer}/{what} is not finite")
        return array

    def node(self, kind: str, inputs: list[str], name: str, **settings: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [name], **settings))
        return name

    def constant(self, name: str, array: Any) -> str:
        import numpy as np
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _padding(config: dict[str, Any]) -> str:
    """Keras pads unevenly at the end, and so does ONNX when it is told so."""
    return "SAME_UPPER" if config["padding"] == "same" else "VALID"


# ---- one call --------------------------------------------------------------------------------


def packed(tensors: dict[str, Tensor], source: bytes) -> bytes:
    """Return `tensors` as float16 safetensors that name their source.

    One line of metadata only: the writer keeps several in no fixed order.
    """
    import numpy as np
    from safetensors.numpy import save

    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    return bytes(save(half, {"source_sha256": hashlib.sha256(source).hexdigest()}))


def convert(name: str, source: bytes) -> bytes:
    """Return the file that the catalogue calls `name`, made from its source."""
    if name == "dlib":
        return packed(convert_dlib(source), source)
    return _ONNX[name](source)


def _foreign(name: str, what: str) -> WeightsRejected:
    return WeightsRejected(
        f"not the source of {name}: {what}",
        hint=_HINT,
    )


_ONNX = {
    "centerface": convert_centerface,
    "yunet": convert_yunet,
    "sface": convert_sface,
    "facenet": convert_facenet,
    "age": convert_age,
    "gender": convert_gender,
    "expression": convert_expression,
}


def main(arguments: list[str] | None = None) -> int:
    """Convert one file and print the lines that catalogue.toml needs."""
    parser = argparse.ArgumentParser(prog="python -m moretta.weights.convert", description=__doc__)
    parser.add_argument("name", choices=[*_ONNX, "dlib"])
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        finished = convert(chosen.name, chosen.source.read_bytes())
    except MorettaError as error:
        sys.stderr.write(f"moretta: error: {error.fault}\nmoretta: hint: {error.hint}\n")
        return error.exit_code
    chosen.output.write_bytes(finished)
    sys.stdout.write(
        f'sha256 = "{hashlib.sha256(finished).hexdigest()}"\nbytes = {len(finished)}\n'
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
