"""The encode path: whatever the back-end, words for the two sides, long texts, fewer bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tiny import WORDS, tiny_base
from tokay.errors import TokayError
from tokay.models.embedder import Embedder
from tokay.models.format import GECKO
from tokay.models.precision import PRECISIONS, Calibration, to_precision
from tokay.models.tasks import NAMES, side_of
from tokay.models.torch_embedder import TorchEmbedder

texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=200).map(" ".join), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.load(tiny_base(), device="cpu")


@given(texts, st.integers(1, 5))
def test_workers_do_not_matter(embedder: Embedder, batch: list[str], workers: int) -> None:
    np.testing.assert_allclose(embedder.encode(batch, workers=workers), embedder.encode(batch, workers=1), atol=2e-6)


def test_workers_give_torch_its_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads()
    model = TorchEmbedder.load(tiny_base(), device="cpu")
    monkeypatch.setattr(TorchEmbedder, "tokens_per_batch", 16)
    model.encode(WORDS, workers=4)
    assert torch.get_num_threads() == before


def test_a_stream_is_read_window_by_window(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokay.models.embedder.TEXTS_PER_WINDOW", 4)
    read = []

    def source() -> Iterator[str]:
        for word in WORDS[:20]:
            read.append(word)
            yield word

    stream = embedder.stream(source())
    first = next(stream)
    assert first.shape == (4, 32)
    assert len(read) <= 8  # the window that is run, and the one that is tokenised meanwhile
    np.testing.assert_allclose(np.concatenate([first, *stream]), embedder.encode(WORDS[:20]), atol=2e-6)


def test_nothing_is_an_empty_array_of_the_right_kind(embedder: Embedder) -> None:
    assert embedder.encode([]).shape == (0, 32)
    assert embedder.encode(iter([]), dim=16, precision="ubinary").shape == (0, 2)
    assert embedder.encode([], precision="float16").dtype == np.float16


def test_a_failing_source_fails_the_encoding(embedder: Embedder) -> None:
    def source() -> Iterator[str]:
        yield "stone"
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        embedder.encode(source())


def test_lone_surrogates_are_read_as_replacement(embedder: Embedder) -> None:
    np.testing.assert_array_equal(embedder.encode(["stone \ud800 river"]), embedder.encode(["stone \ufffd river"]))
    np.testing.assert_array_equal(embedder.encode(["\ud83d\ude00"]), embedder.encode(["\U0001f600"]))


# -- long texts -------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([*WORDS, "xylophone", "qqqq", "é", "日本"]), max_size=150), st.integers(1, 40))
def test_parts_are_the_text_and_none_is_too_long(embedder: Embedder, words: list[str], room: int) -> None:
    text = "  ".join(words)
    parts = embedder.tokens.parts(text, room)
    assert "".join(parts) == text
    lengths = [len(ids) for ids in embedder.tokens.encode(parts, special=False)]
    longest = max((len(ids) for ids in embedder.tokens.encode(words, special=False)), default=0) if words else 0
    if longest <= room:  # no word had to be cut
        assert all(length <= room for length in lengths)


@given(texts)
def test_a_chunked_text_that_fits_is_the_text(embedder: Embedder, batch: list[str]) -> None:
    short = [" ".join(text.split()[:50]) for text in batch]
    np.testing.assert_allclose(embedder.encode(short, long="chunk"), embedder.encode(short), atol=3e-6)


def test_a_long_text_is_the_mean_of_its_windows_by_tokens() -> None:
    model = Embedder.load(tiny_base(prompts=(GECKO.query, GECKO.passage)), device="cpu")
    text = " ".join(WORDS * 2)
    room = model.config.max_tokens - len(model.tokens.encode([model.config.prompts.write_passage("", "river")])[0])
    parts = model.tokens.parts(text, room)
    assert len(parts) > 3
    written = [model.config.prompts.write_passage(part, "river") for part in parts]
    weights = np.array([len(ids) for ids in model.tokenize(written)], float)[:, None]
    vectors = model.encode(parts, titles=["river"] * len(parts))
    mean = (vectors * weights).sum(0) / weights.sum()
    found = model.encode(["stone", text], titles=["cloud", "river"], long="chunk")
    np.testing.assert_allclose(found[1], mean / np.linalg.norm(mean), atol=2e-6)
    np.testing.assert_allclose(found[0], model.encode(["stone"], titles=["cloud"])[0], atol=2e-6)
    assert np.abs(model.encode([text], titles=["river"]) - found[1]).max() > 1e-3  # the beginning alone is another


# -- words for the two sides ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "side"),
    [
        ("query", ("query", None)),
        ("RETRIEVAL_QUERY", ("query", None)),
        ("search_document", ("passage", None)),
        ("retrieval.passage", ("passage", None)),
        ("Document", ("passage", None)),
        ("FACT_CHECKING", ("query", "fact checking")),
        ("QUESTION_ANSWERING", ("query", "question answering")),
        ("CODE_RETRIEVAL_QUERY", ("query", "code retrieval")),
        ("SEMANTIC_SIMILARITY", ("query", "sentence similarity")),
        ("text-matching", ("query", "sentence similarity")),
        ("clustering", ("query", "clustering")),
    ],
)
def test_the_words_of_all_clients(word: str, side: tuple[str, str | None]) -> None:
    assert side_of(word) == side


def test_a_task_is_written_where_the_format_has_a_place_for_it() -> None:
    model = Embedder.load(tiny_base(prompts=(GECKO.query, GECKO.passage)), device="cpu")
    plain = Embedder.load(tiny_base(), device="cpu")
    expected = plain.encode(["task: fact checking | query: stone"])
    np.testing.assert_array_equal(model.encode(["stone"], kind="FACT_CHECKING"), expected)
    np.testing.assert_array_equal(model.encode(["stone"], kind="query", task="fact checking"), expected)
    for name in NAMES:
        assert side_of(name)[0] in ("query", "passage")


# -- fewer bytes ------------------------------------------------------------------------------------------------------

unit_rows = arrays(np.float32, (40, 16), elements=st.floats(-1, 1, width=32)).filter(
    lambda a: bool((np.linalg.norm(a, axis=1) > 0.1).all())
)


@given(unit_rows)
def test_one_byte_is_within_half_a_step_or_at_the_end(rows: np.ndarray) -> None:
    calibration = Calibration.of(rows[:20], dims=[8])
    low, high = calibration.ranges[16]
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    levels = to_precision(vectors, "int8", calibration).astype(int) + 128
    steps = np.maximum(high - low, 1e-12) / 255
    inside = (vectors >= low) & (vectors <= high)
    back = low + levels * steps
    assert (np.abs(back - vectors)[inside] <= (np.broadcast_to(steps, vectors.shape)[inside] * 1.01 + 1e-6)).all()
    assert (levels[vectors < low] == 0).all()
    assert (levels[vectors > high] >= 254).all()  # by rounding, where it is hardly above


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p not in ("float32", "float16")])
def test_precisions_are_those_of_sentence_transformers(embedder: Embedder, precision: str) -> None:
    quantization = pytest.importorskip("sentence_transformers.util.quantization")
    vectors = embedder.encode(WORDS[:30])
    embedder.calibration = Calibration.of(vectors, dims=[16])
    theirs = quantization.quantize_embeddings(vectors, precision=precision, ranges=embedder.calibration.ranges[32])
    ours = embedder.encode(WORDS[:30], precision=precision)  # type: ignore[arg-type]
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    same = ours.astype(int) == theirs.astype(int)
    wraps = np.abs(ours.astype(int) - theirs.astype(int)) == 255  # their greatest value falls off the end of a byte
    assert (same | wraps).all()
    assert wraps.mean() < 0.1


def test_calibration_is_kept_and_asked_for(embedder: Embedder, tmp_path: object) -> None:
    fresh = Embedder.load(tiny_base(), device="cpu")
    with pytest.raises(TokayError, match=r"int8 vectors of 32 numbers .* this model has no calibration"):
        fresh.encode(["stone"], precision="int8")
    fresh.calibration = Calibration.of(fresh.encode(WORDS), dims=[16])
    fresh.encode(["stone"], precision="int8", dim=16)
    with pytest.raises(TokayError, match=r"int8 vectors of 8 numbers .* ranges for 16, 32"):
        fresh.encode(["stone"], precision="int8", dim=8)
    with pytest.raises(TokayError, match=r"binary puts eight numbers into a byte, and 12 is no multiple of 8"):
        fresh.encode(["stone"], precision="binary", dim=12)
    with pytest.raises(TokayError, match=r"precision is 'int4'; expected one of float32, float16, int8"):
        fresh.encode(["stone"], precision="int4")  # type: ignore[arg-type]


def test_bits_keep_the_order_of_near_and_far() -> None:
    rows: Sequence[Sequence[float]] = [[1] * 16, [1] * 12 + [-1] * 4, [-1] * 16]
    bits = to_precision(np.array(rows, np.float32), "ubinary")
    distance = [int(np.bitwise_count(bits[0] ^ other).sum()) for other in bits]
    assert distance == [0, 4, 16]


def test_what_is_no_text_is_told_by_its_number(embedder: Embedder) -> None:
    with pytest.raises(TokayError, match=r"text 1 is None; expected a string"):
        embedder.encode(["stone", None])  # type: ignore[list-item]
    with pytest.raises(TokayError, match=r"text 1 is 'b' and its title None; expected one title a text"):
        embedder.encode(["a", "b"], titles=["x"])
    with pytest.raises(TokayError, match=r"kind is None; expected 'query', 'passage'"):
        embedder.encode(["a"], kind=None)  # type: ignore[arg-type]
    with pytest.raises(TokayError, match=r"threads is 0; expected 1 or more"):
        Embedder.load(tiny_base(), threads=0)
    with pytest.raises(TokayError, match=r"device 'cudda' cannot be used: .*; leave it out, or cpu"):
        Embedder.load(tiny_base(), device="cudda")
    with pytest.raises(TokayError, match=r"titles are of passages, and kind is 'query'; leave them out"):
        embedder.encode(["a"], kind="query", titles=["x"])
    with pytest.raises(TokayError, match=r"task 'fact checking' is of a query, and kind is 'passage'"):
        embedder.encode(["a"], task="fact checking")
    assert "32 numbers; 64 tokens" in repr(embedder)
