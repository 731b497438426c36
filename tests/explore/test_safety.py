"""Who may ask, and what nobody gets."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from command import call
from exploring import exploring, opened
from made_run import made_run
from tokay.explore.server import host_run
from tokay.store import Run


@pytest.fixture(scope="module")
def address(made: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with exploring(made, tmp_path_factory.mktemp("safety")) as found:
        yield found


def test_every_answer_has_its_policy_and_no_inline_script(address: str) -> None:
    with opened(address) as client:
        for path in ("/", "/app.js", "/app.css", "/api/run", "/api/queries/999", "/nowhere", "/api/passages?part=x"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
        page = client.get("/").text
        assert page.count("<script") == 1
        assert 'src="app.js"' in page
        assert "style=" not in page
        assert "onclick" not in page
        assert "made &lt;b&gt;run" in page
        assert "http" not in page.replace("http-equiv", "")


def test_only_this_machines_own_name_is_answered(address: str) -> None:
    port = urlsplit(address).port
    with opened(address) as client:
        for name in (f"evil.example:{port}", "evil.example", f"127.0.0.1.evil.example:{port}", "127.0.0.1", ""):
            answer = client.get("/api/run", headers={"Host": name})
            assert answer.status_code in (400, 403), name
            assert "passages" not in answer.text
        assert client.get("/api/run", headers={"Host": f"localhost:{port}"}).status_code == 200


def test_no_other_page_is_answered(address: str) -> None:
    own = address.split("/?")[0]
    body = {"query": 1, "action": "reject"}
    with opened(address) as client:
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Origin": "http://127.0.0.1:1"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            assert client.get("/api/run", headers=headers).status_code == 403
            assert client.post("/api/decisions", json=body, headers=headers).status_code == 403
        for token in ("", "wrong", "é"):
            answer = client.post("/api/decisions", json=body, headers={"X-Tokay-Token": token.encode()})
            assert answer.status_code == 403
            assert "lacks the page's token" in answer.json()["error"]["message"]
        assert client.get("/api/decisions").json()["decisions"] == []
        assert "access-control-allow-origin" not in client.get("/api/run", headers={"Origin": own}).headers
        assert client.options("/api/decisions", headers={"Origin": "http://evil.example"}).status_code == 403


def test_without_the_key_there_is_nothing(address: str) -> None:
    own = address.split("/?")[0]
    for path in ("/", "/?key=wrong", "/?key=%FF", "/app.js", "/api/run", "/api/passages/1"):
        for headers in ({}, {"Cookie": f"tokay-explore-{urlsplit(address).port}=wrong"}, {"Cookie": "=;\x01"}):
            answer = httpx.get(own + path, headers=headers)
            assert answer.status_code == 401, path
            assert "carries the key" in answer.text
    first = httpx.get(address)
    assert first.status_code == 303
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/pages/index.html",
        "/app.js/../../cache.py",
        "/..%2f..%2fmanifest.json",
        "/decisions.jsonl",
        "/explore/",
        "//etc/passwd",
        "/api/passages/..%2f..%2fetc%2fpasswd",
        "/api/queries/%00",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_path_reaches_a_file(address: str, path: str) -> None:
    url = urlsplit(address)
    with opened(address) as client, socket.create_connection((url.hostname, url.port), timeout=20) as raw:
        cookie = "; ".join(f"{k}={v}" for k, v in client.cookies.items())
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {url.hostname}:{url.port}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
        )
        raw.sendall(head.encode())
        said = b""
        while part := raw.recv(65536):
            said += part
    status = int(said.split(b" ", 2)[1])
    assert status in (400, 404), said[:200]
    assert b"root:" not in said
    assert b"sha256" not in said


def test_a_body_is_small(address: str) -> None:
    with opened(address) as client:
        answer = client.post("/api/decisions", content=b"x" * 100_000)
        assert answer.status_code == 413


def test_it_listens_on_this_machine_alone(tmp_path: Path) -> None:
    made_run(tmp_path / "run", until="corpus")
    hosted = host_run(tmp_path / "run", 0)
    try:
        assert hosted.listener.getsockname()[0] == "127.0.0.1"
    finally:
        hosted.listener.close()


# -- the command line -----------------------------------------------------------------------------------------------------


def test_no_run_an_empty_one_and_a_taken_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: object) -> str:
        capsys.readouterr()
        assert call("explore", *words, "--no-browser") == 1
        return " ".join(capsys.readouterr().err.split())

    assert "is not a run folder (it has no manifest.json)" in told(tmp_path / "nothing")
    with Run(tmp_path / "empty", writable=True):
        pass
    assert "holds no passages yet" in told(tmp_path / "empty")
    made_run(tmp_path / "run", until="corpus")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1 port {port}" in told(tmp_path / "run", "--port", port)
    (tmp_path / "run" / "run.toml").write_text("[examples]\nnegatives = 99")
    assert "run.toml is damaged" in told(tmp_path / "run", "--port", 0)
