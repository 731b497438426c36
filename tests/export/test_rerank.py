"""Exported rerankers are held against the model on candidates, and taken away when they fall short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tiny import WORDS, tiny_base
from tokay.errors import TokayError
from tokay.export import rerank as rerank_module
from tokay.export.int8 import SCHEMES, _narrowing, choose_int8
from tokay.export.onnx import forget_shapes_of_weights, write_cross_encoder
from tokay.export.rerank import BARS, Bar, compare_logits, correlations, export_reranker
from tokay.models.cross_encoder import CrossEncoder
from tokay.models.torch_cross_encoder import TorchCrossEncoder
from tokay.models.torch_embedder import TorchEmbedder

LISTS = [[(WORDS[q], " ".join(WORDS[q + i : q + 2 * i + 3])) for i in range(6)] for q in range(8)]
PAIRS = [pair for one in LISTS for pair in one]


def model() -> TorchCrossEncoder:
    made = TorchCrossEncoder.on_top_of(TorchEmbedder.load(tiny_base(), device="cpu"), max_tokens=32)
    made.scale_logits(100.0, 0.0)
    return made


def test_both_forms_are_written_and_score_as_the_model(tmp_path: Path) -> None:
    made = model()
    made.save(tmp_path)
    exact = made.score(PAIRS)
    done = export_reranker(made, tmp_path, LISTS, exact, lambda logits: 0.5)
    assert [one.backend for one in done] == ["onnx", "onnx-int8"]
    assert done[0].parity.good
    assert done[0].parity.correlation > 0.99999
    assert done[1].scheme.startswith("dynamic")
    np.testing.assert_allclose(CrossEncoder.load(tmp_path, backend="onnx").score(PAIRS), exact, atol=1e-3)
    assert len(_narrowing(tmp_path / "onnx" / "model.onnx")) == made.layers


def test_shapes_that_torch_notes_of_weights_do_not_stop_the_quantiser(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    source, out = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    write_cross_encoder(model(), source)
    graph = onnx.load(source)
    for t in graph.graph.initializer:  # as torch 2.11's exporter writes them
        graph.graph.value_info.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    onnx.save(graph, source)
    forget_shapes_of_weights(source)
    left = onnx.load(source).graph
    assert not {note.name for note in left.value_info} & {t.name for t in left.initializer}
    next(iter(SCHEMES.values()))(source, out, ())
    assert out.is_file()


def test_what_the_quantiser_fails_at_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no such shape\nat line 3")

    source, out = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    write_cross_encoder(model(), source)
    first = next(iter(SCHEMES))
    monkeypatch.setitem(SCHEMES, first, fails)
    with pytest.raises(TokayError, match=rf"cannot quantise the graph \({first}\): no such shape$"):
        choose_int8(source, out, (), lambda path: np.ones(2), schemes=[first])


def test_what_falls_short_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerank_module, "BARS", {**BARS, "onnx-int8": Bar(1.1, 0.005)})
    made = model()
    made.save(tmp_path)
    done = export_reranker(made, tmp_path, LISTS, made.score(PAIRS), lambda logits: 0.5)
    assert [one.parity.good for one in done] == [True, False]
    assert "expected 1.1 or more" in done[1].parity.faults[0]
    assert (tmp_path / "onnx" / "model.onnx").is_file()
    assert not (tmp_path / "onnx" / "model_qint8.onnx").exists()


def test_every_fault_is_named() -> None:
    exact = np.arange(6, dtype=np.float32)
    assert compare_logits(exact, exact + 2, [3, 3], (0.5, 0.5), BARS["onnx"]).good
    faults = compare_logits(exact, -exact, [3, 3], (0.5, 0.4), BARS["onnx-int8"]).faults
    assert faults == [
        "logits correlate by -1.0000; expected 0.98 or more",
        "nDCG@10 falls by 0.1000; expected at most 0.005",
    ]
    broken = np.full(6, np.nan, np.float32)
    assert "some scores are not numbers" in compare_logits(exact, broken, [3, 3], (0.5, 0.5), BARS["onnx"]).faults


def test_correlations_where_all_is_equal() -> None:
    flat = np.zeros(4, np.float32)
    assert correlations(flat, flat + 1, [4]).tolist() == [1.0]
    assert correlations(flat, np.arange(4, dtype=np.float32), [4]).tolist() == [0.0]
