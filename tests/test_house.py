"""What holds the house up: the direction of imports, docs that cannot drift, and what the file map says."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "tokay"

FORBIDDEN = {
    "records": ("pipeline", "cli", "store", "train", "models", "annotate", "evaluate"),
    "models": ("train", "pipeline", "cli", "annotate", "evaluate"),
    "train": ("pipeline", "cli", "annotate", "store"),
    "search": ("pipeline", "cli", "store", "train"),
    "evaluate": ("pipeline", "cli", "store", "train", "llm"),
    "serve": ("pipeline", "cli", "train", "annotate", "evaluate", "llm", "store"),
    "llm": ("pipeline", "cli", "annotate", "store"),
    "annotate": ("pipeline", "cli", "train"),
    "corpus": ("pipeline", "cli", "annotate", "train", "models"),
    "pipeline": ("cli",),
}


def imports_of(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("tokay.")}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_point_one_way(part: str) -> None:
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else list((PACKAGE / part).glob("*.py"))
    assert files
    wrong = {(file.name, name) for file in files for name in imports_of(file) if name.split(".")[1] in FORBIDDEN[part]}
    assert wrong == set()


def test_only_the_command_line_prints() -> None:
    users = {f.parent for f in PACKAGE.rglob("*.py") if re.search(r"^(from|import) (rich|typer)", f.read_text(), re.M)}
    assert users == {PACKAGE / "cli"}


def test_the_command_lines_help_is_in_the_docs() -> None:
    spec = importlib.util.spec_from_file_location("write_cli_docs", ROOT / "tools" / "write_cli_docs.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (ROOT / "docs" / "cli.md").read_text() == tool.cli_docs(), "run 'make docs'"


def test_the_file_map_names_every_module() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    modules = {str(f.relative_to(PACKAGE)) for f in PACKAGE.rglob("*.py") if f.name != "__init__.py"}
    assert {m for m in modules if f"{m} " not in text and f"{Path(m).name} " not in text} == set()


def test_links_between_docs_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
