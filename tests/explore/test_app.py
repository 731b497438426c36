"""The page's JSON over a real socket: lists, a query's page, decisions, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokay
from exploring import exploring, opened
from made_run import made_run
from tokay.examples import same_side
from tokay.explore import searching
from tokay.records import Candidate, Example, Judgment, Passage, Query


def everything(client: httpx.Client, path: str, **asked: Any) -> list[dict[str, Any]]:
    """All pages of a list."""
    rows, after = [], ""
    while True:
        found = client.get(path, params={**asked, "after": after, "size": 7}).json()
        rows += found["rows"]
        if not after:
            count = found["count"]
        after = found["next"]
        if not after:
            assert len(rows) == count
            return rows


def refused(answer: httpx.Response, status: int) -> str:
    """One sentence, in JSON."""
    assert answer.status_code == status, answer.text
    message = answer.json()["error"]["message"]
    assert isinstance(message, str)
    assert "\n" not in message
    return message


# -- lists ------------------------------------------------------------------------------------------------------------


def test_pages_of_a_list_are_the_list(client: httpx.Client, made: Path) -> None:
    run = tokay.open_run(made)
    ids = [p.passage_id for p in run.table("corpus", "passages", Passage)]
    assert [row["passage_id"] for row in everything(client, "/api/passages")] == ids
    assert [row["query_id"] for row in everything(client, "/api/queries")] == [
        q.query_id for q in run.table("generate", "queries", Query)
    ]
    assert len(everything(client, "/api/pairs")) == sum(1 for _ in run.table("mine", "candidates", Candidate))


def test_filters_say_what_the_tables_say(client: httpx.Client, made: Path) -> None:
    run = tokay.open_run(made)
    examples = list(run.table("examples", "examples", Example))
    queries = list(run.table("generate", "queries", Query))
    positives = {e.positive_id for e in examples}
    assert {r["passage_id"] for r in everything(client, "/api/passages", use="positive")} == positives
    held = {q.query_id for q in queries if q.part == "test"}
    assert {r["query_id"] for r in everything(client, "/api/queries", part="test")} == held
    without = {q.query_id for q in queries} - {e.query_id for e in examples}
    assert {r["query_id"] for r in everything(client, "/api/queries", state="no row")} == without
    grades = [j for j in run.table("judge", "judgments", Judgment) if j.grade == 2]
    assert len(everything(client, "/api/pairs", grade="2")) == len(grades)
    odd = everything(client, "/api/pairs", odd="near but wrong")
    assert odd
    assert all(row["grade"] == 0 and 1 <= row["base_rank"] <= 3 for row in odd)
    assert {r["document_id"] for r in everything(client, "/api/passages", document="d3")} == {"d3"}
    assert client.get("/api/documents", params={"text": "d1"}).json()["documents"][0] == "d1"
    assert client.get("/api/documents", params={"text": "%"}).json()["documents"] == []


def test_queries_are_sorted_by_what_tuning_gained(client: httpx.Client) -> None:
    worst = [row["gain"] for row in everything(client, "/api/queries", sort="losses")]
    assert worst == sorted(worst)
    assert len(worst) > 3
    assert [row["gain"] for row in everything(client, "/api/queries", sort="wins")] == sorted(worst, reverse=True)


def test_words_and_filters_together(client: httpx.Client, made: Path) -> None:
    passages = list(tokay.open_run(made).table("corpus", "passages", Passage))
    word = passages[-1].text.split()[0]
    there = {p.passage_id for p in passages if word in p.text.split()}
    found = {r["passage_id"] for r in everything(client, "/api/passages", text=f'"{word}"')}
    assert there <= found
    part = {r["passage_id"] for r in everything(client, "/api/passages", text=f'"{word}"', part="test")}
    assert part <= found
    assert client.get("/api/passages", params={"text": "***"}).json()["count"] == 0
    assert everything(client, "/api/passages", text="全文検索")[0]["passage_id"] == "p7"
    asked = everything(client, "/api/queries")[-1]
    pairs = everything(client, "/api/pairs", text=f'"{asked["query_id"]}"')
    assert asked["query_id"] in {row["query_id"] for row in pairs} or asked["candidates"] == 0


@pytest.mark.parametrize(
    ("path", "asked", "told"),
    [
        ("/api/passages", {"part": "all"}, "filter 'part' is 'all'; expected "),
        ("/api/passages", {"colour": "red"}, "unknown filter 'colour'; known here: "),
        (
            "/api/queries",
            {"size": "1000"},
            "filter 'size' is '1000'; expected a whole number of at least 1 and at most 200",
        ),
        ("/api/queries", {"sort": "losses", "after": "x_y"}, "filter 'after' is 'x_y'; expected text like "),
        ("/api/queries", {"sort": "losses", "after": "--_1"}, "filter 'after' is '--'"),
        ("/api/pairs", {"grade": "4"}, "filter 'grade' is '4'; expected "),
    ],
)
def test_a_filter_that_is_none_is_told(client: httpx.Client, path: str, asked: dict[str, str], told: str) -> None:
    assert refused(client.get(path, params=asked), 400).startswith(told)


@settings(max_examples=40)
@given(st.text(max_size=40))
def test_nothing_that_is_typed_breaks_a_list(typed: str) -> None:
    for path in ("/api/passages", "/api/queries", "/api/pairs"):
        answer = shared().get(path, params={"text": typed})
        assert answer.status_code == 200, answer.text


_SHARED: list[httpx.Client] = []


def shared() -> httpx.Client:
    return _SHARED[0]


@pytest.fixture(scope="module", autouse=True)
def _one_page(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with exploring(made, tmp_path_factory.mktemp("shared")) as address, opened(address) as client:
        _SHARED[:] = [client]
        yield


# -- one passage, one query ---------------------------------------------------------------------------------------------


def test_a_long_text_comes_in_parts(client: httpx.Client) -> None:
    first = client.get("/api/passages/8").json()["text"]
    assert (first["of"], len(first["text"])) == (1_050_000, first["limit"])
    second = client.get("/api/passages/8", params={"start": first["limit"]}).json()["text"]
    assert second["start"] == first["limit"]
    assert all(len(row["text"]) < 300 for row in client.get("/api/passages").json()["rows"])


def test_what_a_reader_would_not_see_is_marked(client: httpx.Client) -> None:
    text = "".join(row["title"] + row["text"] for row in client.get("/api/passages").json()["rows"])
    assert not {*"\x00\x07\x1b\u200b\u202e\u2066"} & {*text}
    assert "<script>" in text
    assert "مرحبا" in text


def test_a_query_says_why(client: httpx.Client, made: Path) -> None:
    run = tokay.open_run(made)
    examples = {e.query_id: e for e in reversed(list(run.table("examples", "examples", Example)))}
    for row in everything(client, "/api/queries"):
        page = client.get(f"/api/queries/{row['n']}").json()
        example = examples.get(row["query_id"])
        assert page["positive"] == (example.positive_id if example else "")
        assert page["changed"] is False
        assert page["why"]
        roles = {c["passage_id"]: c["role"] for c in page["candidates"]}
        if example and example.candidate_ids:
            assert roles[example.positive_id] == "positive"
            assert all(roles[p] == "negative" for p in example.negative_ids)
        if page["candidates"]:
            assert [c["ql_rank"] for c in page["candidates"] if "ql_rank" in c] == [1, 2, 3, 4, 5]
            assert page["candidates"][0]["said"].startswith("likelihood -10, relevance:3")


@pytest.mark.parametrize(
    "path",
    ["/api/queries/999", "/api/passages/40", "/api/queries/x", "/api/passages/-1", "/api/passages/99999999999999"],
)
def test_numbers_that_are_none_are_told(client: httpx.Client, path: str) -> None:
    assert refused(client.get(path), 404)


# -- decisions ----------------------------------------------------------------------------------------------------------


def decide(client: httpx.Client, n: int, action: str, **more: Any) -> httpx.Response:
    newest = client.get(f"/api/queries/{n}").json()["newest"]
    return client.post("/api/decisions", json={"query": n, "action": action, "after": newest, **more})


def judged(client: httpx.Client) -> dict[str, Any]:
    """A training query with a negative."""
    for row in everything(client, "/api/queries", part="train", state="judged"):
        page: dict[str, Any] = client.get(f"/api/queries/{row['n']}").json()
        if {c["role"] for c in page["candidates"]} >= {"positive", "negative"}:
            return page
    raise AssertionError("no such query")


def test_a_decision_is_a_record_shows_at_once_and_can_be_taken_back(client: httpx.Client, tmp_path: Path) -> None:
    page = judged(client)
    n = page["n"]
    other = next(c for c in page["candidates"] if c["role"] == "negative" and c["usable"])
    after = decide(client, n, "positive", passage=other["n"], why="it says so").json()
    assert (after["positive"], after["changed"], after["decided"]["word"]) == (other["passage_id"], True, "mended")
    assert after["why"] == "A person chose it as the answer."
    [run] = tmp_path.iterdir()
    [kept] = tokay.open_run(run).decisions()
    assert (kept.action, kept.query_id, kept.passage_id, kept.why) == (
        "positive",
        page["query_id"],
        other["passage_id"],
        "it says so",
    )
    assert kept.made
    assert [row["n"] for row in everything(client, "/api/queries", decided="mended")] == [n]
    assert client.get("/api/run").json()["decided"]["queries"] == 1
    back = decide(client, n, "undo").json()
    assert {k: v for k, v in back.items() if k != "newest"} == {k: v for k, v in page.items() if k != "newest"}
    assert len(client.get("/api/decisions").json()["decisions"]) == 2
    assert "all of it was undone" in refused(decide(client, n, "undo"), 400)


def test_grades_accepting_and_rejecting(client: httpx.Client) -> None:
    page = judged(client)
    n, positive = page["n"], next(c for c in page["candidates"] if c["role"] == "positive")
    accepted = decide(client, n, "accept").json()
    assert (accepted["decided"]["word"], accepted["positive"], accepted["why"]) == (
        "accepted",
        page["positive"],
        "A person accepted it.",
    )
    lower = decide(client, n, "grade", passage=positive["n"], grade=1).json()
    found = next(c for c in lower["candidates"] if c["n"] == positive["n"])
    assert (found["grade"], found["judge"], found["by_hand"], found["role"] == "positive") == (
        1,
        positive["grade"],
        True,
        False,
    )
    rejected = decide(client, n, "reject").json()
    assert (rejected["decided"]["word"], rejected["positive"]) == ("rejected", "")
    assert "left this query out" in rejected["why"]
    assert [row["n"] for row in everything(client, "/api/queries", decided="rejected")] == [n]


def test_a_passage_that_nothing_found_can_be_chosen(client: httpx.Client) -> None:
    page = judged(client)
    there = {c["passage_id"] for c in page["candidates"]}
    other = next(r for r in everything(client, "/api/passages", part="train") if r["passage_id"] not in there)
    after = decide(client, page["n"], "positive", passage=other["n"]).json()
    assert after["positive"] == other["passage_id"]
    assert after["candidates"][-1]["rank"] == 0


def test_two_people_do_not_overwrite_each_other(client: httpx.Client) -> None:
    page = judged(client)
    assert decide(client, page["n"], "reject").status_code == 200
    late = client.post("/api/decisions", json={"query": page["n"], "action": "accept", "after": page["newest"]})
    assert "decided about in between (reject" in refused(late, 409)
    other = next(r["n"] for r in everything(client, "/api/queries") if r["n"] != page["n"])
    assert decide(client, other, "reject").status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"query": 9999, "action": "reject"}, 404, "there is no query number 9999 in this run"),
        ({"query": 1, "action": "praise"}, 400, "field 'action' is 'praise'; expected 'accept', "),
        ({"query": 1, "action": "grade", "passage": 1, "grade": 4}, 400, "grade is 4; expected 0, 1, 2 or 3"),
        ({"query": 1, "action": "grade", "passage": 1}, 400, "grade is None; expected 0, 1, 2 or 3"),
        ({"query": 1, "action": "grade", "grade": 2}, 400, "field 'passage' is missing"),
        ({"query": 1, "action": "positive", "passage": 12345}, 404, "there is no passage number 12345"),
        ({"query": "1", "action": "reject"}, 400, "field 'query' is '1'; expected a whole number"),
        ({"action": "reject"}, 400, "field 'query' is missing"),
        ([], 400, "the body is a list; expected a JSON object"),
    ],
)
def test_a_decision_that_cannot_be_is_told(client: httpx.Client, body: Any, status: int, told: str) -> None:
    assert refused(client.post("/api/decisions", json=body), status).startswith(told)
    assert client.get("/api/decisions").json()["decisions"] == []


def test_nothing_held_out_is_chosen_for_training(client: httpx.Client, made: Path) -> None:
    page = judged(client)
    held = everything(client, "/api/passages", part="test")[0]
    assert not same_side("test", "train")
    assert "so that nothing held out enters training" in refused(
        decide(client, page["n"], "positive", passage=held["n"]), 400
    )


def test_decisions_on_held_out_queries_say_what_they_do(client: httpx.Client) -> None:
    held = everything(client, "/api/queries", part="test")[0]["n"]
    assert client.get(f"/api/queries/{held}").json()["held_out"] is True


# -- runs that lack something ---------------------------------------------------------------------------------------------


def test_search_is_off_where_a_model_is_gone_and_the_rest_works(client: httpx.Client) -> None:
    about = client.get("/api/run").json()
    assert about["search"].startswith("search is off: the tuned model is gone")
    assert refused(client.get("/api/search", params={"text": "x"}), 409) == about["search"]
    assert client.get("/api/passages").status_code == 200


@pytest.mark.parametrize("until", ["corpus", "generate", "mine", "judge", "examples"])
def test_an_unfinished_run_shows_what_is_there(tmp_path: Path, until: str) -> None:
    made_run(tmp_path / "run", until=until)
    with exploring(tmp_path / "run") as address, opened(address) as client:
        about = client.get("/api/run").json()
        assert about["stages"][until]
        assert not about["stages"]["evaluate"]
        assert "has not run" in about["map"]
        assert "has not run" in about["search"]
        assert client.get("/api/map").json()["state"] == "off"
        assert len(everything(client, "/api/passages")) == 40
        rows = everything(client, "/api/queries")
        assert len(rows) == (0 if until == "corpus" else 20)
        for row in rows[:3]:
            assert client.get(f"/api/queries/{row['n']}").status_code == 200


def test_a_run_that_changed_meanwhile_is_told(tmp_path: Path) -> None:
    made_run(tmp_path / "run", until="generate")
    with exploring(tmp_path / "run") as address, opened(address) as client:
        assert client.get("/api/run").json()["stale"] is False
        made_run(tmp_path / "run", until="mine")
        assert client.get("/api/run").json()["stale"] is True


def test_the_map_is_worked_out_once_and_kept(made: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with (
            exploring(
                made if not (tmp_path / made.name).exists() else tmp_path / made.name,
                None if (tmp_path / made.name).exists() else tmp_path,
            ) as address,
            opened(address) as client,
        ):
            found = client.get("/api/map").json()
            while found["state"] == "working":
                found = client.get("/api/map").json()
            assert found["state"] == "ready"
            assert len(found["n"]) == len(found["before"]) == len(found["after"]) == len(found["titles"]) == 40
            assert all(0 <= x <= found["grid"] for place in found["before"] + found["after"] for x in place)
    assert len(list((tmp_path / made.name / "explore").glob("map-*.npz"))) == 1
    shutil.rmtree(tmp_path / made.name)


# -- search ---------------------------------------------------------------------------------------------------------------


class Ranks:
    """Two models that rank by hand."""

    verdict = {"use": "tuned"}  # noqa: RUF012

    def __init__(self, run: object) -> None:
        self.asked: list[tuple[str, bool]] = []

    def rank(self, text: str, *, hybrid: bool) -> dict[str, list[tuple[int, float]]]:
        self.asked.append((text, hybrid))
        return {"base": [(0, 0.9), (1, 0.8), (2, 0.7), (3, 0.6)], "tuned": [(1, 0.9), (0, 0.8), (9, 0.7), (2, 0.1)]}


def test_search_says_what_tuning_moved(
    client: httpx.Client, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "RunSearcher", Ranks)
    monkeypatch.setattr(searching, "_missing", lambda run: "")
    with exploring(made, tmp_path / "again") as address, opened(address) as again:
        found = again.get("/api/search", params={"text": "river", "top": "3", "hybrid": "1"}).json()
        assert found["use"] == "tuned"
        assert [(hit["n"], hit["move"], hit["new"]) for hit in found["tuned"]] == [
            (1, 1, False),
            (0, -1, False),
            (9, None, True),
        ]
        assert found["gone"] == [2]
        assert [(hit["base"], hit["tuned"]) for hit in found["base"]] == [(1, 2), (2, 1), (3, 4)]
        assert len(again.get("/api/search", params={"text": "river"}).json()["tuned"]) == 4
