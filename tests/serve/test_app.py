"""The application without a network: it needs no torch, its document is true, and no input makes it fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from fakes import Slow
from serving import serving
from tokay.errors import TokayError
from tokay.serve import Options, make_app


def test_a_server_needs_no_torch_and_no_transformers() -> None:
    program = """
import sys
sys.path.insert(0, "tests")
from fakes import Slow
from starlette.testclient import TestClient
import tokay.serve.server
from tokay.serve import make_app
with TestClient(make_app({"fake": Slow()})) as client:
    assert client.post("/v1/embeddings", json={"model": "fake", "input": ["a", "b"]}).status_code == 200
print([name for name in ("torch", "transformers", "sentence_transformers", "scipy", "sklearn") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("package", ["fastapi", "prometheus_client", "uvicorn"])
def test_without_its_packages_the_extra_is_named(package: str) -> None:
    program = f"import sys; sys.modules['{package}'] = None; sys.argv = ['tokay', 'serve', 'x', '--port', '0']\n"
    program += "from tokay.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    name = package.replace("_", "-")
    assert done.stderr == f"error: tokay serve needs the package '{name}': pip install 'tokay[serve]'\n"


def test_what_cannot_be_served_is_told_at_once() -> None:
    with pytest.raises(TokayError, match=r"^there is no model to serve; name a run or a model folder$"):
        make_app({})
    with pytest.raises(TokayError, match=r"^a model is named 'a:b'; expected a name without a colon"):
        make_app({"a:b": Slow()})
    with pytest.raises(TokayError, match=r"^kind is 'quest'"):
        make_app({"a": Slow()}, Options(default_kind="quest"))


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    with serving({"fake": Slow()}) as url:
        yield url


SCHEMA = schemathesis.openapi.from_dict(make_app({"fake": Slow()}).openapi())


@SCHEMA.exclude(path_regex="v1beta1|projects").parametrize()  # other addresses of the same routes
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_input_makes_it_fail_and_its_document_is_true(case: Any, place: str) -> None:
    """Which words and widths there are depends on the model; the document does not say it, they are refused with 400."""
    case.call_and_validate(base_url=place, excluded_checks=[positive_data_acceptance])
