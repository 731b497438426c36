"""An exported graph in one byte a weight: the ways to quantise it, and the one that holds on real texts.

Dynamic quantisation measures the range of each activation as it runs; static quantisation takes ranges from
calibration texts. Which is better depends on the model, and a CPU without VNNI adds products of 8-bit numbers in 16
bits, which overflow unless weights keep to 7 bits. So every way is tried on the user's own texts, and what is kept is
the first of ``SCHEMES`` that is close enough, or the closest.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError, first_line
from tokay.export.onnx import quiet
from tokay.export.parity import cosines_of
from tokay.models.onnx_embedder import OnnxEmbedder
from tokay.models.tokens import Tokens

ENOUGH = 0.99
"""Mean cosine to the exact model's vectors."""
ROWS = 1024
"""A matrix that is looked up and has fewer is not worth its scales."""
CALIBRATION_TEXTS, CALIBRATION_TOKENS = 64, 64
"""The longest texts, and how much of each: histograms of all activations are held in memory, half a GB so."""
_FLOAT = {"DefaultTensorType": 1}
"""Type of what follows a node whose shapes the library cannot infer, such as fused attention: float32."""


@dataclasses.dataclass(frozen=True)
class Tried:
    """One way to quantise, and the cosines to the exact vectors that it left on real texts."""

    scheme: str
    mean: float
    least: float


def _dynamic(
    source: Path, out: Path, batches: Sequence[Mapping[str, Any]], *, reduce_range: bool, narrowing: bool = True
) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        out,
        per_channel=True,
        reduce_range=reduce_range,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=[] if narrowing else _narrowing(source),
        extra_options=_FLOAT,
    )


def _narrowing(source: Path) -> list[str]:
    """Products with a matrix of more rows than columns: the second map of a feed-forward layer, a third of the work.

    What comes in there has been through the activation, and a few large numbers of it set the scale of all.
    """
    import onnx

    graph = onnx.load(source, load_external_data=False).graph
    shapes = {t.name: t.dims for t in graph.initializer if len(t.dims) == 2}
    products = (node for node in graph.node if node.op_type == "MatMul" and node.input[1] in shapes)
    return [node.name for node in products if shapes[node.input[1]][0] > shapes[node.input[1]][1]]


def _static(source: Path, out: Path, batches: Sequence[Mapping[str, Any]], *, method: str) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        source,
        out,
        _Reader(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        calibrate_method=CalibrationMethod[method],
        extra_options=_FLOAT | ({"CalibPercentile": 99.99} if method == "Percentile" else {}),
    )


Scheme = Callable[[Path, Path, Sequence[Mapping[str, Any]]], None]
SCHEMES: dict[str, Scheme] = {
    "dynamic, weights in 7 bits": lambda *a: _dynamic(*a, reduce_range=True),
    "dynamic, weights in 8 bits": lambda *a: _dynamic(*a, reduce_range=False),
    "dynamic, weights in 8 bits, narrowing maps in float32": lambda *a: _dynamic(
        *a, reduce_range=False, narrowing=False
    ),
    "static, least and greatest": lambda *a: _static(*a, method="MinMax"),
    "static, percentile 99.99": lambda *a: _static(*a, method="Percentile"),
}
"""Seven bits first: they are right on every CPU."""


class _Reader:
    """What onnxruntime's calibration asks for its inputs."""

    def __init__(self, batches: Sequence[Mapping[str, Any]]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> Mapping[str, Any] | None:
        return next(self.batches, None)


def write_int8(
    source: Path, out: Path, exact: OnnxEmbedder, texts: Sequence[str], *, schemes: Sequence[str] = tuple(SCHEMES)
) -> list[Tried]:
    """Quantise an embedder's graph; arguments and result as of ``choose_int8``.

    Args:
        source: the graph in float32.
        out: where the chosen one is written.
        exact: the same graph, loaded.
        texts: real ones, as the model sees them in use; the longest calibrate, all measure.
        schemes: of ``SCHEMES``, in order of preference.
    """
    reference = exact.encode(texts)

    def cosines(path: Path) -> NDArray[np.float64]:
        return cosines_of(OnnxEmbedder(path, exact.tokens, exact.config).encode(texts), reference)

    batches = _batches(exact.tokens, exact.tokenize(texts))
    return choose_int8(source, out, batches, cosines, schemes=schemes)


def choose_int8(
    source: Path,
    out: Path,
    batches: Sequence[Mapping[str, Any]],
    closeness: Callable[[Path], NDArray[np.float64]],
    *,
    schemes: Sequence[str] = tuple(SCHEMES),
    enough: float = ENOUGH,
) -> list[Tried]:
    """Quantise a graph in every way, and keep the first that is close enough, or else the closest.

    Args:
        source: the graph in float32.
        out: where the chosen one is written.
        batches: inputs to calibrate with, of one shape; what dynamic schemes do not look at.
        closeness: of a quantised graph to the exact one, on real texts: cosines, or what is like them.
        schemes: of ``SCHEMES``, in order of preference.
        enough: mean closeness that is.

    Returns:
        What was tried, in order; the last is the one that was kept.

    Raises:
        TokayError: the quantiser fails.
    """
    best: Tried | None = None
    tried: list[Tried] = []
    with tempfile.TemporaryDirectory(dir=out.parent) as folder, quiet():
        for scheme in schemes:
            path = Path(folder) / "model.onnx"
            try:
                SCHEMES[scheme](source, path, batches)
            except Exception as error:  # the quantiser's errors have no common base
                raise TokayError(f"onnxruntime cannot quantise the graph ({scheme}): {first_line(error)}") from error
            shrink_tables(path)
            found = closeness(path)
            tried.append(now := Tried(scheme, float(found.mean()), float(found.min())))
            if best is None or now.mean > best.mean:
                best = now
                path.replace(out)
            if now.mean >= enough:
                break
    assert best is not None
    return [*(t for t in tried if t != best), best]


def shrink_tables(path: Path) -> None:
    """Store the tables that ids are looked up in with one byte a number and one scale a row.

    Quantisers leave them in float32, or give a whole table one scale; they are half of a small model's bytes. A row
    is looked up as bytes and multiplied by its scale, so nothing but the looked-up rows is ever widened.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    tables = {t.name: t for t in graph.initializer if len(t.dims) == 2 and t.dims[0] >= ROWS and t.data_type == 1}
    nodes = []
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None:
            nodes.append(node)
            continue
        name, out = table.name, node.output[0]
        nodes += [
            helper.make_node("Gather", [f"{name}_int8", node.input[1]], [f"{out}_int8"]),
            helper.make_node("Cast", [f"{out}_int8"], [f"{out}_wide"], to=1),
            helper.make_node("Gather", [f"{name}_scale", node.input[1]], [f"{out}_scale"]),
            helper.make_node("Mul", [f"{out}_wide", f"{out}_scale"], [out]),
        ]
    used = {name for node in nodes for name in node.input}
    for name, table in tables.items():
        if f"{name}_int8" in used:
            values = numpy_helper.to_array(table)
            scale = np.maximum(np.abs(values).max(1, keepdims=True), 1e-12).astype(np.float32) / 127
            graph.initializer.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}_int8"))
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
            if name not in used:
                graph.initializer.remove(table)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, path)


def _batches(tokens: Tokens, ids: Sequence[Sequence[int]], size: int = 16) -> list[Mapping[str, Any]]:
    """Batches of one shape, as onnxruntime's histograms need: texts of like length, cut at the shortest of all."""
    chosen = sorted(ids, key=len)[-CALIBRATION_TEXTS:]
    length = min(CALIBRATION_TOKENS, len(chosen[0])) if chosen else 0
    whole = [row[:length] for row in chosen[: len(chosen) // size * size or None]]
    parts = [tokens.padded(whole[start : start + size]) for start in range(0, len(whole), size)]
    return [{"input_ids": padded, "attention_mask": mask} for padded, mask in parts]
