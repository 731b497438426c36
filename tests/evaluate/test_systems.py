from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.errors import TokayError
from tokay.evaluate.systems import SystemSpec, choose_reference, parse, parse_all
from tokay.models.embedder import BACKENDS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bm25", SystemSpec("bm25", "bm25")),
        ("tuned@128", SystemSpec("tuned@128", "tuned", dim=128)),
        ("tuned:onnx-int8", SystemSpec("tuned:onnx-int8", "tuned", backend="onnx-int8")),
        ("tuned:static@64", SystemSpec("tuned:static@64", "tuned", dim=64, backend="static")),
        ("tuned@64:static", SystemSpec("tuned@64:static", "tuned", dim=64, backend="static")),
        ("base+bm25", SystemSpec("base+bm25", "base", fused=True)),
        ("base+bm25=0.2", SystemSpec("base+bm25=0.2", "base", fused=True, weight=0.2)),
        ("a b=minilm", SystemSpec("a b", "minilm")),
        ("x=org/m+bm25=0+rerank=o/r", SystemSpec("x", "org/m", None, None, True, 0.0, True, "o/r")),
        ("openai:text-3@256", SystemSpec("openai:text-3@256", "openai:text-3", dim=256)),
        ("openai:bge-m3:latest", SystemSpec("openai:bge-m3:latest", "openai:bge-m3:latest")),
        ("openai:static", SystemSpec("openai:static", "openai:static")),
        ("bm25+rerank", SystemSpec("bm25+rerank", "bm25", reranked=True)),
    ],
)
def test_what_a_name_says(text: str, expected: SystemSpec) -> None:
    assert parse(text) == expected


@given(
    st.sampled_from(["tuned", "minilm", "org/name-v1.5", "./a folder"]),
    st.none() | st.integers(1, 4096),
    st.none() | st.sampled_from(BACKENDS),
    st.none() | st.just("") | st.floats(0, 1000),
    st.booleans(),
)
def test_parts_put_together_come_apart(
    core: str, dim: int | None, backend: str | None, weight: float | str | None, reranked: bool
) -> None:
    fused = "" if weight is None else "+bm25" if weight == "" else f"+bm25={weight!r}"
    text = core + (f"@{dim}" if dim else "") + (f":{backend}" if backend else "") + fused + "+rerank" * reranked
    spec = parse(text)
    backend = None if backend == "torch" else backend  # torch is what runs a model anyway
    assert (spec.core, spec.dim, spec.backend, spec.reranked) == (core, dim, backend, reranked)
    assert (spec.fused, spec.weight) == (weight is not None, None if weight == "" else weight)
    assert spec.encoder == (core, backend or "")


def test_a_folder_is_taken_as_it_is_called(tmp_path: Path) -> None:
    odd = tmp_path / "a@3+bm25"
    odd.mkdir()
    assert parse(str(odd)).core == str(odd)
    assert parse(f"{odd}@8+bm25") == SystemSpec(f"{odd}@8+bm25", str(odd), dim=8, fused=True)
    assert parse(f"mine={odd}") == SystemSpec("mine", str(odd))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tuned@x", r"has the width 'x'; expected a whole number, such as tuned@128"),
        ("tuned@0", r"has the width 0"),
        ("tuned:onxx", r"has the back-end 'onxx'; expected one of torch.*did you mean 'onnx'\?"),
        ("bm25@64", r"BM25 has no width"),
        ("bm25+bm25", r"not fused with itself"),
        ("tuned+bm52", r"has \+bm52; expected \+bm25.*did you mean 'bm25'\?"),
        ("tuned+bm25=lots", r"gives BM25 the weight 'lots'; expected a number from 0 to 1000"),
        ("tuned+bm25=-1", r"the weight '-1'"),
        ("openai:", r"names no model"),
        ("openai:m:onnx", r"an endpoint has no back-end; leave :onnx out"),
    ],
)
def test_names_of_nothing(text: str, said: str) -> None:
    with pytest.raises(TokayError, match=said):
        parse(text)


def test_one_name_twice_and_a_reference_that_is_none() -> None:
    with pytest.raises(TokayError, match="two systems are called 'bm25'"):
        parse_all(["bm25", "bm25"])
    assert choose_reference(["base", "tuned"], None) == "base"
    with pytest.raises(TokayError, match=r"--against is 'tunde'; expected one of .*did you mean 'tuned'\?"):
        choose_reference(["base", "tuned"], "tunde")
