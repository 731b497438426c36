"""tokay train RUN --keep-passages: each form, what reads it, the vectors that are brought, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import call
from tiny import WORDS, tiny_base
from tokay.errors import TokayError
from tokay.indexing import Shape, update_index
from tokay.keeping import read_material, train_query_side
from tokay.models.dense import read_matrix
from tokay.models.embedder import Embedder
from tokay.models.space import vector_space
from tokay.models.torch_embedder import TorchEmbedder
from tokay.models.two_sides import DENSE
from tokay.records import Candidate, Document, Failure, Judgment, Passage, Query, sha256_text
from tokay.search.index import Index, Searcher
from tokay.settings import Settings, resolve
from tokay.store import Run, StageOutput
from tokay.tuning import settings_for
from tokay.vectors import encode_corpus

DOCUMENTS = 12
FORMS = ("map", "tower", "table")


def texts() -> dict[str, str]:
    """Four passages of each document, of words of its own."""
    rng = np.random.default_rng(0)
    return {f"d{d:02d}/{i}": " ".join(rng.choice(WORDS, 6, replace=False)) for d in range(DOCUMENTS) for i in range(4)}


def in_other_words(text: str, at: int) -> str:
    """Four words of a text, each by the one that stands for it in queries."""
    return " ".join(WORDS[(WORDS.index(word) + 50) % len(WORDS)] for word in text.split()[at : at + 4])


def make_run(folder: Path, *, judged: bool = True) -> Path:
    """A run that came to its judgments: three queries a passage, the last two documents held out."""
    passages = [Passage(i, i.split("/")[0], "", text, sha256_text(text), "here") for i, text in texts().items()]
    side = {f"d{d:02d}": "test" if d >= DOCUMENTS - 3 else "train" for d in range(DOCUMENTS)}
    queries = [
        Query(f"{p.passage_id}#{k}", p.passage_id, "", in_other_words(p.text, k), side[p.document_id], True, "", "")  # type: ignore[arg-type]
        for p in passages
        for k in range(3)
    ]
    base = tiny_base()
    settings = resolve({"documents": "docs", "base": str(base)}, overrides=["split.seen_share=0.2"])

    def corpus(out: StageOutput) -> None:
        out.write("passages", Passage, passages)

    def split(out: StageOutput) -> None:
        out.write("documents", Document, [Document(d, part, 4) for d, part in side.items()])  # type: ignore[arg-type]

    def generate(out: StageOutput) -> None:
        out.write("queries", Query, queries)

    def vectors(out: StageOutput) -> None:
        out.write_json("cut", {"base": str(base), "cut": 64, "ndcg@10": {}})
        from tokay.progress import Silent

        encode_corpus(TorchEmbedder.load(base), iter(passages), len(passages), out.path / "base.npy", Silent())

    def judge(out: StageOutput) -> None:
        found = [Judgment(q.query_id, q.seed_id, 3, 1.0, True, "", "") for q in queries]
        out.write("judgments", Judgment, found)
        out.write("answered", Query, ())
        out.write("failures", Failure, ())

    def mine(out: StageOutput) -> None:
        out.write("candidates", Candidate, ())

    work = {"corpus": corpus, "split": split, "generate": generate, "vectors": vectors, "mine": mine, "judge": judge}
    with Run(folder, writable=True) as run:
        from tokay.settings import to_toml

        run.write_settings(to_toml(settings))
        for name, stage in work.items():
            if judged or name not in ("mine", "judge"):
                run.stage(name, stage, settings={}, reads=(), code=())
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


def settings_of(run: Path) -> Settings:
    return settings_for(str(run), {}, overrides=["evaluate.resamples=200"])


@pytest.fixture(scope="module")
def sides(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every form, trained once."""
    folder, settings = tmp_path_factory.mktemp("sides"), settings_of(run)
    for form in FORMS:
        material = read_material(str(run), settings, form=form)  # type: ignore[arg-type]
        train_query_side(material, settings, folder / form, form=form)  # type: ignore[arg-type]
    return {form: folder / form for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_both_sides_are_read_back_and_passages_are_as_before(sides: dict[str, Path], form: str) -> None:
    base, model = Embedder.load(tiny_base()), Embedder.load(sides[form])
    some = list(texts().values())[:5]
    np.testing.assert_array_equal(model.encode(some), base.encode(some))
    asked = model.encode(some, kind="query")
    assert not np.allclose(asked, base.encode(some, kind="query"), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(asked, axis=1), 1, atol=1e-5)
    alone = np.concatenate([model.encode([text], kind="search_query") for text in some])
    np.testing.assert_allclose(asked, alone, atol=1e-6)


@pytest.mark.reference
@pytest.mark.parametrize("form", FORMS)
def test_sentence_transformers_gives_the_same_vectors(sides: dict[str, Path], form: str) -> None:
    from sentence_transformers import SentenceTransformer

    ours, theirs = Embedder.load(sides[form]), SentenceTransformer(str(sides[form]), device="cpu")
    some = list(texts().values())[:9]
    np.testing.assert_allclose(ours.encode(some, kind="query"), theirs.encode_query(some), atol=1e-5)
    np.testing.assert_allclose(ours.encode(some, kind="passage"), theirs.encode_document(some), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_folder_says_what_came_of_it(sides: dict[str, Path], form: str) -> None:
    verdict = json.loads((sides[form] / "training" / "verdict.json").read_text())
    assert {name: found["queries"] for name, found in verdict.items()} == {"seen": 13, "unseen": 36}
    for found in verdict.values():
        assert found["comparison"]["difference"] == pytest.approx(found["tuned"]["ndcg@10"] - found["base"]["ndcg@10"])
    assert "| Held-out documents | 36 |" in (sides[form] / "README.md").read_text()


def index_of(folder: Path, model: Path, dim: int | None = None) -> Path:
    lines = [json.dumps({"_id": i, "text": text}) for i, text in texts().items()]
    (folder / "docs.jsonl").write_text("\n".join(lines))
    update_index(str(model), str(folder / "docs.jsonl"), folder / "index", Shape(dim))
    return folder / "index"


@pytest.mark.parametrize("form", FORMS)
def test_an_index_of_the_base_takes_the_query_side_and_encodes_nothing(
    sides: dict[str, Path], form: str, tmp_path: Path
) -> None:
    folder = index_of(tmp_path, tiny_base())
    before = np.array(Index.open(folder).vectors)
    index = Index.open(folder)
    model = index.load_model(sides[form])
    query = "alpha beta gamma"
    found = Searcher(index, model).search([query], top=3)[0]
    best = model.encode([query], kind="query") @ before.T
    assert [m.score for m in found] == pytest.approx(np.sort(best[0])[::-1][:3].tolist(), abs=1e-5)
    done = update_index(str(sides[form]), str(tmp_path / "docs.jsonl"), folder, Shape())
    assert (done.encoded, done.kept) == (0, len(before))
    np.testing.assert_array_equal(Index.open(folder).vectors, before)
    assert call("search", folder, query, "--json") == 0


def test_the_passage_cut_of_an_index_stays(sides: dict[str, Path], tmp_path: Path) -> None:
    folder = index_of(tmp_path, tiny_base())
    header = json.loads((folder / "index.json").read_text())
    sizes = sides["map"] / "document" / "sentence_bert_config.json"
    kept = sizes.read_text()
    sizes.write_text(json.dumps({"max_seq_length": 32}))
    try:
        done = update_index(str(sides["map"]), str(tmp_path / "docs.jsonl"), folder, Shape())
    finally:
        sizes.write_text(kept)
    assert (done.encoded, done.header.model.cut) == (0, header["model"]["cut"])


def test_vectors_of_another_space_are_refused(sides: dict[str, Path], tmp_path: Path) -> None:
    folder = index_of(tmp_path, tiny_base(seed=1))
    with pytest.raises(TokayError, match=r"holds vectors of the model .* is another one .* cannot be compared"):
        Index.open(folder).load_model(sides["map"])
    assert vector_space(sides["map"]) == vector_space(tiny_base()) == vector_space(sides["map"] / "document")


def test_a_model_that_was_tuned_whole_is_refused(sides: dict[str, Path], tmp_path: Path) -> None:
    tuned = TorchEmbedder.load(sides["tower"] / "query")
    tuned.save(tmp_path / "tuned")
    folder = index_of(tmp_path, tiny_base())
    with pytest.raises(TokayError, match="is another one"):
        Index.open(folder).load_model(tmp_path / "tuned")


@pytest.mark.parametrize("form", FORMS)
def test_a_server_encodes_each_side_by_its_own_and_says_the_space(
    sides: dict[str, Path], form: str, tmp_path: Path
) -> None:
    from fastapi.testclient import TestClient

    from tokay.serve import make_app
    from tokay.serve.start import load_indexes, load_models

    folder = index_of(tmp_path, tiny_base())
    update_index(str(sides[form]), str(tmp_path / "docs.jsonl"), folder, Shape())
    models = load_models([f"base={tiny_base()}", f"sides={sides[form]}", f"other={tiny_base(seed=1)}"])
    app = make_app(models, indexes=load_indexes([f"docs={folder}"]))
    text = "alpha beta gamma"
    with TestClient(app) as client:
        spaces = {entry["id"]: entry["vector_space"] for entry in client.get("/v1/models").json()["data"]}
        assert spaces["sides"] == spaces["base"] == vector_space(tiny_base()) != spaces["other"]
        for kind in ("query", "document"):
            body = {"model": f"sides:{kind}", "input": [text]}
            found = client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
            np.testing.assert_allclose(found, models["sides"].encode([text], kind=kind)[0], atol=2e-6)
        parts = [
            {"content": {"parts": [{"text": text}]}, "model": "models/sides", "taskType": task}
            for task in ("RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT", "RETRIEVAL_QUERY")
        ]
        both = client.post("/v1beta/models/sides:batchEmbedContents", json={"requests": parts}).json()["embeddings"]
        for row, kind in zip(both, ("query", "document", "query"), strict=True):
            np.testing.assert_allclose(row["values"], models["sides"].encode([text], kind=kind)[0], atol=2e-6)
        answer = client.post("/v1/search", json={"query": text, "top_k": 3}).json()["data"]
    expected = Searcher(Index.open(folder), models["sides"]).search([text], top=3)[0]
    assert [entry["id"] for entry in answer] == [match.passage.passage_id for match in expected]


def test_a_server_says_that_there_is_no_side_for_passages(run: Path, tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    from tokay.serve import make_app
    from tokay.serve.start import load_models

    np.save(tmp_path / "v.npy", other_vectors())
    material = read_material(str(run), settings_of(run), form="map", vectors=str(tmp_path / "v.npy"))
    train_query_side(material, settings_of(run), tmp_path / "side", form="map")
    with TestClient(make_app(load_models([str(tmp_path / "side")]))) as client:
        assert client.post("/v1/embeddings", json={"model": "side:query", "input": "alpha"}).status_code == 200
        refused = client.post("/v1/embeddings", json={"model": "side", "input": "alpha"})
    assert refused.status_code == 400
    assert "encodes queries alone" in refused.json()["error"]["message"]


def test_queries_by_a_table_load_no_torch(sides: dict[str, Path]) -> None:
    code = (
        "import sys\n"
        "from tokay import Embedder\n"
        "Embedder.load(sys.argv[1]).encode(['alpha'], kind='query')\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(sides["table"])], check=True)


def parquet(path: Path, ids: list[str], vectors: np.ndarray) -> Path:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), vectors.shape[1])
    pq.write_table(pa.table({"passage_id": ids, "vector": column}), path)
    return path


def own_vectors(run: Path) -> np.ndarray:
    return np.array(np.load(run / "vectors" / "base.npy"))


def other_vectors(width: int = 20) -> np.ndarray:
    """A space of another width: a turned and cut copy of another model's."""
    found = TorchEmbedder.load(tiny_base(seed=1)).encode(list(texts().values()))
    turned = found @ np.random.default_rng(0).normal(size=(32, width))
    return np.asarray(turned / np.linalg.norm(turned, axis=1, keepdims=True), np.float32)


def test_the_files_that_vectors_come_in_give_the_same_map(run: Path, sides: dict[str, Path], tmp_path: Path) -> None:
    ids, vectors, settings = list(texts()), own_vectors(run), settings_of(run)
    turned = np.random.default_rng(1).permutation(len(ids))
    more = np.concatenate([vectors[turned], vectors[:1]])
    parquet(tmp_path / "v.parquet", [*(ids[i] for i in turned), "not of the run"], more)
    np.savez(tmp_path / "v.npz", ids=np.array(ids), vectors=vectors)
    np.save(tmp_path / "v.npy", vectors)
    for name in ("v.parquet", "v.npz", "v.npy"):
        material = read_material(str(run), settings, form="map", vectors=str(tmp_path / name))
        assert material.same
        train_query_side(material, settings, tmp_path / name.replace(".", "-"), form="map")
        made = read_matrix(tmp_path / name.replace(".", "-") / DENSE)
        np.testing.assert_allclose(made, read_matrix(sides["map"] / DENSE), atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_queries_into_the_space_of_another_width(run: Path, form: str, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", other_vectors())
    settings = settings_of(run)
    material = read_material(str(run), settings, form=form, vectors=str(tmp_path / "v.npy"))  # type: ignore[arg-type]
    train_query_side(material, settings, tmp_path / "side", form=form)  # type: ignore[arg-type]
    model = Embedder.load(tmp_path / "side")
    assert model.encode(["alpha"], kind="query").shape == (1, 20)
    message = "encodes queries alone: the passages' vectors came from a file"
    with pytest.raises(TokayError, match=message):
        model.encode(["alpha"])
    verdict = json.loads((tmp_path / "side" / "training" / "verdict.json").read_text())
    assert verdict["seen"]["tuned"]["ndcg@10"] > verdict["seen"]["base"]["ndcg@10"]


@pytest.mark.reference
def test_sentence_transformers_refuses_documents_without_a_side_for_them(run: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    np.save(tmp_path / "v.npy", other_vectors())
    settings = settings_of(run)
    material = read_material(str(run), settings, form="tower", vectors=str(tmp_path / "v.npy"))
    train_query_side(material, settings, tmp_path / "side", form="tower")
    theirs = SentenceTransformer(str(tmp_path / "side"), device="cpu")
    ours = Embedder.load(tmp_path / "side")
    np.testing.assert_allclose(ours.encode(["alpha"], kind="query"), theirs.encode_query(["alpha"]), atol=1e-5)
    with pytest.raises(ValueError, match="document"):
        theirs.encode_document(["alpha"])


def test_an_apis_queries_give_a_matrix(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    asked = [q.query_id for q in Run(run, writable=False).table("generate", "queries", Query)]
    np.save(tmp_path / "v.npy", other_vectors())
    vectors = rng.normal(size=(len(asked), 20))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    parquet(tmp_path / "q.parquet", asked, vectors)
    words = ["--keep-passages", "--vectors", tmp_path / "v.npy", "--query-vectors", tmp_path / "q.parquet"]
    assert call("train", run, *words, "--out", tmp_path / "side", "--set", "evaluate.resamples=200") == 0
    said = capsys.readouterr().out
    assert "documents with queries in training" in said
    assert "held-out documents" in said
    assert read_matrix(tmp_path / "side" / DENSE).shape == (20, 20)
    with pytest.raises(TokayError, match="holds a matrix for the query vectors of another model, and reads no text"):
        Embedder.load(tmp_path / "side")


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(run: Path, path: Path) -> str:
    with pytest.raises(TokayError) as raised:
        read_material(str(run), settings_of(run), form="map", vectors=str(path))
    return str(raised.value)


def test_a_vector_file_that_does_not_fit(run: Path, tmp_path: Path) -> None:
    ids, good = list(texts()), own_vectors(run)
    v = tmp_path / "v.npy"
    np.save(v, good[:40])
    assert refused(run, v) == (
        f"--vectors {v} has 40 rows without ids, and the run has 48 passages; expected one row for each, in their "
        "order, or a file with ids"
    )
    np.save(v, good[0])
    assert refused(run, v) == (
        f"--vectors {v} holds numbers of type float32 and shape (32,); expected floats, (texts, width)"
    )
    bad = good.copy()
    bad[5, 3] = np.nan
    np.save(v, bad)
    assert refused(run, v) == (
        f"--vectors {v}: the vector of 'd01/1' holds NaN or infinity (1 of 48 do); have it encoded again"
    )
    np.save(v, good * 3)
    assert refused(run, v) == (
        f"--vectors {v}: the vector of 'd00/0' has the length 3; expected 1, as cosines are compared: divide each "
        "vector by its length"
    )
    p = parquet(tmp_path / "v.parquet", [f"x{i}" for i in range(48)], good)
    assert refused(run, p) == (
        f"--vectors {p} is of another corpus: none of its 48 ids, such as 'x0', is one of the run's 48 passages, such "
        "as 'd00/0'"
    )
    parquet(p, ids[:-2], good[:-2])
    assert refused(run, p) == (f"--vectors {p} has no vector for 2 of the run's 48 passages, such as 'd11/2'; add them")
    parquet(p, [*ids[:-1], ids[0]], good)
    assert refused(run, p) == f"--vectors {p} has more than one vector of 'd00/0'; expected one an id"
    pq.write_table(pa.table({"passage_id": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}), p)
    assert refused(run, p) == (
        f"--vectors {p} cannot be read as .parquet: vectors have 1 to 2 numbers; all must have as many; "
        "docs/keep-index.md has the format"
    )
    pq.write_table(pa.table({"name": ["a"], "vector": [[1.0]]}), p)
    assert refused(run, p) == (
        f"--vectors {p} cannot be read as .parquet: it has the columns name, vector; expected one of passage_id, "
        "query_id, id, _id; docs/keep-index.md has the format"
    )
    n = tmp_path / "v.npz"
    np.savez(n, ids=np.array(ids[:3]), vectors=good)
    assert refused(run, n) == f"--vectors {n} has 3 ids and 48 vectors; expected one vector an id"


def test_a_file_of_another_format(run: Path, tmp_path: Path) -> None:
    c = tmp_path / "v.csv"
    c.write_text("a,b\n")
    assert refused(run, c) == (
        f"--vectors {c} is no file of vectors that Tokay reads; expected .parquet (columns id and vector), .npz (arrays "
        "ids and vectors) or .npy (vectors alone)"
    )
    n = tmp_path / "v.npy"
    assert refused(run, n) == f"--vectors {n} cannot be read: No such file or directory"
    n.write_bytes(b"not numpy at all")
    assert refused(run, n).startswith(f"--vectors {n} cannot be read as .npy: ")


def test_query_vectors_of_another_width(run: Path, tmp_path: Path) -> None:
    asked = [q.query_id for q in Run(run, writable=False).table("generate", "queries", Query)]
    np.save(tmp_path / "v.npy", other_vectors())
    parquet(tmp_path / "q.parquet", asked, np.eye(5)[np.zeros(len(asked), int)])
    files = {"vectors": str(tmp_path / "v.npy"), "query_vectors": str(tmp_path / "q.parquet")}
    message = "--query-vectors has vectors of 5 numbers, and --vectors of 20; expected both of one model"
    with pytest.raises(TokayError, match=message):
        read_material(str(run), settings_of(run), form="map", **files)


def test_a_run_without_judgments(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", judged=False)
    with pytest.raises(TokayError) as raised:
        read_material(str(run), settings_of(run), form="map")
    assert str(raised.value) == (
        f"{run} has no judgments, which the query side is trained on; run 'tokay distill … --out {run}' to the end"
    )


@pytest.mark.parametrize(
    ("form", "says"), [("map", "5 strengths"), ("tower", "steps, about"), ("table", "a table that learns from it")]
)
def test_a_plan_writes_nothing(form: str, says: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    assert call("train", run, "--keep-passages", "--plan", "--query-side", form) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert says in said
    assert "training queries, against" in said
    assert sorted(run.rglob("*")) == before


def test_options_that_do_not_go_together(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(*words: object) -> str:
        assert call("train", run, "--out", tmp_path / "x", *words) == 1
        return " ".join(capsys.readouterr().err.split())

    keep = "--keep-passages"
    assert says("--vectors", "v.npy").endswith(
        "--query-side, --vectors and --query-vectors go with --keep-passages; add it"
    )
    assert "--query-side is 'maps'; expected one of map, tower, table; did you mean 'map'?" in says(
        keep, "--query-side", "maps"
    )
    assert "--query-vectors are of the model that made --vectors; name that file too" in says(
        keep, "--query-vectors", "q.npy"
    )
    assert "--query-vectors fit a map, and --query-side is tower, which reads text; leave one of them out" in says(
        keep, "--query-vectors", "q.npy", "--vectors", "v.npy", "--query-side", "tower"
    )
    assert "takes no --soup or --dev" in says(keep, "--soup", "0.5")
    assert call("train", tmp_path / "mixture.toml", keep, "--out", tmp_path / "x") == 1
    assert "--keep-passages needs a run, and" in " ".join(capsys.readouterr().err.split())


def test_a_base_whose_vectors_are_not_the_runs(run: Path) -> None:
    with pytest.raises(TokayError, match=r"/vectors holds vectors of another model than .*; leave --base out, or name"):
        read_material(str(run), settings_of(run), form="map", base=str(tiny_base(seed=1)))


def test_what_takes_one_side_alone_says_which_there_are(sides: dict[str, Path]) -> None:
    with pytest.raises(TokayError, match="has a side for queries and may have one for passages; for this, name"):
        TorchEmbedder.load(sides["tower"])
    with pytest.raises(TokayError, match="has a query side of its own, and no form for onnx; leave backend out"):
        Embedder.load(sides["tower"], backend="onnx")
    assert TorchEmbedder.load(sides["tower"] / "document").width == 32


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("query_side.json", "{}", r"query_side.json is damaged \('form'\); make the query side again"),
        ("query/3_Dense/model.safetensors", "x", "holds no matrix: .*; make the query side again"),
    ],
)
def test_a_damaged_folder(sides: dict[str, Path], tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = shutil.copytree(sides["map"], tmp_path / "side")
    (folder / name).write_text(text)
    with pytest.raises(TokayError, match=message):
        Embedder.load(folder)


def test_an_index_of_fewer_numbers_takes_queries_cut_as_it_is(sides: dict[str, Path], tmp_path: Path) -> None:
    folder = index_of(tmp_path, tiny_base(), dim=16)
    index, model = Index.open(folder), Embedder.load(sides["map"])
    found = Searcher(index, index.load_model(sides["map"])).search(["alpha beta"], top=1)[0][0]
    best = (model.encode(["alpha beta"], kind="query", dim=16) @ np.asarray(index.vectors).T).max()
    assert found.score == pytest.approx(best, abs=1e-5)
