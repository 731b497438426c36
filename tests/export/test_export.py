"""Exports hold against the model, load everywhere, and are refused when they do not hold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import call
from tiny import WORDS, tiny_base
from tokay.errors import TokayError
from tokay.export.parity import BARS, Bar, Material, Vectors, compare_vectors
from tokay.export.write import Exported, export_model, form_of, sample
from tokay.models.embedder import Embedder
from tokay.models.space import vector_space
from tokay.models.static_embedder import StaticEmbedder, Words
from tokay.models.torch_embedder import TorchEmbedder

TEXTS = [" ".join(WORDS[i : i + 1 + i % 25]) for i in range(60)] + ["", "Ünïcode ☃ text", "a" * 3000]


def test_every_form_is_written_with_what_was_found(exported: tuple[Path, Sequence[Exported]]) -> None:
    folder, done = exported
    assert [e.form for e in done] == ["onnx", "onnx-int8", "static", "gguf-notes"]
    about = json.loads((folder / "export.json").read_text())["forms"]
    assert about["onnx"]["good"] is True
    assert about["onnx"]["parity"]["mean_cosine"] > 0.999999
    assert about["onnx-int8"]["chosen"] in [t["scheme"] for t in about["onnx-int8"]["tried"]]
    assert about["gguf-notes"]["parity"] is None
    for entry in about.values():
        assert (folder / entry["file"]).stat().st_size == entry["bytes"]


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_onnx_gives_the_models_vectors(exported: tuple[Path, Sequence[Exported]], kind: str) -> None:
    exact = Embedder.load(exported[0], device="cpu")
    graph = Embedder.load(exported[0], backend="onnx")
    assert graph.config == exact.config
    assert graph.width == exact.width
    for workers in (1, 3):
        found = graph.encode(TEXTS, kind=kind, workers=workers)
        np.testing.assert_allclose(found, exact.encode(TEXTS, kind=kind), atol=2e-6)
    found = graph.encode(TEXTS, kind=kind, dim=16, long="chunk")
    np.testing.assert_allclose(found, exact.encode(TEXTS, kind=kind, dim=16, long="chunk"), atol=2e-6)


def test_an_export_without_weights_is_of_the_same_space(
    exported: tuple[Path, Sequence[Exported]], tmp_path: Path
) -> None:
    whole = vector_space(exported[0])
    shutil.copytree(exported[0], tmp_path / "slim")
    (tmp_path / "slim" / "model.safetensors").unlink()
    assert vector_space(tmp_path / "slim") == whole
    assert vector_space(tiny_base(prompts=("query: ", "passage: "))) == whole


def test_int8_is_near_and_small(exported: tuple[Path, Sequence[Exported]]) -> None:
    exact = Embedder.load(exported[0], device="cpu").encode(TEXTS)
    found = Embedder.load(exported[0], backend="onnx-int8").encode(TEXTS)
    assert (exact * found).sum(1).mean() > 0.98


def test_tables_in_one_byte_are_looked_up_right(tmp_path: Path) -> None:
    import onnxruntime
    from onnx import helper, numpy_helper, save

    from tokay.export.int8 import shrink_tables

    table = np.random.default_rng(0).normal(size=(2000, 24)).astype(np.float32) * np.logspace(-3, 2, 2000)[:, None]
    table[7] = 0
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["out"])],
        "g",
        [helper.make_tensor_value_info("ids", 7, ["n", "l"])],
        [helper.make_tensor_value_info("out", 1, ["n", "l", 24])],
        [numpy_helper.from_array(table.astype(np.float32), "table")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").stat().st_size
    shrink_tables(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < before / 3
    ids = np.arange(2000).reshape(40, 50)
    found = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"ids": ids})[0].reshape(2000, 24)
    assert (np.abs(found - table).max(1) <= np.abs(table).max(1) / 254 * 1.001 + 1e-9).all()


def test_an_exported_model_needs_no_torch(exported: tuple[Path, Sequence[Exported]]) -> None:
    program = """
import sys
for name in ("torch", "transformers", "sentence_transformers", "onnx", "onnxscript"):
    sys.modules[name] = None
from tokay import Embedder, TokayError
for backend in ("onnx", "onnx-int8", "static"):
    model = Embedder.load(sys.argv[1], backend=backend)
    print(backend, model.encode(["the stone river"], kind="query", dim=16, precision="int8").shape)
try:
    Embedder.load(sys.argv[1])
except TokayError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(exported[0])], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "onnx (1, 16)",
        "onnx-int8 (1, 16)",
        "static (1, 16)",
        "a model in torch needs the package 'torch': pip install 'tokay[embed]'",
    ]


def test_what_is_exported_is_served_without_torch(exported: tuple[Path, Sequence[Exported]]) -> None:
    program = """
import sys
for name in ("torch", "transformers", "sentence_transformers", "onnx"):
    sys.modules[name] = None
import base64
import numpy as np
from starlette.testclient import TestClient
from tokay.serve import make_app
from tokay.serve.start import load_models
models = {}
for backend in ("onnx", "onnx-int8", "static"):
    models |= load_models([f"{backend}={sys.argv[1]}"], backend=backend)
with TestClient(make_app(models)) as client:
    for name, model in models.items():
        body = {"model": f"{name}:query", "input": ["the stone river"], "dimensions": 16, "encoding_format": "base64"}
        text = client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
        expected = model.encode(["the stone river"], kind="query", dim=16)[0]
        print(name, np.abs(np.frombuffer(base64.b64decode(text), "<f4") - expected).max() < 1e-6)
"""
    done = subprocess.run([sys.executable, "-c", program, str(exported[0])], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["onnx True", "onnx-int8 True", "static True"], done.stderr


def test_a_model_that_was_not_exported_says_how(tmp_path: Path) -> None:
    with pytest.raises(
        TokayError, match=r"has no onnx/model.onnx; write it by tokay export \S+ --to onnx --out FOLDER, and use"
    ):
        Embedder.load(tiny_base(), backend="onnx")
    with pytest.raises(TokayError, match=r"has no static/model.safetensors; write it by tokay export"):
        Embedder.load(tiny_base(), backend="static")
    shutil.copytree(tiny_base(), tmp_path / "m")
    (tmp_path / "m" / "onnx").mkdir()
    (tmp_path / "m" / "onnx" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(TokayError, match=r"model.onnx cannot be run by onnxruntime: "):
        Embedder.load(tmp_path / "m", backend="onnx")


# -- parity -----------------------------------------------------------------------------------------------------------


def _vectors(seed: int, material: Material) -> Vectors:
    rng = np.random.default_rng(seed)
    draw = lambda n: rng.normal(size=(n, 8)).astype(np.float32)  # noqa: E731
    return Vectors(draw(len(material.ids)), draw(len(material.queries)))


def test_parity_names_every_fault() -> None:
    names = [f"p{i}" for i in range(30)]
    material = Material(names, names, names, {"q": "a", "r": "b"}, {"q": {"p0": 1}, "r": {"p1": 2}})
    exact, other = _vectors(0, material), _vectors(1, material)
    same = compare_vectors(exact, exact, material, BARS["onnx"])
    assert same.good
    assert same.ndcg is not None
    assert same.ndcg[0] == same.ndcg[1]
    bad = compare_vectors(exact, other, material, Bar(0.99, 0.9, -2.0, kept_share=20.0))
    assert len(bad.faults) == 4
    assert "expected 0.99 or more" in bad.faults[0]
    broken = Vectors(exact.passages.copy(), exact.queries)
    broken.passages[3, 3] = np.nan
    assert "some vectors are not numbers" in compare_vectors(exact, broken, material, BARS["onnx"]).faults


def test_a_form_that_falls_short_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export_data import material

    monkeypatch.setitem(BARS, "static", Bar(1.1, None, 1.0))
    model = TorchEmbedder.load(tiny_base(), device="cpu")
    with pytest.raises(TokayError, match=r"static falls short and was taken away again: cosine is .*; --keep writes"):
        export_model(model, ["static"], tmp_path, material())
    assert not (tmp_path / "static").exists()
    assert json.loads((tmp_path / "export.json").read_text())["forms"]["static"]["kept"] is False
    export_model(model, ["static"], tmp_path, material(), keep=True)
    assert (tmp_path / "static" / "model.safetensors").is_file()


@given(st.lists(st.integers(), unique=True, max_size=50), st.integers(0, 60))
def test_a_sample_keeps_the_order(items: list[int], count: int) -> None:
    kept = sample(items, count, key=str)
    assert kept == [i for i in items if i in set(kept)]
    assert len(kept) == min(count, len(items))


def test_a_form_is_known_by_its_name() -> None:
    assert form_of("onnx-int8") == "onnx-int8"
    with pytest.raises(
        TokayError, match=r"--to is 'onnx-int4'; expected one of onnx, onnx-int8, static, gguf-notes; did"
    ):
        form_of("onnx-int4")


# -- the static model -------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.text(st.characters(codec="utf-8"), max_size=60) | st.sampled_from(["[SEP] x", "A_b-c  d\te"]), max_size=6
    )
)
def test_words_are_cut_as_the_tokenizer_cuts_them(batch: list[str]) -> None:
    model = TorchEmbedder.load(tiny_base(), device="cpu")
    assert Words(model.tokens).encode(batch) == model.tokens.encode(batch, special=False)


def test_a_static_model_is_the_mean_of_its_tokens(exported: tuple[Path, Sequence[Exported]]) -> None:
    model = StaticEmbedder.load(exported[0])
    assert model.words is not None
    found = model.encode(["the stone", "", "stone"], kind="query")
    rows = model.table[model.tokens.encode(["query: the stone"], special=False)[0]].mean(0)
    np.testing.assert_allclose(found[0], rows / np.linalg.norm(rows), atol=1e-6)
    long = " ".join(WORDS * 30)
    np.testing.assert_allclose(model.encode([long], long="chunk"), model.encode([long]), atol=1e-6)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_exports_a_model_folder_and_loads_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{i}", "title": "", "text": " ".join(WORDS[i : i + 12])} for i in range(40)]
    (beir / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (beir / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i}", "text": WORDS[i]}) + "\n" for i in range(9))
    )
    labels = "".join(f"q{i}\td{i}\t1\n" for i in range(9))
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + labels)
    out = tmp_path / "out"
    assert call("export", tiny_base(), "--to", "onnx", "--out", out, "--on", beir, "--no-weights") == 0
    text = " ".join(capsys.readouterr().err.split())
    assert "onnx: good. cosine of 49 texts" in text
    assert "on 9 queries" in text
    assert not list(out.glob("*.safetensors"))
    assert Embedder.load(out, backend="onnx").encode(["stone"]).shape == (1, 32)


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        ("--to", "onnx"): "there is no --out; name the folder to write",
        (
            "--to",
            "onx",
            "--out",
            tmp_path,
        ): "--to is 'onx'; expected one of onnx, onnx-int8, static, gguf-notes; did you",
        ("--to", "static", "--out", tmp_path): "a static model learns from texts; name a corpus with --on",
        ("--to", "onnx", "--out", tmp_path, "--on", tmp_path / "nowhere"): "nowhere",
    }
    for words, message in cases.items():
        assert call("export", tiny_base(), *words) == 1
        assert message in " ".join(capsys.readouterr().err.split())


def test_a_folder_of_something_else_is_not_written_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out, message in (("docs", "holds other files, such as a.md"), ("file", "is a file; expected a folder")):
        assert call("export", tiny_base(), "--to", "onnx", "--out", tmp_path / out) == 1
        assert message in " ".join(capsys.readouterr().err.split())
    assert [p.name for p in (tmp_path / "docs").iterdir()] == ["a.md"]
    assert call("export", "./nowhere/at/all", "--to", "onnx", "--out", tmp_path / "new", "--on", tmp_path) == 1
    assert not (tmp_path / "new").exists()
