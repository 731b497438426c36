from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokay.errors import TokayError
from tokay.records import Passage, Skipped
from tokay.store import MANIFEST, Run, StageOutput, code_version, fingerprint


def write(reason: str, calls: list[str]):  # type: ignore[no-untyped-def]
    def work(out: StageOutput) -> None:
        calls.append(reason)
        out.write("skipped", Skipped, (Skipped("f", i, reason) for i in range(5000)))

    return work


def test_a_stage_is_done_once_and_again_when_its_key_changes(tmp_path: Path) -> None:
    calls: list[str] = []
    with Run(tmp_path / "run", writable=True) as run:
        assert run.stage("a", write("x", calls), settings={"n": 1}).fresh
        first = run.digest("a")
        assert not run.stage("a", write("y", calls), settings={"n": 1}).fresh
        assert run.stage("b", write("b", calls), settings={}, reads=["a"]).fresh
        assert run.stage("a", write("z", calls), settings={"n": 2}).fresh
        assert run.digest("a") != first
        assert run.stage("b", write("b2", calls), settings={}, reads=["a"]).fresh
    assert calls == ["x", "b", "z", "b2"]
    run = Run(tmp_path / "run", writable=False)
    rows = list(run.table("a", "skipped", Skipped))
    assert (len(rows), rows[4999], run.rows("a", "skipped")) == (5000, Skipped("f", 4999, "z"), 5000)


def test_same_content_upstream_leaves_downstream_alone(tmp_path: Path) -> None:
    calls: list[str] = []
    with Run(tmp_path / "run", writable=True) as run:
        run.stage("a", write("x", calls), settings={"n": 1})
        run.stage("b", write("b", calls), settings={}, reads=["a"])
        run.stage("a", write("x", calls), settings={"n": 2})
        assert not run.stage("b", write("b", calls), settings={}, reads=["a"]).fresh


def test_damaged_or_missing_outputs_are_made_again(tmp_path: Path) -> None:
    calls: list[str] = []
    with Run(tmp_path / "run", writable=True) as run:
        run.stage("a", write("x", calls), settings={})
        file = tmp_path / "run" / "a" / "skipped.parquet"
        data = bytearray(file.read_bytes())
        data[100] ^= 255
        file.write_bytes(data)
        assert run.stage("a", write("x", calls), settings={}).fresh
        file.unlink()
        assert run.stage("a", write("x", calls), settings={}).fresh
        file.touch()
        file.write_bytes(file.read_bytes())


def test_a_failing_stage_leaves_the_old_outputs(tmp_path: Path) -> None:
    def fail(out: StageOutput) -> None:
        (out.path / "half").write_text("half")
        raise RuntimeError("cut")

    with Run(tmp_path / "run", writable=True) as run:
        run.stage("a", write("x", []), settings={})
        with pytest.raises(RuntimeError, match="cut"):
            run.stage("a", fail, settings={"changed": True})
        assert not run.stage("a", write("never", []), settings={}).fresh
    assert [p.name for p in (tmp_path / "run").glob(".tmp-*")] == [".tmp-a"]
    with Run(tmp_path / "run", writable=True):
        assert not list((tmp_path / "run").glob(".tmp-*"))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        Run(tmp_path / "run", writable=True),
        pytest.raises(TokayError, match=r"another process is writing .*; wait for it or choose another --out"),
    ):
        Run(tmp_path / "run", writable=True)
    Run(tmp_path / "run", writable=True).close()


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(TokayError, match=r"holds other files and is no run folder"):
        Run(tmp_path, writable=True)
    with pytest.raises(TokayError, match=r"is a file; expected a folder"):
        Run(tmp_path / "mine.txt", writable=True)
    with pytest.raises(TokayError, match=r"is not a run folder"):
        Run(tmp_path / "none", writable=False)
    run = Run(tmp_path / "run", writable=True)
    run.close()
    with pytest.raises(TokayError, match=r"has no corpus/passages.parquet; run 'tokay distill"):
        run.rows("corpus", "passages")
    (tmp_path / "run" / MANIFEST).write_text("{")
    with pytest.raises(TokayError, match=r"is damaged .*; delete it to have every stage redone"):
        run.manifest()


def test_code_version_ignores_comments_and_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    versions = []
    for i, body in enumerate(
        [
            "x = 1",
            '"""Doc."""\nx = 1  # why',
            "x = 2",
            "def f():\n    '''d'''\n    return 1",
            "def f():\n    return 1",
        ]
    ):
        (tmp_path / f"m{i}.py").write_text(body)
        versions.append(code_version(f"m{i}"))
    assert versions[0] == versions[1] != versions[2]
    assert versions[3] == versions[4]
    assert code_version("tokay.train") != code_version("tokay.models")


def test_fingerprint_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    one = fingerprint(tmp_path)
    (tmp_path / ".cache").write_text("ignored")
    assert fingerprint(tmp_path) == one
    (tmp_path / "a").rename(tmp_path / "b")
    assert fingerprint(tmp_path) != one


def test_the_manifest_is_readable_json(tmp_path: Path) -> None:
    with Run(tmp_path / "run", writable=True) as run:
        run.stage("a", lambda out: out.write_json("v", {"x": 1.5}), settings={})
    entry = json.loads((tmp_path / "run" / MANIFEST).read_text())["a"]
    assert set(entry) == {"key", "reads", "seconds", "finished", "outputs"}
    assert run.read_json("a", "v") == {"x": 1.5}


def test_a_table_of_another_version_is_one_sentence(tmp_path: Path) -> None:
    with Run(tmp_path / "run", writable=True) as run:
        run.stage("corpus", lambda out: void(out.write("skipped", Skipped, [])), settings={})
        with pytest.raises(TokayError, match=r"which another version of tokay wrote; run 'tokay distill"):
            list(run.table("corpus", "skipped", Passage))


def void(_: object) -> None:
    """What stages return."""


def test_what_was_made_from_another_version_no_longer_counts(tmp_path: Path) -> None:
    with Run(tmp_path / "run", writable=True) as run:
        for value in (1, 1, 2):
            run.stage("a", lambda out, v=value: out.write_json("v", v), settings={"n": value})
            if value == 1:
                run.stage("b", lambda out: out.write_json("v", "b"), settings={}, reads=["a"])
                run.stage("c", lambda out: out.write_json("v", "c"), settings={}, reads=["b"])
                run.stage("d", lambda out: out.write_json("v", "d"), settings={})
        assert [run.is_done(stage) for stage in "abcd"] == [True, False, False, True]
        with pytest.raises(TokayError, match=r"has no b/v.json; run 'tokay distill"):
            run.read_json("b", "v")
        run.stage("b", lambda out: out.write_json("v", "b"), settings={}, reads=["a"])
        run.stage("a", lambda out: out.write_json("v", 2), settings={"n": 3})  # done again, to the same contents
        assert run.is_done("b")
        run.forget("a")
        assert not run.is_done("b")


def test_a_run_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    with Run(tmp_path / "run", writable=True):
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
