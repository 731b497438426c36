"""Slow clients, clients that leave, answers that take too long, and an end that answers what was taken."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from fakes import Slow
from serving import serving
from tokay.serve import Options
from tokay.serve.server import Server, listen


def connected(url: str) -> socket.socket:
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=20)  # type: ignore[arg-type]


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def read(connection: socket.socket) -> bytes:
    """All that comes until the server closes; a reset is an end too."""
    got = b""
    try:
        while part := connection.recv(65536):
            got += part
    except ConnectionResetError:
        pass
    return got


def ask(url: str, value: Any = "a", **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/embeddings", json={"model": "fake", "input": value}, timeout=30, **more)


def trickle(connection: socket.socket, data: bytes) -> None:
    """Send a byte at a time."""
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(0.02)


HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n"


@pytest.mark.parametrize("sent", [b"", HEAD])
def test_a_connection_whose_head_never_comes_is_closed(sent: bytes) -> None:
    with serving({"fake": Slow()}, header_timeout=0.3) as url, connected(url) as connection:
        connection.sendall(sent)
        assert read(connection) == b""
        assert ask(url).status_code == 200


def test_a_head_that_comes_byte_by_byte_is_closed_also_after_a_good_request() -> None:
    with serving({"fake": Slow()}, header_timeout=0.3) as url, connected(url) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        assert b"200 OK" in connection.recv(65536)
        with pytest.raises(OSError, match=r"reset|Broken"):
            trickle(connection, HEAD * 10)


def test_a_connection_that_is_kept_outlives_the_time_of_a_head() -> None:
    with serving({"fake": Slow()}, header_timeout=0.2) as url, httpx.Client() as client:
        for _ in range(3):
            assert client.get(f"{url}/healthz").status_code == 200
            time.sleep(0.3)
        assert client.get(f"{url}/healthz").status_code == 200


def test_a_body_that_comes_slowly_is_told_so_and_others_are_answered_meanwhile() -> None:
    with serving({"fake": Slow()}, body_timeout=0.5) as url, connected(url) as connection:
        connection.sendall(HEAD + b'\r\n{"input":')
        assert ask(url).status_code == 200
        head, _, body = read(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in head.lower()
        assert json.loads(body) == {
            "error": {
                "message": "the body did not arrive within 0.5 s, 9 bytes of it did; send it faster",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        }


def test_an_answer_that_takes_too_long_is_given_up_and_its_work_dropped() -> None:
    embedder = Slow(hold=True)
    with serving({"fake": embedder}, timeout=0.5, latency_target=0.001) as url:
        found = ask(url, ["a b c"] * 100)
        embedder.go.set()
        assert found.status_code == 504
        assert found.json()["error"] == {
            "message": "there was no answer within 0.5 s; send fewer texts a request",
            "type": "server_error",
            "param": None,
            "code": "timeout",
        }
        assert "tokay_waiting_tokens 0.0" in httpx.get(f"{url}/metrics").text
    assert sum(map(len, embedder.batches)) < 100


def test_a_client_that_leaves_has_its_work_dropped() -> None:
    embedder = Slow(hold=True)
    with serving({"fake": embedder}, latency_target=0.001) as url:
        body = json.dumps({"model": "fake", "input": ["a b c"] * 100}).encode()
        with connected(url) as connection:
            connection.sendall(HEAD.replace(b"1000", str(len(body)).encode()) + b"\r\n" + body)
            embedder.began.wait()
        counted = 'tokay_requests_total{route="/v1/embeddings",status="499"} 1.0'
        until(lambda: counted in httpx.get(f"{url}/metrics").text)
        embedder.go.set()
        assert ask(url).status_code == 200
    assert sum(map(len, embedder.batches)) < 100


def test_too_much_waiting_is_refused_with_when_to_come_again() -> None:
    embedder = Slow(hold=True)
    with serving({"fake": embedder}, max_waiting_tokens=50) as url:
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(url, "a " * 40))) for _ in range(2)]
        threads[0].start()
        embedder.began.wait()
        threads[1].start()
        until(lambda: "tokay_waiting_tokens 40.0" in httpx.get(f"{url}/metrics").text)
        found = ask(url, "a " * 11)
        embedder.go.set()
        for thread in threads:
            thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert (found.status_code, found.headers["retry-after"]) == (503, "1")
    assert found.json()["error"] == {
        "message": "40 tokens are waiting, of at most 50; try again in 1 s",
        "type": "server_error",
        "param": None,
        "code": "overloaded",
    }


def test_an_ending_server_answers_what_it_took_and_takes_nothing_more() -> None:
    embedder, options = Slow(hold=True), Options()
    listener = listen("127.0.0.1", 0, options)
    server = Server({"fake": embedder}, options, listener)
    url, serve = server.url, threading.Thread(target=server.run)
    serve.start()
    until(lambda: server.uvicorn.started)
    answers: list[httpx.Response] = []
    clients = [threading.Thread(target=lambda: answers.append(ask(url, ["a", "b c"] * 20))) for _ in range(8)]
    for client in clients:
        client.start()
    embedder.began.wait()
    until(lambda: len(server.uvicorn.server_state.tasks) == 8)
    time.sleep(0.2)  # all of them have read their bodies
    server.stop()

    def refused() -> bool:
        try:
            return httpx.get(f"{url}/healthz").status_code != 200
        except httpx.TransportError:
            return True

    until(refused)
    embedder.go.set()
    for client in clients:
        client.join()
    serve.join()
    assert [answer.status_code for answer in answers] == [200] * 8
    assert {len(answer.json()["data"]) for answer in answers} == {40}
