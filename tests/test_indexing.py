"""An index folder: an update is a new build, a kill does no harm, what is wrong is said in a sentence."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokay.corpus import open_corpus
from tokay.errors import TokayError
from tokay.indexing import HASH, LOCK, Indexed, Maker, Shape, write_index
from tokay.models import embedder as encoding
from tokay.progress import Silent
from tokay.search.index import Index, Made, Method, Searcher
from tokay.settings import CorpusSettings
from tokay.store import Run
from words import WordEmbedder

NAMES = "alpha beta gamma delta river stone cloud flame glass iron maple ocean pearl quartz".split()
PLAIN = Shape()
MAKER = Maker("words", Path("words"), CorpusSettings(), None)


def corpus(folder: Path, texts: Mapping[str, str]) -> str:
    path = folder / "docs.jsonl"
    path.write_text("".join(json.dumps({"_id": i, "title": f"on {i}", "text": t}) + "\n" for i, t in texts.items()))
    return str(path)


def index(
    out: Path, texts: Mapping[str, str], shape: Shape = PLAIN, model: WordEmbedder | None = None, mark: str = "f"
) -> Indexed:
    model = model or WordEmbedder()
    made = Made(name="words", fingerprint=mark, backend="torch", cut=model.config.max_tokens)
    out.parent.mkdir(exist_ok=True)
    source = open_corpus(corpus(out.parent, texts))
    return write_index(model, made, source, out, shape, maker=MAKER, progress=Silent())


def some(count: int, shift: int = 0) -> dict[str, str]:
    """Texts that are no near duplicates of each other."""
    rng = np.random.default_rng(0)
    rows = [" ".join(rng.choice(NAMES, 6)) for _ in range(count + shift)]
    return {f"d{i}": rows[i] for i in range(shift, count + shift)}


def answers(folder: Path) -> object:
    searcher = Searcher(Index.open(folder), WordEmbedder())
    queries = ["alpha river", "glass", "on d3"]
    return [
        searcher.search(queries, top=5),
        searcher.search(queries, top=5, weight=0.4),
        searcher.search(queries, top=2, ids=[searcher.search(["cloud"], top=1)[0][0].passage.document_id]),
    ]


def assert_same(one: Path, two: Path) -> None:
    """Header, every file and every answer."""
    headers = [
        Index.open(folder).header.model_copy(update={"data": "data-000001", "corpus": ""}) for folder in (one, two)
    ]
    assert headers[0] == headers[1]
    for name in headers[0].files:
        contents = [(folder / Index.open(folder).header.data / name).read_bytes() for folder in (one, two)]
        assert contents[0] == contents[1], name
    assert answers(one) == answers(two)


texts = st.dictionaries(
    st.sampled_from([f"d{i}" for i in range(8)]),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=5).map(" ".join),
    min_size=1,
)


@settings(max_examples=12)
@given(st.lists(texts, min_size=2, max_size=4), st.sampled_from(["exact", "int8", "binary"]))
def test_any_sequence_of_edits_gives_what_a_new_build_gives(versions: list[dict[str, str]], method: Method) -> None:
    with tempfile.TemporaryDirectory() as name:
        updated, anew = Path(name) / "a" / "updated", Path(name) / "b" / "anew"
        for version in versions:
            model = WordEmbedder()
            before = _hashes(updated)
            done = index(updated, version, Shape(search=method), model)
            assert model.seen == len(_hashes(updated) - before)  # nothing is encoded twice
            assert done.encoded + done.kept == done.header.passages
        index(anew, versions[-1], Shape(search=method))
        assert_same(updated, anew)


def _hashes(folder: Path) -> set[str]:
    if not folder.exists():
        return set()
    return {*pq.read_table(Index.open(folder).data / "passages.parquet").column(HASH).to_pylist()}


def test_only_what_changed_is_encoded_and_what_is_gone_leaves(tmp_path: Path) -> None:
    assert index(tmp_path / "index", some(20)).encoded == 20
    changed = {**some(18, shift=2), "d5": "pearl pearl quartz"}
    model = WordEmbedder()
    done = index(tmp_path / "index", changed, model=model)
    assert (model.seen, done.encoded, done.kept, done.gone) == (1, 1, 17, 3)
    assert not {"d0", "d1"} & {m.passage.passage_id for m in _search(tmp_path / "index", "on d0 d1", top=18)}
    assert [p.name for p in sorted((tmp_path / "index").iterdir())] == [".index.lock", "data-000002", "index.json"]
    again = index(tmp_path / "index", changed)
    assert not again.changed
    assert again.header == done.header
    index(tmp_path / "index", changed, Shape(search="binary"), model := WordEmbedder())
    assert model.seen == 0  # another search needs no other vectors


def _search(folder: Path, query: str, *, top: int = 5, weight: float | None = None):  # type: ignore[no-untyped-def]
    return Searcher(Index.open(folder), WordEmbedder()).search([query], top=top, weight=weight)[0]


def test_the_title_the_prompt_and_the_cut_are_part_of_what_is_compared(tmp_path: Path) -> None:
    seen = []
    for model in (WordEmbedder(), WordEmbedder(), WordEmbedder(prompts=("", "say: ")), WordEmbedder(cut=3)):
        index(tmp_path / "index", some(9), model=model)
        seen.append(model.seen)
    assert seen == [9, 0, 9, 9]


@pytest.mark.parametrize("method", ["exact", "int8", "binary", "hnsw"])
def test_every_search_finds_the_passage_that_says_it(tmp_path: Path, method: Method) -> None:
    done = index(tmp_path / "index", some(40), Shape(search=method))
    assert done.header.recall == (None if method == "exact" else 1.0)
    for i in (0, 17, 39):
        best = _search(tmp_path / "index", f"on d{i} {some(40)[f'd{i}']}")[0]
        assert (best.passage.passage_id, best.rank) == (f"d{i}", 1)
        assert best.score == pytest.approx(1, abs=1e-5)
    index(tmp_path / "index", some(40, shift=3))
    assert Index.open(tmp_path / "index").header.search == method
    assert len(_search(tmp_path / "index", "iron", top=40)) == 40


def test_width_and_type_of_the_numbers(tmp_path: Path) -> None:
    index(tmp_path / "full", some(12))
    index(tmp_path / "half", some(12), Shape(dim=8, stored="float16"))
    full, half = Index.open(tmp_path / "full"), Index.open(tmp_path / "half")
    assert half.vectors.dtype == np.float16
    kept = full.vectors[:, :8] / np.linalg.norm(full.vectors[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(half.vectors, kept, atol=1e-3)
    table = pq.read_table(half.data / "vectors.parquet")
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[8]"
    np.testing.assert_array_equal(np.array(table.column("vector").to_pylist(), np.float16), half.vectors)
    assert table.column("passage_id").to_pylist() == [f"d{i}" for i in range(12)]


# -- kills ----------------------------------------------------------------------------------------------------------


def test_what_a_run_that_was_cut_had_encoded_is_not_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "TEXTS_PER_WINDOW", 4)
    index(tmp_path / "a" / "index", some(3))
    before = answers(tmp_path / "a" / "index")
    dying = WordEmbedder()
    dying.until = 11
    with pytest.raises(KeyboardInterrupt):
        index(tmp_path / "a" / "index", some(20), model=dying)
    assert answers(tmp_path / "a" / "index") == before
    model = WordEmbedder()
    done = index(tmp_path / "a" / "index", some(20), model=model)
    assert (model.seen, done.encoded, done.resumed) == (9, 17, 8)
    index(tmp_path / "b" / "index", some(20))
    assert_same(tmp_path / "a" / "index", tmp_path / "b" / "index")
    assert not (tmp_path / "a" / "index" / ".encoded").exists()


def test_a_kill_at_any_file_operation_leaves_the_old_index_or_the_new_one(tmp_path: Path) -> None:
    index(tmp_path / "old" / "index", some(6), Shape(search="binary"))
    index(tmp_path / "new" / "index", some(6, shift=2), Shape(search="binary"))
    old, new = (answers(tmp_path / name / "index") for name in ("old", "new"))
    outcomes = []
    for moment in range(1, 200, 5):
        folder = tmp_path / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "old", folder)
        killed = _killed_at(moment, folder)
        found = answers(folder / "index")
        assert found in (old, new)
        outcomes.append(found == new)
        index(folder / "index", some(6, shift=2))
        assert answers(folder / "index") == new
        if not killed:
            break
    assert outcomes == sorted(outcomes)
    assert outcomes[-1]
    assert not outcomes[0]


def _killed_at(moment: int, folder: Path) -> bool:
    """Update an index in a child that kills itself at its n-th file operation; whether it came to that."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    signal.alarm(30)  # a child that hangs is a child that was killed
    count = 0

    def hook(event: str, _: object) -> None:
        nonlocal count
        count += event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    try:
        index(folder / "index", some(6, shift=2))
        os._exit(0)
    finally:
        os._exit(1)


def test_an_open_index_is_not_disturbed_by_an_update(tmp_path: Path) -> None:
    index(tmp_path / "index", some(9))
    opened = Searcher(Index.open(tmp_path / "index"), WordEmbedder())
    before = opened.search(["glass iron"], top=9)
    index(tmp_path / "index", some(9, shift=5))
    assert opened.search(["glass iron"], top=9) == before


# -- bad input ------------------------------------------------------------------------------------------------------


def test_another_models_vectors_are_refused(tmp_path: Path) -> None:
    index(tmp_path / "index", some(5))
    with pytest.raises(
        TokayError, match=r"holds vectors of the model words \(fingerprint f…\), and words is another one"
    ):
        index(tmp_path / "index", some(5), mark="g")
    with pytest.raises(TokayError, match="cannot be compared with them; name the model that made the index"):
        Index.open(tmp_path / "index").check_model("other", "models/other")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(dim=8), "holds vectors of dimension 16, and 8 was asked for; leave that option out"),
        (Shape(stored="float16"), "holds numbers of type float32, and float16 was asked for"),
    ],
)
def test_an_update_does_not_change_what_the_vectors_are(tmp_path: Path, shape: Shape, message: str) -> None:
    index(tmp_path / "index", some(5))
    with pytest.raises(TokayError, match=message):
        index(tmp_path / "index", some(5), shape)


def test_a_width_that_the_model_has_not(tmp_path: Path) -> None:
    with pytest.raises(TokayError, match="--dim is 17; this model has vectors of 16 numbers, so 1 to 16"):
        index(tmp_path / "index", some(5), Shape(dim=17))


def test_vectors_that_are_not_numbers(tmp_path: Path) -> None:
    model = WordEmbedder()
    model.run = lambda ids: np.full((len(ids), 16), np.nan, np.float32)  # type: ignore[method-assign]
    with pytest.raises(TokayError, match="gives vectors that are not finite; its weights are damaged"):
        index(tmp_path / "index", some(5), model=model)


def test_a_folder_that_is_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "thesis.txt").write_text("x")
    with pytest.raises(TokayError, match="holds other files and is no index folder; name a new or empty folder"):
        index(tmp_path / "index", some(5))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("index.json", "{", "index.json is damaged: it is not JSON"),
        ("index.json", "[]", "index.json is damaged: it is not JSON"),
        ("index.json", '{"format": 9}', "has format 9; this version of tokay reads format 2"),
        ("index.json", '{"format": 2}', "index.json is damaged: entry 'data' is missing"),
        ("data-000001/vectors.npy", "", "vectors.npy is damaged: it has 0 bytes, not"),
        ("data-000001/passages.parquet", None, "passages.parquet is damaged: it is missing"),
        ("data-000001/bm25/vocab.index.json", None, r"vocab.index.json is damaged: it is missing; delete the index"),
    ],
)
def test_a_damaged_index(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    index(tmp_path / "index", some(5))
    path = tmp_path / "index" / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(TokayError, match=message):
        Index.open(tmp_path / "index")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vectors.npy", "data-000001 is damaged"),
        ("passages.parquet", "data-000001 is damaged"),
        ("binary.npy", "data-000001 is damaged"),
        ("bm25/vocab.index.json", "bm25 is damaged"),
    ],
)
def test_bytes_that_are_others_of_the_same_number(tmp_path: Path, name: str, message: str) -> None:
    index(tmp_path / "index", some(5), Shape(search="binary"))
    path = tmp_path / "index" / "data-000001" / name
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(TokayError, match=message):
        _search(tmp_path / "index", "glass", weight=0.5)


def test_a_header_leads_nowhere_else(tmp_path: Path) -> None:
    index(tmp_path / "index", some(5))
    header = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps({**header, "data": "../elsewhere"}))
    with pytest.raises(TokayError, match=r"is damaged: entry 'data' is '../elsewhere'"):
        Index.open(tmp_path / "index")


def test_questions_that_cannot_be_asked(tmp_path: Path) -> None:
    index(tmp_path / "index", some(5))
    searcher = Searcher(Index.open(tmp_path / "index"), WordEmbedder())
    with pytest.raises(TokayError, match="the query is empty; write what you are looking for"):
        searcher.search(["glass", " "], top=1)
    with pytest.raises(TokayError, match=r"takes a list of queries and got one string; write search\(\[query\]\)"):
        searcher.search("glass", top=1)
    with pytest.raises(TokayError, match="0 results were asked for; expected 1 to 1000"):
        searcher.search(["glass"], top=0)
    with pytest.raises(TokayError, match=r"101 results were asked for; expected 1 to 100 with BM25"):
        searcher.search(["glass"], top=101, weight=0.5)
    with pytest.raises(TokayError, match=r"the weight of BM25 is nan; expected 0 \(vectors alone\) to 1000"):
        searcher.search(["glass"], top=1, weight=math.nan)
    with pytest.raises(TokayError, match=r"no passage and no document with the id 'd33'; did you mean 'd3'"):
        searcher.search(["glass"], top=1, ids=["d33"])
    with pytest.raises(TokayError, match=r"the query vectors have 3 numbers, and .* holds vectors of 16"):
        searcher.index.rank(np.ones((1, 3), np.float32), 1)


def test_two_processes_do_not_write_one_index(tmp_path: Path) -> None:
    index(tmp_path / "index", some(5))
    code = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "index" / LOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(TokayError, match="another process is writing"):
            index(tmp_path / "index", some(5))
        other.communicate(b"\n")


def test_a_run_is_no_folder_for_an_index(tmp_path: Path) -> None:
    with Run(tmp_path / "run", writable=True):
        pass
    with pytest.raises(TokayError, match="holds other files and is no index folder; name a new or empty folder"):
        index(tmp_path / "run", some(5))
    index(tmp_path / "index", some(5))
    with pytest.raises(TokayError, match="holds other files and is no run folder"):
        Run(tmp_path / "index", writable=True)


def test_making_an_index_and_searching_it_needs_no_torch(tmp_path: Path) -> None:
    index(tmp_path / "index", some(9), Shape(search="binary"))
    code = f"""
import sys
from pathlib import Path
sys.modules.update(torch=None, transformers=None)
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_indexing import PLAIN, answers, index, some
from tokay import finder
print(index(Path(sys.argv[1]), some(9)).kept)
print(answers(Path(sys.argv[1])))
"""
    words = [sys.executable, "-c", code, tmp_path / "index"]
    printed = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    assert printed == f"9\n{answers(tmp_path / 'index')}\n"


def test_reading_an_index_loads_no_torch() -> None:
    code = "import sys, tokay.indexing, tokay.search.index, tokay.finder; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


def test_the_language_and_the_weight_stay_that_were_asked_for(tmp_path: Path) -> None:
    out, plain = tmp_path / "asked" / "index", tmp_path / "plain" / "index"
    index(plain, some(30))
    asked = index(out, some(30), dataclasses.replace(PLAIN, language="german", weight=0.25)).header
    assert (asked.hybrid.language, asked.hybrid.weight) == ("german", 0.25)
    assert Index.open(out).words.language == "german"
    assert not index(out, some(30)).changed
    assert index(out, some(40)).header.hybrid == asked.hybrid
    lighter = index(out, some(40), dataclasses.replace(PLAIN, weight=0.5))
    assert (lighter.encoded, lighter.header.hybrid.weight, lighter.header.hybrid.language) == (0, 0.5, "german")
    again = index(out, some(40), dataclasses.replace(PLAIN, language="auto")).header
    assert again.hybrid.language == index(plain, some(40)).header.hybrid.language
