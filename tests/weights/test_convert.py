import struct

import numpy as np
import pytest

from moretta.errors import WeightsRejected
from moretta.weights import convert, load

# ---- dlib: a small encoder, written from the description of the format ------------------------


def integer(value: int) -> bytes:
    size = max(1, (abs(value).bit_length() + 7) // 8)
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, "little")


def integers(*values: int) -> bytes:
    return b"".join(map(integer, values))


def real(value: float) -> bytes:
    mantissa, exponent = np.frexp(np.float32(value))
    return integers(int(mantissa * 2**24), int(exponent) - 24)


def text(value: str) -> bytes:
    return integer(len(value)) + value.encode()


def tensor(values: np.ndarray, shape: tuple[int, int, int, int]) -> bytes:
    return integers(2, *shape) + struct.pack(f"<{values.size}f", *values.ravel())


def alias(*shape: int) -> bytes:
    return integers(1, *shape)


NONE = tensor(np.zeros(0), (0, 0, 0, 0))
ENDING = b"011" + NONE * 3
RATES = real(1) * 4
HALVING = (3, 7, 10, 13)


def convolution(weight, bias, stride, padding, version=4) -> bytes:
    values = np.concatenate([weight.ravel(), bias])
    out, _, kernel, _ = weight.shape
    return (
        text(f"con_{version}")
        + tensor(values, (values.size, 1, 1, 1))
        + integers(out, kernel, kernel, stride, stride, padding, padding)
        + alias(*weight.shape)
        + alias(1, out, 1, 1)
        + b"1" * (version - 4)
        + RATES
    )


def affine(gamma, beta) -> bytes:
    values = np.concatenate([gamma, beta])
    shape = alias(1, gamma.size, 1, 1)
    return text("affine_") + tensor(values, (values.size, 1, 1, 1)) + shape * 2 + integer(0)


def pool(name: str) -> bytes:
    return text(name) + integers(3, 3, 2, 2, 0, 0)


def pieces(width: int = 2, version: int = 4) -> tuple[list[bytes], dict]:
    """A network of dlib's layers with `width` channels: its parts in order, and its parameters."""
    rng = np.random.default_rng(0)
    parameters = {}

    def layer(name, inputs, kernel, stride, padding):
        weight = rng.normal(size=(width, inputs, kernel, kernel)).astype(np.float32)
        bias, gamma, beta = rng.normal(size=(3, width)).astype(np.float32)
        parameters[name] = weight, bias, gamma, beta
        more = integer(1) if name == "stem" else b""
        coded = convolution(weight, bias, stride, padding, version)
        return [coded + ENDING + more, affine(gamma, beta) + ENDING]

    versions = [1] * 22 + [2] * 107 + [3]
    head = integer(1) + text("loss_metric_2") + real(0.04) + real(0.6) + integers(*versions)
    head += text("input_rgb_image_sized") + real(122.782) + real(117.001) + real(104.298)
    parts = [head + integers(150, 150)]
    relu = text("relu_") + ENDING
    parts += [*layer("stem", 3, 7, 2, 0), relu, pool("max_pool_2") + ENDING]
    for block in range(14):
        halves = block in HALVING
        parts += layer(f"blocks.{block}.first", width, 3, 2 if halves else 1, 0 if halves else 1)
        parts += [relu, *layer(f"blocks.{block}.second", width, 3, 1, 1)]
        parts += [pool("avg_pool_2") + ENDING] if halves else []
        parts += [text("add_prev_") + ENDING, relu]
    last = rng.normal(size=(width, 5)).astype(np.float32)
    parameters["output"] = last
    coded = text("fc_2") + integers(5, width) + tensor(last, (width, 5, 1, 1))
    coded += alias(width, 5, 1, 1) + alias(0, 0, 0, 0) + integer(1) + RATES
    parts += [pool("avg_pool_2") + ENDING, coded + ENDING]
    return parts, parameters


@pytest.mark.parametrize("version", [4, 5, 6])
def test_a_dlib_stream_gives_back_its_parameters_folded(version):
    parts, parameters = pieces(version=version)
    tensors = convert.convert_dlib(b"".join(parts))
    assert len(tensors) == 59
    np.testing.assert_array_equal(tensors["output.weight"], parameters.pop("output").T)
    x = np.random.default_rng(1).normal(size=1000)
    for name, (weight, bias, gamma, beta) in parameters.items():  # on one patch of the input
        patch = np.resize(x, weight.shape[1:])
        expected = (np.einsum("oihw,ihw->o", weight, patch) + bias) * gamma + beta
        folded = np.einsum("oihw,ihw->o", tensors[f"{name}.weight"], patch)
        np.testing.assert_allclose(folded + tensors[f"{name}.bias"], expected, atol=1e-4)


def test_a_dlib_stream_cut_anywhere_is_refused():
    parts, _ = pieces()
    whole = b"".join(parts)
    ends = np.cumsum([len(part) for part in parts])
    cuts = {0, 1, 5, 300, *ends[:-1].tolist(), *(ends - 1).tolist(), *(ends - 40).tolist()}
    assert len(cuts) > 200
    for cut in cuts:
        with pytest.raises(WeightsRejected, match="not the source of dlib"):
            convert.convert_dlib(whole[:cut])


def test_a_dlib_stream_with_bytes_left_over_is_refused():
    with pytest.raises(WeightsRejected, match="bytes left over"):
        convert.convert_dlib(b"".join(pieces()[0]) + b"\0")


@pytest.mark.parametrize(
    ("was", "becomes", "fault"),
    [
        (b"loss_metric_2", b"loss_metric_3", "not a dlib network for face recognition"),
        (b"input_rgb_image_sized", b"input_rgb_image_other", "not the layers"),
        (text("con_4"), text("con_9"), "a layer 'con_9' where 'con_4' belongs"),
        (text("relu_"), text("sig__"), "a layer 'sig__'"),
        (b"011" + NONE, b"01x" + NONE, "a malformed flag"),
        (b"011" + NONE, b"011" + tensor(np.ones(1), (1, 1, 1, 1)), "a gradient or cached output"),
        (alias(2, 3, 7, 7), alias(2, 3, 7, 6), "do not add up"),
        (alias(2, 3, 7, 7), alias(3, 2, 7, 7), "do not add up"),
        (integers(2, 294 + 2), integers(2, 1 << 50), "a tensor of shape"),
        (integers(2, 294 + 2), integers(2, -5), "a tensor of shape"),
        (integers(150, 150), integers(150, 112), "not 150 x 150 px"),
        (real(122.782), real(127.5), "colour means"),
        (real(0.04), integers(1, 32000), "not finite"),
        (integers(2, 7, 7, 2, 2, 0, 0), integers(2, 7, 7, 2, 2, 3, 3), "convolution 0 with fields"),
    ],
)
def test_other_dlib_streams_are_refused(was, becomes, fault):
    whole = b"".join(pieces()[0])
    assert was in whole
    with pytest.raises(WeightsRejected, match=fault):
        convert.convert_dlib(whole.replace(was, becomes, 1))


def test_a_dlib_stream_with_flipped_bits_never_fails_in_another_way():
    whole = b"".join(pieces()[0])
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        try:
            tensors = convert.convert_dlib(bytes(flipped))
        except WeightsRejected:
            refused += 1
        else:
            assert len(tensors) == 59
    assert refused > 50


def test_random_bytes_are_refused_by_every_conversion():
    noise = np.random.default_rng(0).bytes(1000)
    for name in ("dlib", "centerface", "yunet", "sface"):
        if name != "dlib":
            pytest.importorskip("onnx")
        for source in (b"", noise):
            with pytest.raises(WeightsRejected):
                convert.convert(name, source)


def test_packing_is_deterministic_and_names_its_source(tmp_path):
    tensors = {name: np.ones(3, np.float32) * i for i, name in enumerate("bca")}
    packed = convert.packed(tensors, b"source")
    assert packed == convert.packed(dict(reversed(tensors.items())), b"source")
    path = tmp_path / "p.safetensors"
    path.write_bytes(packed)
    read = load.tensors(path)
    assert {name: float(each[0]) for name, each in read.items()} == {"b": 0, "c": 1, "a": 2}
    assert (
        b'"source_sha256":"41cf6794ba4200b839c53531555f0f3998df4cbb01a4d5cb0b94e3ca5e23947d"'
        in packed
    )


def test_the_command_writes_the_file_or_says_why_not(tmp_path, capsys):
    source, output = tmp_path / "source.dat", tmp_path / "out.safetensors"
    source.write_bytes(b"".join(pieces()[0]))
    assert convert.main(["dlib", str(source), str(output)]) == 0
    assert f"bytes = {output.stat().st_size}" in capsys.readouterr().out
    output.unlink()
    source.write_bytes(b"nothing")
    assert convert.main(["dlib", str(source), str(output)]) == 2
    assert "moretta: hint: catalogue.toml names" in capsys.readouterr().err
    assert not output.exists()


# ---- ONNX ------------------------------------------------------------------------------------


def network(nodes, constants, inputs, outputs) -> bytes:
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    known = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    ports = [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()]
    ports += [  # old exports list the weights as inputs too
        helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in known
    ]
    ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(nodes, "g", ports, ends, known)
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return model.SerializeToString()


def run(model: bytes, **feed):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def test_centerface_takes_any_size():
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 3, 1, 1)).astype(np.float32)
    nodes = [onnx.helper.make_node("Conv", ["input.1", "w"], ["y"])]
    source = network(nodes, {"w": weight}, {"input.1": [10, 3, 32, 32]}, {"y": [10, 2, 32, 32]})
    finished = convert.convert_centerface(source)
    assert finished == convert.convert_centerface(source)
    assert [each.name for each in onnx.load_from_string(finished).graph.input] == ["input.1"]
    x = rng.normal(size=(2, 3, 5, 7)).astype(np.float32)
    expected = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], x)
    np.testing.assert_allclose(run(finished, **{"input.1": x})[0], expected, atol=1e-5)


def quantised(onnx, rng, shape, *, block):
    """An int8 weight in blocks along axis 1, as opset 21 has it, and its value."""
    rows, columns = shape
    blocks = -(-columns // block)
    x = rng.integers(-128, 128, shape).astype(np.int8)
    scale = rng.uniform(0.01, 0.1, (rows, blocks)).astype(np.float32)
    zero = rng.integers(-9, 9, (rows, blocks)).astype(np.int8)
    node = onnx.helper.make_node(
        "DequantizeLinear", ["x", "s", "z"], ["d"], axis=1, block_size=block
    )
    value = np.empty(shape, np.float32)
    for i in range(rows):
        for j in range(columns):
            at = i, j // block
            value[i, j] = (int(x[i, j]) - int(zero[at])) * scale[at]
    return node, {"x": x, "s": scale, "z": zero}, value


def test_yunet_is_written_out_and_takes_any_number():
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    node, constants, value = quantised(onnx, rng, (4, 3), block=2)
    make = onnx.helper.make_node
    nodes = [
        node,
        make("Reshape", ["d", "kernel"], ["w"]),
        make("Conv", ["input", "w"], ["c"]),
        make("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        make("Reshape", ["t", "head"], ["y"]),
    ]
    constants |= {"kernel": np.int64([4, 3, 1, 1]), "head": np.int64([1, -1, 4])}
    source = network(nodes, constants, {"input": [1, 3, 64, 64]}, {"y": [1, 4096, 4]})
    finished = convert.convert_yunet(source)
    kinds = {each.op_type for each in onnx.load_from_string(finished).graph.node}
    assert kinds == {"Conv", "Transpose", "Reshape"}
    x = rng.normal(size=(2, 3, 5, 6)).astype(np.float32)
    expected = np.einsum("oi,nihw->nhwo", value, x).reshape(2, 30, 4)
    np.testing.assert_allclose(run(finished, input=x)[0], expected, atol=1e-4)


def test_sface_keeps_large_blocks_and_bends_as_prelu_does():
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    node, constants, value = quantised(onnx, rng, (80, 64), block=64)  # above the limit: kept
    slope = rng.uniform(-0.2, 1.4, (80, 1, 1)).astype(np.float32)
    make = onnx.helper.make_node
    nodes = [
        node,
        make("Reshape", ["d", "kernel"], ["w"]),
        make("Conv", ["data", "w"], ["c"]),
        make("PRelu", ["c", "slope"], ["y"]),
    ]
    constants |= {"kernel": np.int64([80, 64, 1, 1]), "slope": slope}
    source = network(nodes, constants, {"data": [1, 64, 4, 4]}, {"y": [1, 80, 4, 4]})
    finished = convert.convert_sface(source)
    kinds = {each.op_type for each in onnx.load_from_string(finished).graph.node}
    assert kinds == {"DequantizeLinear", "Reshape", "Conv", "Relu", "Add"}
    x = rng.normal(size=(3, 64, 4, 4)).astype(np.float32)
    flat = np.einsum("oi,nihw->nohw", value, x)
    expected = np.where(flat > 0, flat, flat * slope)
    np.testing.assert_allclose(run(finished, data=x)[0], expected, rtol=1e-4, atol=1e-3)


def test_onnx_with_weights_elsewhere_or_other_inputs_is_refused():
    onnx = pytest.importorskip("onnx")
    weight = np.ones((2, 3, 1, 1), np.float32)
    nodes = [onnx.helper.make_node("Conv", ["input.1", "w"], ["y"])]
    source = network(nodes, {"w": weight}, {"input.1": [1, 3, 8, 8]}, {"y": [1, 2, 8, 8]})
    model = onnx.load_from_string(source)
    model.graph.initializer[0].external_data.add(key="location", value="elsewhere.bin")
    with pytest.raises(WeightsRejected, match="in another file"):
        convert.convert_centerface(model.SerializeToString())
    with pytest.raises(WeightsRejected, match="only input should be data"):
        convert.convert_sface(source)
    open_weight = network(
        nodes, {}, {"input.1": [1, 3, 8, 8], "w": [2, 3, 1, 1]}, {"y": [1, 2, 8, 8]}
    )
    with pytest.raises(WeightsRejected, match=r"only input should be input\.1"):
        convert.convert_centerface(open_weight)
