"""The MiniLM encoder as an ONNX graph, built from its weights.

Six layers of a BERT encoder; the vectors are those of the original up to float32 rounding
(tests/engine/embedding/test_model.py compares with an independent computation).
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    Weights = dict[str, npt.NDArray[np.float32]]
    Constant = npt.NDArray[np.float32] | npt.NDArray[np.int64]
    Attribute = int | float | list[int]

_LAYERS = 6
_HEADS = 12
_HIDDEN = 384
_EPSILON = 1e-12
_MASKED = -10000.0  # added to a score; exp() of it is exactly 0 in float32
_OPSET = 17  # the first with LayerNormalization; the oldest onnxruntime chromadb allows has it
_IR_VERSION = 8


def read_safetensors(raw: bytes) -> Weights:
    """Return the float32 tensors of a safetensors file by name, as read-only views of `raw`.

    The format: the header's length as 8 little-endian bytes, the header as JSON, the buffer that
    the header's offsets count in. Tensors of other types are left out.
    """
    import numpy as np

    start = 8 + int.from_bytes(raw[:8], "little")
    buffer = memoryview(raw)[start:]
    weights: Weights = {}
    for name, entry in json.loads(raw[8:start]).items():
        if entry.get("dtype") == "F32":
            begin, end = entry["data_offsets"]
            flat = np.frombuffer(buffer[begin:end], dtype="<f4")
            weights[name] = flat.reshape(entry["shape"])
    return weights


def build_graph(weights: Mapping[str, npt.NDArray[np.float32]], *, name: str) -> bytes:
    """Return the bytes of an ONNX model: token ids in, hidden states [batch, sequence, 384] out."""
    return _serialise(_encoder(weights), name)


class _Node(NamedTuple):
    """One operation: its inputs and its one output go by name."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Attribute]


class _Graph:
    """Nodes in the order of computation, with the constants they use; values go by name."""

    def __init__(self, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
        self.weights = weights
        self.constants: dict[str, Constant] = {}
        self.nodes: list[_Node] = []

    def op(self, kind: str, *inputs: str, **attributes: Attribute) -> str:
        """Append a node and return the name of its one output."""
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(_Node(kind, inputs, output, attributes))
        return output

    def number(self, value: float) -> str:
        """Return the name of a float32 scalar."""
        import numpy as np

        return self._constant(f"number_{value!r}", np.array(value, dtype=np.float32))

    def integers(self, *values: int) -> str:
        """Return the name of an int64 vector."""
        import numpy as np

        return self._constant(f"integers_{values}", np.array(values, dtype=np.int64))

    def weight(self, name: str) -> str:
        """Return the name of a weight as it is stored."""
        return self._constant(name, self.weights[name])

    def linear(self, value: str, name: str) -> str:
        """Apply the dense layer `name`, which is stored as [out, in]."""
        matrix = self._constant(f"{name}.weight", self.weights[f"{name}.weight"].T)
        return self.op("Add", self.op("MatMul", value, matrix), self.weight(f"{name}.bias"))

    def norm(self, value: str, name: str) -> str:
        """Apply the layer normalisation `name` over the last axis."""
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", value, scale, shift, axis=-1, epsilon=_EPSILON)

    def _constant(self, name: str, value: Constant) -> str:
        self.constants.setdefault(name, value)
        return name


def _encoder(weights: Mapping[str, npt.NDArray[np.float32]]) -> _Graph:
    """Return the graph from the three int64 inputs to `last_hidden_state`."""
    graph = _Graph(weights)
    mask = graph.op("Cast", "attention_mask", to=1)  # 1 is FLOAT in onnx's enumeration
    mask = graph.op("Unsqueeze", mask, graph.integers(1, 2))
    masked = graph.op("Sub", graph.number(1.0), mask)
    bias = graph.op("Mul", masked, graph.number(_MASKED))
    hidden = _embeddings(graph)
    for layer in range(_LAYERS):
        hidden = _attention(graph, hidden, bias, f"encoder.layer.{layer}.attention")
        hidden = _feed_forward(graph, hidden, f"encoder.layer.{layer}")
    graph.nodes.append(_Node("Identity", (hidden,), "last_hidden_state", {}))
    return graph


def _embeddings(graph: _Graph) -> str:
    """Sum the embeddings of word, type and position: [batch, sequence, hidden]."""
    words = graph.op("Gather", graph.weight("embeddings.word_embeddings.weight"), "input_ids")
    types = graph.weight("embeddings.token_type_embeddings.weight")
    total = graph.op("Add", words, graph.op("Gather", types, "token_type_ids"))
    length = graph.op("Gather", graph.op("Shape", "input_ids"), graph.integers(1))
    table = graph.weight("embeddings.position_embeddings.weight")
    positions = graph.op("Slice", table, graph.integers(0), length, graph.integers(0))
    return graph.norm(graph.op("Add", total, positions), "embeddings.LayerNorm")


def _attention(graph: _Graph, hidden: str, bias: str, name: str) -> str:
    """Attend with all heads and add the input: [batch, sequence, hidden]."""
    size = _HIDDEN // _HEADS

    def heads(part: str, order: list[int]) -> str:
        value = graph.linear(hidden, f"{name}.self.{part}")
        split = graph.op("Reshape", value, graph.integers(0, 0, _HEADS, size))
        return graph.op("Transpose", split, perm=order)

    scores = graph.op("MatMul", heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]))
    scaled = graph.op("Div", scores, graph.number(math.sqrt(size)))
    shares = graph.op("Softmax", graph.op("Add", scaled, bias), axis=-1)
    mixed = graph.op("MatMul", shares, heads("value", [0, 2, 1, 3]))
    joined = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])
    joined = graph.op("Reshape", joined, graph.integers(0, 0, _HIDDEN))
    output = graph.linear(joined, f"{name}.output.dense")
    return graph.norm(graph.op("Add", output, hidden), f"{name}.output.LayerNorm")


def _feed_forward(graph: _Graph, hidden: str, name: str) -> str:
    """Widen, apply GELU, narrow and add the input: [batch, sequence, hidden]."""
    wide = _gelu(graph, graph.linear(hidden, f"{name}.intermediate.dense"))
    output = graph.linear(wide, f"{name}.output.dense")
    return graph.norm(graph.op("Add", output, hidden), f"{name}.output.LayerNorm")


def _gelu(graph: _Graph, value: str) -> str:
    """Apply the exact GELU; the order of these nodes is the one that onnxruntime fuses."""
    erf = graph.op("Erf", graph.op("Div", value, graph.number(math.sqrt(2.0))))
    product = graph.op("Mul", value, graph.op("Add", erf, graph.number(1.0)))
    return graph.op("Mul", product, graph.number(0.5))


def _serialise(graph: _Graph, name: str) -> bytes:
    """Return the bytes of the ONNX file."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    real, integer = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    shape: list[str | int] = ["batch", "sequence"]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(kind, ins, [out], **more) for kind, ins, out, more in graph.nodes],
            name,
            [
                helper.make_tensor_value_info(name, integer, shape)
                for name in ("input_ids", "attention_mask", "token_type_ids")
            ],
            [helper.make_tensor_value_info("last_hidden_state", real, [*shape, _HIDDEN])],
            [
                numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
                for name, value in graph.constants.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    content: bytes = model.SerializeToString()
    return content
