"""Exports of a ledger, and what is answered from them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import multiprocessing
import os
import sqlite3
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from fake_llm import FakeLLM
from tokay import cli
from tokay.errors import TokayError
from tokay.llm.door import AskFailed, Door, NoText
from tokay.llm.ledger import Answer, Ledger, Usage, key_of, spent_in
from tokay.llm.open import open_model, read_spec
from tokay.llm.probe import Abilities
from tokay.llm.replay import Replay

SECRET = "the well-known text of a private document"


def asking(door: Door, work: Callable[[Door], Coroutine[Any, Any, Any]]) -> Any:
    async def main() -> Any:
        try:
            return await work(door)
        finally:
            await door.close()

    return asyncio.run(main())


def replayed(file: Path | str, tmp_path: Path, work: Callable[[Door], Coroutine[Any, Any, Any]]) -> Any:
    return asking(open_model(f"replay:{file}", ledger_path=tmp_path / "replayed"), work)


def filled(path: Path) -> Ledger:
    """A ledger with an answer, likelihoods, a silence that more room mended, and a failure."""
    ledger = Ledger(path)

    def keep(request: dict[str, Any], answer: Answer | str, *, attempt: int = 0, silent: bool = False) -> None:
        request = {"model": "m", **request}
        key = key_of({**request, "attempt": attempt})
        if isinstance(answer, str):
            ledger.fail(request, Answer(key=key, usage=Usage(9)), answer, "judge", silent=silent)
        else:
            ledger.put(request, Answer(**{**vars(answer), "key": key}), "judge", 0.25)

    def chat(text: str, room: int, **more: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": text}], "max_tokens": room, "temperature": 0, **more}

    keep(chat(SECRET, 5, top_logprobs=7), Answer("3", {"3": -0.5, " 3": -2.0}, usage=Usage(30, 20, 1, 0.5)))
    keep({"context": "c", "continuations": [" 0", " 1"]}, Answer(values=(-1.5, -2.25), tokens=(1, 1)))
    keep(chat("quiet", 5), "empty answer (finish_reason length)", silent=True)
    keep(chat("quiet", 5), Answer("at last 😀 ü"), attempt=1)
    keep(chat("bad", 5), "HTTP 400: a content filter")
    return ledger


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.jsonl.gz"])
def test_a_replay_gives_what_was_recorded(name: str, tmp_path: Path) -> None:
    old = os.umask(0)
    ledger = filled(tmp_path / "l")
    assert ledger.export(tmp_path / name) == 5
    os.umask(old)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600

    async def work(door: Door) -> None:
        said = await door.complete([{"role": "user", "content": SECRET}], max_tokens=5, top_logprobs=7)
        assert (said.text, said.first, said.usage) == ("3", {"3": -0.5, " 3": -2.0}, Usage(30, 20, 1))
        likelihoods = await door.logprobs("c", [" 0", " 1"])
        assert (likelihoods.values, likelihoods.tokens) == ((-1.5, -2.25), (1, 1))
        quiet = [{"role": "user", "content": "quiet"}]
        with pytest.raises(NoText, match=r"empty answer \(finish_reason length\)"):
            await door.complete(quiet, max_tokens=5)
        assert (await door.complete(quiet, max_tokens=5, attempt=1)).text == "at last 😀 ü"
        with pytest.raises(AskFailed, match=r"^HTTP 400: a content filter$"):
            await door.complete([{"role": "user", "content": "bad"}], max_tokens=5)
        with pytest.raises(AskFailed, match=r"holds no answer to this request; expected the documents, settings"):
            await door.complete([{"role": "user", "content": "never asked"}], max_tokens=5)
        with pytest.raises(AskFailed, match=r"holds no answer"):
            await door.complete(quiet, max_tokens=6)
        assert await door.abilities() == Abilities(likelihood="recorded", first_logprobs=7)

    replayed(tmp_path / name, tmp_path, work)
    [kept] = spent_in(tmp_path / "replayed")
    assert (kept.answers, kept.failures) == (3, 4)


def test_exports_of_equal_answers_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        ledger = filled(tmp_path / name)
        ledger.export(tmp_path / f"{name}.jsonl")
        ledger.export(tmp_path / f"{name}.jsonl.gz")
        with pytest.raises(TokayError, match=r"one.jsonl is there already|two.jsonl is there already"):
            ledger.export(tmp_path / f"{name}.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    packed = [(tmp_path / f"{name}.jsonl.gz").read_bytes() for name in ("one", "two")]
    assert packed[0] == packed[1]
    assert gzip.decompress(packed[0]) == (tmp_path / "one.jsonl").read_bytes()
    with pytest.raises(TokayError, match=r"cannot be written: No such file or directory"):
        ledger.export(tmp_path / "nowhere" / "x.jsonl")
    versions = {read_spec(f"replay:{tmp_path / file}").version for file in ("one.jsonl", "two.jsonl.gz")}
    assert len(versions) == 1


def test_files_that_are_no_exports(tmp_path: Path) -> None:
    def fails(text: bytes, match: str, name: str = "x.jsonl") -> None:
        (tmp_path / name).write_bytes(text)
        with pytest.raises(TokayError, match=match):
            Replay(str(tmp_path / name))

    filled(tmp_path / "l").export(tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    fails(b"", "holds no answers")
    fails(whole[:-9], r"line 5 of .*x.jsonl is no row of a ledger; expected a file as 'tokay ledger export' writes it")
    fails(whole + b"[]\n", "line 6 of .* is no row")
    fails(whole + b'{"key": "k", "request": {}, "model": "m", "numbers": 3, "answer": ""}\n', "line 6 of .* is no row")
    fails(whole, "is damaged or cannot be read: Not a gzipped file", "x.jsonl.gz")
    fails(gzip.compress(whole)[:-20], "is damaged or cannot be read", "y.jsonl.gz")
    with pytest.raises(TokayError, match=r"there is no file .*nowhere; expected one as 'tokay ledger export' writes"):
        read_spec(f"replay:{tmp_path}/nowhere")
    with pytest.raises(TokayError, match=r"--llm is 'opnai:gpt'; expected .*; did you mean 'openai'\?$"):
        read_spec("opnai:gpt")
    with pytest.raises(TokayError, match=r"--llm is 'openai'; expected [^?]*replay:FILE$"):
        read_spec("openai")


def test_an_export_with_two_models_needs_a_name(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l")
    ledger.put({"model": "org/n:1", "messages": []}, Answer("n", key="k"))
    ledger.export(tmp_path / "x#y.jsonl")
    with pytest.raises(TokayError, match=r"holds answers of m, org/n:1; name one of them: --llm 'replay:.*#m'"):
        Replay(str(tmp_path / "x#y.jsonl"))
    one = Replay(f"{tmp_path}/x#y.jsonl#org/n:1")
    assert one.model == "org/n:1"
    assert asyncio.run(one.send({}, "k")).text == "n"
    assert asyncio.run(one.abilities()) == Abilities()
    with pytest.raises(TokayError, match=r"holds answers of m, org/n:1; name one"):
        Replay(f"{tmp_path}/x#y.jsonl#other")


def test_purging_leaves_no_text_in_the_files(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l")
    for n in range(300):  # rows that were changed leave their old text in free space
        request = {"model": "m", "messages": [{"role": "user", "content": f"{SECRET} {n} " * 50}]}
        ledger.fail(request, Answer(key=str(n)), f"reason {SECRET}")
        ledger.put(request, Answer(f"answer {SECRET}" * 20, key=str(n)))
    ledger.begin_batch("t", ["1", "zz"])

    def bytes_of_files() -> bytes:
        return b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))

    assert SECRET.encode() in bytes_of_files()
    assert ledger.purge() == 305
    assert SECRET.encode() not in bytes_of_files()
    assert b"zz" not in bytes_of_files()
    assert ledger.counts()["answers"] == 0
    ledger.put({"model": "m"}, Answer("new", key="k"))
    assert ledger.get("k") == Answer("new", key="k")
    reader = sqlite3.connect(tmp_path / "l", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM answers").fetchone()
    ledger._db.execute("PRAGMA busy_timeout=10")
    with pytest.raises(
        TokayError, match=r"cannot be emptied: .*; end what uses it|its log still holds text, since anot"
    ):
        ledger.purge()
    reader.close()
    assert ledger.purge() in (0, 1)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text("{}")

    def call(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["tokay", "ledger", *map(str, words)])
        with contextlib.suppress(SystemExit):
            cli.main()
        said = capsys.readouterr()
        return said.out + said.err

    assert "has no ledger.sqlite: nothing was asked of an LLM" in call("show", run)
    filled(run / "ledger.sqlite").close()
    shown = [line.split() for line in call("show", run).splitlines()]
    assert ["judge", "m", "3", "2", "48", "20", "1", "0.7500"] in shown
    said = call("export", run, tmp_path / "x.jsonl")
    assert "5 requests and their answers" in said
    assert "holds the text of your documents" in said
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 5
    assert "nothing was deleted: it was not confirmed (--yes confirms it)" in call("purge", run)
    assert "5 requests deleted" in call("purge", run, "--yes")
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in run.iterdir())


def _write(path: str, start: Any, who: int) -> None:
    start.wait()
    ledger = Ledger(Path(path))
    for n in range(150):
        ledger.put({"model": "m"}, Answer(f"{who} {n}", key=f"{who}-{n}"))
        ledger.put({"model": "m"}, Answer("of both", key=f"both-{n}"))
    ledger.close()


def test_two_processes_lose_no_answers(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tokay.llm.ledger"])
    start = context.Event()
    children = [context.Process(target=_write, args=(str(tmp_path / "l"), start, who)) for who in range(2)]
    for child in children:
        child.start()
    start.set()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    ledger = Ledger(tmp_path / "l")
    assert ledger.counts()["answers"] == 450
    assert ledger.get("1-149") == Answer("1 149", key="1-149")


def test_a_recorded_run_is_repeated_without_its_server(tmp_path: Path) -> None:
    async def work(door: Door) -> list[Answer]:
        prompts = [[{"role": "system", "content": ""}, {"role": "user", "content": f"Query: {i}"}] for i in range(9)]
        return list(await asyncio.gather(*(door.complete(p, max_tokens=4) for p in prompts)))

    with FakeLLM() as server:
        server.override = lambda request: f"<{request['messages'][1]['content']}>"
        live = asking(open_model("openai:m", url=server.url, ledger_path=tmp_path / "l"), work)
    Ledger(tmp_path / "l").export(tmp_path / "x.jsonl.gz")
    again = replayed(tmp_path / "x.jsonl.gz", tmp_path, work)
    assert [(a.text, a.key) for a in again] == [(a.text, a.key) for a in live]
    assert json.loads(gzip.open(tmp_path / "x.jsonl.gz").readline())["answer"].startswith("<Query")
