"""`tokay serve` as a process: it starts, ends when it is told to, and is killed in the middle of a batch."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tokay.errors import TokayError
from tokay.models.embedder import Embedder
from tokay.serve import Options
from tokay.serve.server import listen
from tokay.serve.start import load_models, make_options


@contextlib.contextmanager
def process(*words: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server, and where it is."""
    command = [sys.executable, "-m", "tokay", "serve", *map(str, words)]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"on (http://\S+)", line := server.stdout.readline())
            assert found, line + server.stdout.read()
            yield server, found[1]
        finally:
            server.kill()


def ask(url: str, texts: list[str]) -> httpx.Response:
    return httpx.post(f"{url}/v1/embeddings", json={"model": "tiny", "input": texts}, timeout=60)


def test_killed_in_the_middle_of_a_batch_it_starts_again_and_answers_rightly(folder: Path, embedder: Embedder) -> None:
    import concurrent.futures

    texts = [f"file {n} of many" for n in range(2000)]
    with process(f"tiny={folder}", "--port", 0) as (server, url), concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert ask(url, ["a"]).status_code == 200
        waiting = pool.submit(ask, url, texts)
        while 'tokay_texts_total{model="tiny"} 2001.0' not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.001)
        server.send_signal(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            waiting.result()
    port = url.rsplit(":", 1)[1]
    with process(f"tiny={folder}", "--port", port) as (server, url):
        found = [row["embedding"] for row in ask(url, texts[:50]).json()["data"]]
        np.testing.assert_allclose(found, embedder.encode(texts[:50]), atol=2e-6)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert server.stdout is not None
        assert server.stdout.read() == "stopped; what was accepted was answered\n"


# -- what the command line says ---------------------------------------------------------------------------------------


def refusal(*words: object) -> str:
    command = [sys.executable, "-m", "tokay", "serve", *map(str, words)]
    env = {name: value for name, value in os.environ.items() if name != "TOKAY_API_KEY"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.strip()


def test_elsewhere_than_here_needs_a_key(folder: Path) -> None:
    assert refusal(folder, "--host", "0.0.0.0") == (
        "error: host '0.0.0.0' can be reached from other machines and there is no key; set TOKAY_API_KEY (or "
        "--api-key), or serve on 127.0.0.1"
    )


def test_addresses() -> None:
    for host in ("127.0.0.1", "localhost"):
        listen(host, 0, Options()).close()
    listen("0.0.0.0", 0, Options(api_keys=("key",))).close()
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", ""):
        with pytest.raises(TokayError, match="can be reached from other machines"):
            listen(host, 0, Options())
    with listen("127.0.0.1", 0, Options()) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            TokayError, match=f"^cannot listen on 127.0.0.1 port {port}: Address already in use; choose"
        ):
            listen("127.0.0.1", port, Options())


def test_options_that_are_none() -> None:
    assert make_options(timeout=None, max_body=None) == Options()
    with pytest.raises(TokayError, match=r"^option 'timeout' is 0; expected a whole number above 0$|above 0"):
        make_options(timeout=0)
    with pytest.raises(TokayError, match=r"^default_kind is 'quest'; expected 'query', 'passage' or a task"):
        make_options(default_kind="quest")
    with pytest.raises(TokayError, match=r"^option 'token_ids' is 'gpt2'; expected 'cl100k_base' or 'model'$"):
        make_options(token_ids="gpt2")
    with pytest.raises(TokayError, match=r"option 'api_keys'"):
        make_options(api_keys=[""])


def test_models_have_the_names_that_they_are_given_or_their_folders(folder: Path) -> None:
    assert list(load_models([f"a={folder}", str(folder)])) == ["a", folder.name]
    with pytest.raises(TokayError, match=r"are both named 'a'; name one of them: NAME="):
        load_models([f"a={folder}", f"a={folder}"])
    with pytest.raises(TokayError, match=r"^there is no model folder ./nosuch"):
        load_models(["a=./nosuch"])


def test_an_answer_does_not_wait_for_an_acknowledgement() -> None:
    """Nagle's algorithm would hold a body back until the client has acknowledged the header, some 40 ms."""
    with listen("127.0.0.1", 0, Options()) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
