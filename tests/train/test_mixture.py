"""Mixtures: every kind's rows by hand, what a limit keeps, and that bad input is one sentence before training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.errors import TokayError
from tokay.records import Example, Passage, sha256_text
from tokay.store import Run
from tokay.tables import open_table
from tokay.train.mixture import Source, read_mixture

DOCS = Path(__file__).parents[2] / "docs" / "mixture.md"


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def mixture(folder: Path, *sources: str, seed: int = 0) -> tuple[Source, ...]:
    path = folder / "mix.toml"
    path.write_text("".join(f"[[source]]\n{source}\n" for source in sources))
    return read_mixture(path, seed=seed)


def one(folder: Path, kind: str, file: str, more: str = "", *, seed: int = 0) -> Source:
    (source,) = mixture(folder, f'name = "s"\nkind = "{kind}"\npath = "{file}"\n{more}', seed=seed)
    return source


def said(source: Source) -> list[tuple[str, str, list[str]]]:
    """Rows by their texts."""
    return [
        (row.query, source.texts[row.positive_id][1], [source.texts[n][1] for n in row.negative_ids])
        for row in source.rows
    ]


# -- pairs ----------------------------------------------------------------------------------------------------------


def test_pairs_have_their_negatives_and_equal_texts_are_one(tmp_path):
    jsonl(
        tmp_path / "p.jsonl",
        {"question": "how?", "answer": "so", "negative_1": "not so", "negative_2": "", "label": 1},
        {"question": "why?", "answer": "so", "negative_1": "thus", "negative_2": "there", "label": 0},
        {"question": "how?", "answer": "thus", "negative_1": "so", "negative_2": "then"},
        {"question": "how?", "answer": "so"},
        {"question": "so", "answer": "so"},
    )
    source = one(tmp_path, "pairs", "p.jsonl")
    assert said(source) == [
        ("how?", "so", ["not so"]),
        ("why?", "so", ["thus", "there"]),
        ("how?", "thus", ["then"]),  # "so" answers the same question in another row
    ]
    first, second, third = source.rows
    assert first.query_id == third.query_id != second.query_id
    assert first.positive_id == second.positive_id
    assert set(first.relevant_ids) == {first.positive_id, third.positive_id}
    assert {first.query_id[:3], first.positive_id[:2]} == {"s/q", "s/"}
    assert (first.task, source.symmetric, source.weight, source.share) == ("search result", False, 1.0, 0.0)
    assert source.skipped == {"pair that was there before": 1, "positive that is its query": 1}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    rows = [
        {"Query": "a b", "positive": 'with "quotes", and\na line', "negatives": "n"},
        {"Query": "é", "positive": "ü"},
    ]
    path = tmp_path / f"p.{suffix}"
    if suffix == "jsonl":
        jsonl(path, *rows)
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        sign = "," if suffix == "csv" else "\t"
        lines = [sign.join(["Query", "positive", "negatives"])]
        lines += [
            sign.join(f'''"{row.get(c, "").replace('"', '""')}"''' for c in ("Query", "positive", "negatives"))
            for row in rows
        ]
        path.write_text("\n".join(lines))
    source = one(tmp_path, "pairs", path.name)
    assert said(source) == [("a b", 'with "quotes", and\na line', ["n"]), ("é", "ü", [])]


def test_lists_of_positives_and_a_title(tmp_path):
    jsonl(tmp_path / "p.jsonl", {"query": "q", "pos": ["one", "two"], "neg": ["three", "four"], "title": "T"})
    columns = 'columns = { positive = "pos", negative = "neg", title = "title" }'
    source = one(tmp_path, "pairs", "p.jsonl", columns + "\nnegatives = 1")
    assert said(source) == [("q", "one", ["three"]), ("q", "two", ["three"])]
    assert source.texts[source.rows[0].positive_id] == ("T", "one")


def test_a_split_is_a_column_or_a_file(tmp_path):
    rows = [
        {"query": f"q{i}", "positive": f"p{i}", "split": split} for i, split in enumerate(["train", "dev", "train"])
    ]
    jsonl(tmp_path / "p.jsonl", *rows)
    assert [row.query for row in one(tmp_path, "pairs", "p.jsonl").rows] == ["q0", "q2"]
    assert [row.query for row in one(tmp_path, "pairs", "p.jsonl", 'split = "dev"').rows] == ["q1"]
    with pytest.raises(TokayError, match=r"no rows of the split 'test'; it has train, dev"):
        one(tmp_path, "pairs", "p.jsonl", 'split = "test"')
    (tmp_path / "set").mkdir()
    jsonl(tmp_path / "set" / "train.jsonl", rows[0])
    jsonl(tmp_path / "set" / "test.jsonl", rows[1])
    assert [row.query for row in one(tmp_path, "pairs", "set").rows] == ["q0"]
    with pytest.raises(TokayError, match=r"no tables of the split 'dev' \(test\.jsonl, train\.jsonl\)"):
        one(tmp_path, "pairs", "set", 'split = "dev"')


# -- nli ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [True, False])
def test_entailment_against_contradiction_of_the_same_premise(tmp_path, words):
    labels = ["entailment", "neutral", "contradiction"] if words else [0, 1, 2]
    table = [
        ("p", "e1", 0),
        ("p", "n", 1),
        ("p", "c1", 2),
        ("p", "e2", 0),
        ("p", "c2", 2),
        ("r", "c3", 2),
        ("t", "e3", 0),
    ]
    jsonl(tmp_path / "n.jsonl", *({"premise": p, "hypothesis": h, "label": labels[i]} for p, h, i in table))
    source = one(tmp_path, "nli", "n.jsonl")
    assert said(source) == [("p", "e1", ["c1"]), ("p", "e2", ["c2"]), ("t", "e3", [])]
    assert source.symmetric
    assert source.rows[0].task == "semantic similarity"
    assert len(source.rows[0].relevant_ids) == 2
    assert {text for _, text in source.texts.values()} == {"e1", "e2", "e3", "c1", "c2"}
    assert source.skipped == {
        "pair that is neither entailed nor contradicted": 1,
        "premise without an entailed hypothesis": 1,
    }
    assert said(one(tmp_path, "nli", "n.jsonl", "negatives = 2"))[0] == ("p", "e1", ["c1", "c2"])


def test_two_classes_of_entailment_give_no_negatives(tmp_path):
    rows = [("p", "e", "entailment", 0), ("p", "n", "not_entailment", 1), ("r", "f", "Entailment", 0)]
    pq.write_table(
        pa.Table.from_pylist([{"sentence1": p, "sentence2": h, "label_text": w, "label": i} for p, h, w, i in rows]),
        tmp_path / "n.parquet",
    )
    assert said(one(tmp_path, "nli", "n.parquet")) == [("p", "e", []), ("r", "f", [])]


# -- classification -------------------------------------------------------------------------------------------------


def classes(folder: Path, sizes: dict[str, int]) -> None:
    rows = [{"text": f"{label} text {i}", "label": label} for label, size in sizes.items() for i in range(size)]
    jsonl(folder / "c.jsonl", *rows)


@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5).filter(lambda s: max(s) > 1), seed=st.integers(0, 99))
def test_a_positive_is_of_the_class_and_a_negative_is_not(tmp_path_factory, sizes, seed):
    folder = tmp_path_factory.mktemp("classes")
    classes(folder, {f"c{i}": size for i, size in enumerate(sizes)})
    source = one(folder, "classification", "c.jsonl", "negatives = 2", seed=seed)
    assert len(source.rows) == sum(size for size in sizes if size > 1)
    for row in source.rows:
        own = row.query.split()[0]
        assert source.labels[row.query_id] == own
        assert source.texts[row.positive_id][1].split()[0] == own
        assert source.texts[row.positive_id][1] != row.query
        others = [source.texts[n][1] for n in row.negative_ids]
        assert all(text.split()[0] != own for text in others)
        assert len(set(others)) == len(others) == min(2, sum(sizes) - sizes[int(own[1:])])
        assert all(source.labels[p] == source.texts[p][1].split()[0] for p in (row.positive_id, *row.negative_ids))
    assert source == one(folder, "classification", "c.jsonl", "negatives = 2", seed=seed)


@pytest.mark.parametrize("way", ["ids", "both"])
def test_geckos_number_is_on_all_texts_of_a_row_and_on_no_other(tmp_path, way):
    classes(tmp_path, {"a": 3, "b": 2})
    source = one(tmp_path, "classification", "c.jsonl", f'false_negatives = "{way}"')
    for number, (row, (query, positive, (negative,))) in enumerate(zip(source.rows, said(source), strict=True)):
        assert {text.rpartition(" #")[2] for text in (query, positive, negative)} == {str(number)}
        assert not source.labels or source.labels[row.positive_id] == positive[0] == source.labels[row.query_id]
    assert bool(source.labels) == (way == "both")


def test_singles_and_repeated_texts_are_counted(tmp_path):
    table = [("x", 0), ("y", 0), ("x", 0), ("x", 1), ("z", 2)]
    jsonl(tmp_path / "c.jsonl", *({"text": text, "label": label} for text, label in table))
    source = one(tmp_path, "classification", "c.jsonl")
    assert said(source) == [("x", "y", ["z"]), ("y", "x", ["z"])]
    assert source.skipped == {
        "text that was there before": 1,
        "text that was there before, of another class": 1,
        "text that is the only one of its class": 1,
    }


# -- retrieval, texts, runs -----------------------------------------------------------------------------------------


def test_labelled_retrieval(tmp_path):
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    jsonl(
        folder / "corpus.jsonl", *({"_id": f"d{i}", "title": "T" if i else "", "text": f"text {i}"} for i in range(5))
    )
    jsonl(folder / "queries.jsonl", {"_id": "a", "text": "first"}, {"_id": "b", "text": "second"})
    (folder / "qrels" / "train.tsv").write_text(
        "query-id\tcorpus-id\tscore\na\td0\t1\na\td1\t2\na\td2\t0\nb\td3\t1\nb\tgone\t1\n"
    )
    source = one(tmp_path, "retrieval", "beir", 'task = "fact checking"')
    assert said(source) == [("first", "text 0", ["text 2"]), ("first", "text 1", ["text 2"]), ("second", "text 3", [])]
    first = source.rows[0]
    assert (first.query_id, first.positive_id, first.task) == ("s/q/a", "s/d0", "fact checking")
    assert first.relevant_ids == ["s/d0", "s/d1"]
    assert source.texts["s/d1"] == ("T", "text 1")
    assert "s/d4" not in source.texts
    assert source.skipped == {"labels of unknown passages": 1}
    parts = 'queries = "beir/queries.jsonl"\nqrels = "beir/qrels/train.tsv"\nnegatives = 0'
    assert [row.negative_ids for row in one(tmp_path, "retrieval", "beir/corpus.jsonl", parts).rows] == [[], [], []]
    with pytest.raises(TokayError, match=r"is no BEIR folder; give the labels"):
        one(tmp_path, "retrieval", "beir/corpus.jsonl")


def test_texts_stand_alone(tmp_path):
    (tmp_path / "t.txt").write_text("one\n\n two \none\n")
    source = one(tmp_path, "texts", "t.txt")
    assert source.matched
    assert [source.texts[row.positive_id][1] for row in source.rows] == ["one", "two"]
    assert source.skipped == {"text that was there before": 1}


def run_folder(path: Path) -> None:
    def row(query: str, positive: str, part: Any, candidates: list[str]) -> Example:
        return Example(
            query,
            "find it",
            query,
            positive,
            positive,
            ["p2"],
            [positive],
            candidates,
            [3] * len(candidates),
            False,
            part,
        )

    passages = [Passage(f"p{i}", "d", "T", f"text {i}", sha256_text(f"text {i}"), "f") for i in range(5)]
    with Run(path, writable=True) as run:
        run.stage("corpus", lambda out: out.write("passages", Passage, passages) and None, settings={})
        rows = [row("q0", "p0", "train", ["p0", "p3"]), row("q1", "p1", "dev", ["p1"])]
        run.stage("examples", lambda out: out.write("examples", Example, rows) and None, settings={})


def test_a_runs_training_rows_keep_their_names(tmp_path):
    run_folder(tmp_path / "run")
    source = one(tmp_path, "run", "run")
    assert [row.query_id for row in source.rows] == ["q0"]
    assert source.texts == {p: ("T", f"text {p[1]}") for p in ("p0", "p2", "p3")}  # positive, negative, candidate
    assert source.rows[0].task == "find it"
    assert source.skipped == {"row of the dev part": 1}
    assert one(tmp_path, "run", "run", 'task = "search result"').rows[0].task == "search result"
    with pytest.raises(TokayError, match=r"source 's': .*nowhere is not a run folder"):
        one(tmp_path, "run", "nowhere")


# -- the mixture ----------------------------------------------------------------------------------------------------


def test_the_example_of_the_docs_is_read(tmp_path):
    jsonl(tmp_path / "p.jsonl", {"query": "a", "positive": "b"}, {"query": "c", "positive": "d"})
    pq.write_table(
        pa.Table.from_pylist([{"query": "a", "positive": "b", "kind": "title", "source": "x"}]),
        tmp_path / "pairs.parquet",
    )
    (tmp_path / "faq.csv").write_text("asked;answered\nhow?;so\n")
    jsonl(tmp_path / "intents.jsonl", *({"text": f"t{i}", "label": i % 2} for i in range(4)))
    (tmp_path / "nli").mkdir()
    jsonl(tmp_path / "nli" / "train.jsonl", {"premise": "p", "hypothesis": "h", "label": 0})
    (tmp_path / "sentences.txt").write_text("one\ntwo\n")
    blocks = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "mix.toml").write_text(blocks[0])
    sources = {source.name: source for source in read_mixture(tmp_path / "mix.toml")}
    assert list(sources) == ["titles", "questions", "intents", "entailment", "general"]
    assert [(s.weight, s.share) for s in sources.values()] == [(0.5, 0), (1, 0), (1, 0.1), (1, 0), (1, 0.1)]
    assert sources["questions"].rows[0].task == "question answering"
    (tmp_path / "mix.toml").write_text(blocks[1])
    assert len(read_mixture(tmp_path / "mix.toml")) == 1


@given(limit=st.integers(1, 12), seed=st.integers(0, 3))
def test_a_limit_keeps_some_rows_and_their_texts(tmp_path_factory, limit, seed):
    folder = tmp_path_factory.mktemp("limit")
    classes(folder, {"a": 5, "b": 4})
    everything = one(folder, "classification", "c.jsonl", seed=seed)
    some = one(folder, "classification", "c.jsonl", f"limit = {limit}", seed=seed)
    assert len(some.rows) == min(limit, 9)
    assert [row for row in everything.rows if row in some.rows] == list(some.rows)
    assert some.texts.keys() == {p for row in some.rows for p in (row.positive_id, *row.negative_ids)}
    assert some.labels.items() <= everything.labels.items()


PAIR = '{"query": "q", "positive": "p"}'


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[[source", "mix.toml is not TOML"),
        ("", "names no source"),
        ("source = 3", "names no source"),
        ("[source]\nname = 's'", "names no source"),
        ("[[sources]]\nname = 's'", "unknown key 'sources'; known here: source; did you mean 'source'?"),
        ("[[source]]\nkind = 'pairs'", "source 1: key 'name' is missing; key 'path' is missing"),
        ("[[source]]\nname = 's'\nkind = 'pears'\npath = 'p.jsonl'", "key 'kind' is 'pears'; expected 'run', 'pairs', .*'texts'; did you mean 'pairs'"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'p.jsonl'\nwieght = 2", "source 's': unknown key 'wieght'.*did you mean 'weight'"),
        ("[[source]]\nname = 'a b'\nkind = 'pairs'\npath = 'p.jsonl'", "name' is 'a b'; expected text like"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'p.jsonl'\nweight = 0", "'weight' is 0; expected a number above 0"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'p.jsonl'\nweight = nan", "'weight' is nan; expected a finite number"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'p.jsonl'\nweight = '1'", "'weight' is '1'; expected a number above 0"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'p.jsonl'\nshare = 1", "'share' is 1; expected a number above 0 and below 1"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'p.jsonl'\nshare = 0.1\nweight = 1", "has a weight and a share"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'p.jsonl'\nfalse_negatives = 'ids'", "kind 'pairs' has no false_negatives"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'p.jsonl'\n" * 2, "several sources are called 's'"),
        ("".join(f"[[source]]\nname = '{n}'\nkind = 'pairs'\npath = 'p.jsonl'\nshare = 0.5\n" for n in "ab"), "shares add up to 1;"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'gone.jsonl'", r"source 's': there is no file .*gone\.jsonl"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'mix.toml'", "is of another kind"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'p.jsonl'\nsplit = 'dev'", "no column 'split', so no split 'dev'"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'p.jsonl'\ncolumns = { quary = 'q' }", "columns names 'quary', which is not read here; known: query, positive, negative, title; did you mean 'query'"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'p.jsonl'\ncolumns = { query = 'q' }", "has the columns query, positive; query = 'q' is not among them$"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'p.jsonl'\ncolumns = { query = 'Querry' }", "'Querry' is not among them; did you mean 'query'"),
        ("[[source]]\nname = 's'\nkind = 'nli'\npath = 'p.jsonl'", r"has the columns query, positive; expected one for the premise \(premise, sentence1\)"),
        ("[[source]]\nname = 's'\nkind = 'pairs'\npath = 'hf:'", "names no dataset"),
    ],
)  # fmt: skip
def test_a_bad_mixture_is_one_sentence(tmp_path, toml, message):
    (tmp_path / "p.jsonl").write_text(PAIR + "\n")
    (tmp_path / "mix.toml").write_text(toml)
    with pytest.raises(TokayError, match=message) as caught:
        read_mixture(tmp_path / "mix.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "lines", "message"),
    [
        ("pairs", [], "f.jsonl is empty"),
        ("pairs", ["{"], "f.jsonl line 1: not JSON: Expecting property name enclosed in double quotes at column 2$"),
        ("pairs", [PAIR, '{"a" 1}'], "f.jsonl line 2: not JSON: Expecting ':' delimiter at column 6$"),
        ("pairs", [PAIR, '{"a": "b'], "f.jsonl line 2: not JSON: Unterminated string starting at column 7$"),
        ("pairs", [PAIR, "[1]"], "line 2: not a JSON object but of type list"),
        ("pairs", [PAIR, '{"query": "q"}', '{"query": "r", "positive": null}', '{"query": "q", "positive": " "}'], r"line 2: the positive is missing \(2 rows, first 2, 3\); line 4: the positive is empty; mend"),
        ("pairs", ['{"query": 3, "positive": "p"}'], "line 1: the query is of type int, not text"),
        ("pairs", ['{"query": NaN, "positive": "p"}'], "line 1: the query is NaN"),
        ("pairs", ['{"query": "q", "positive": ["p", 4]}'], "line 1: the positive is of type int"),
        ("pairs", ['{"query": "q", "answer": "p", "text": "t"}'], "columns query, answer, text; answer, text could each be the positive"),
        ("pairs", ['{"query": "q", "positive": "q"}'], "not one row to train on: 1 times positive that is its query"),
        ("nli", ['{"premise": "p", "hypothesis": "h", "label": "perhaps"}'], "line 1: the label is 'perhaps', not entailment"),
        ("nli", ['{"premise": "p", "hypothesis": "h", "label": NaN}'], "line 1: the label is NaN"),
        ("nli", ['{"premise": "p", "hypothesis": "h", "label": 1}'], "not one row to train on: 1 times pair that is neither"),
        ("classification", ['{"text": "a", "label": 1}', '{"text": "b", "label": 1}'], "has one class in column 'label', '1'"),
        ("classification", ['{"text": "a", "label": 1}', '{"text": "b", "label": 2}'], "as many classes in column 'label' as texts"),
        ("classification", ['{"text": "a", "label": 1}', '{"text": "b"}'], "line 2: the label is missing"),
        ("texts", ['{"text": ""}', '{"text": "a"}'], "line 1: the text is empty"),
    ],
)  # fmt: skip
def test_bad_rows_are_one_sentence_with_line_and_count(tmp_path, kind, lines, message):
    jsonl(tmp_path / "f.jsonl", *lines)
    with pytest.raises(TokayError, match=message) as caught:
        one(tmp_path, kind, "f.jsonl")
    assert "\n" not in str(caught.value)
    assert "mix.toml, source 's': " in str(caught.value)


def test_an_error_does_not_list_thousands_of_faults(tmp_path):
    rows = [{"premise": "p", "hypothesis": "h", "label": f"other {i}"} for i in range(100)]
    jsonl(tmp_path / "f.jsonl", *rows)
    with pytest.raises(TokayError, match=r"line 3: .*; and 97 faults of other kinds; mend") as caught:
        one(tmp_path, "nli", "f.jsonl")
    assert len(str(caught.value)) < 600


def test_tables_that_cannot_be_read(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no")
    with pytest.raises(TokayError, match=r"a\.parquet cannot be read as Parquet"):
        open_table(str(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "b.parquet")
    with pytest.raises(TokayError, match=r"b\.parquet is empty"):
        open_table(str(tmp_path / "b.parquet"))
    (tmp_path / "c.csv").write_text("")
    with pytest.raises(TokayError, match=r"c\.csv is empty"):
        open_table(str(tmp_path / "c.csv"))
    (tmp_path / "d.csv").write_text("query,positive\na,b\nc,d,e\n")
    with pytest.raises(TokayError, match=r"d\.csv line 3: 3 cells under 2 columns"):
        list(open_table(str(tmp_path / "d.csv")).read(["query"]))
    (tmp_path / "e.csv").write_bytes(b"query,positive\na,caf\xe9\n")
    with pytest.raises(TokayError, match=r"e\.csv is not UTF-8"):
        list(open_table(str(tmp_path / "e.csv")).read(["query"]))
