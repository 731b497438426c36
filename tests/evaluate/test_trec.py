from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tokay.evaluate.many import Ranked
from tokay.evaluate.trec import file_name, word, write_runs


def test_files_that_other_tools_read(tmp_path: Path) -> None:
    scores = np.float32([0.1, 0.3, 1 / 3]).tolist()
    run = {"q 1": {"notes a.txt#0": scores[0], "b": scores[1], "c\u3000": scores[2]}, "q2": {}}
    one, two = Ranked("a b", 0, run), Ranked("a/b", 0, {"q": {"p": 1.0}})
    paths = write_runs(tmp_path / "runs", [one, two], depth=2)
    assert [path.name for path in paths] == ["a_b.trec", "a_b_.trec"]
    lines = [line.split(" ") for line in paths[0].read_text().splitlines()]
    assert [line[:4] for line in lines] == [["q%201", "Q0", "c%E3%80%80", "1"], ["q%201", "Q0", "b", "2"]]
    assert [float(np.float32(line[4])) for line in lines] == [scores[2], scores[1]]
    assert paths[1].read_text() == "q Q0 p 1 1 a_b_\n"


@pytest.mark.parametrize(("label", "name"), [("tuned@128", "tuned@128.trec"), ("org/m:onnx", "org_m_onnx.trec")])
def test_file_names(label: str, name: str) -> None:
    assert file_name(label) == name
    assert word("plain#0") == "plain#0"
