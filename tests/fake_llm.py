"""An OpenAI-compatible server on loopback that answers both prompts sensibly, and misbehaves on request."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], str]


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def answer_to(messages: list[dict[str, str]]) -> str:
    """Queries made of a passage's own rarer words; grade 3 for the passage that shares most words with the query."""
    user = messages[1]["content"]
    passages = re.findall(r"<passage>(.*?)</passage>", user, re.DOTALL)
    if "Write " in user.rsplit("</passage>", 1)[-1]:
        count = int(user.rsplit("Write ", 1)[1].split()[0])
        unique = sorted(set(words_of(passages[0])), key=lambda w: hashlib.sha256(w.encode()).digest())
        return json.dumps(
            {"queries": [{"task": "find it", "query": " ".join(unique[k : k + 4]) or "nothing"} for k in range(count)]}
        )
    query = set(words_of(user.split("Query: ", 1)[1].split("\n", 1)[0]))
    shared = [len(query & set(words_of(p))) for p in passages]
    best = max(range(len(passages)), key=lambda i: shared[i])
    grades = {str(i + 1): 3 if i == best else int(shared[i] > 1) for i in range(len(passages))}
    return json.dumps({"grades": grades, "best": best + 1})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients that stop or are killed are no news
            super().handle_error(request, client_address)


class FakeLLM:
    """Use as a context manager; ``asked`` counts requests by prompt, ``replies`` overrides what comes next.

    ``routes`` answers what is no chat, by path and from the request's JSON; what is not in it is 404. Questions of
    the probe are counted apart, in ``probed``: as a plain server takes them, it says "Yes." to them.
    """

    def __init__(self, *, delay: float = 0.0) -> None:
        self.asked: Counter[str] = Counter()
        self.probed: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.routes: dict[str, Callable[[dict[str, Any]], Reply]] = {}
        self.replies: list[Reply | None] = []
        self.override: Callable[[dict[str, Any]], str | None] = lambda request: None
        self.usage: Callable[[dict[str, Any], str], dict[str, Any]] = lambda request, answer: {
            "prompt_tokens": 10,
            "completion_tokens": 5,
        }
        self.delay = delay
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(length := int(self.headers["content-length"]))
                if len(body) < length:
                    return  # the client was killed while it spoke
                request = json.loads(body)
                if self.path in fake.routes or not self.path.endswith("/chat/completions"):
                    return self.answer_at(self.path, request)
                with fake._lock:
                    fake.keys.append(self.headers.get("authorization", ""))
                    if request["messages"][0]["role"] == "user":
                        fake.probed.append(request)
                    else:
                        fake.asked[json.dumps(request["messages"])] += 1
                time.sleep(fake.delay)
                self.reply(*(fake.next_reply() or fake.answer(request)))

            def do_GET(self) -> None:
                self.answer_at(self.path, {})

            def answer_at(self, path: str, request: dict[str, Any]) -> None:
                self.reply(*fake.routes.get(path, lambda request: (404, {}, "no such path"))(request))

            def reply(self, status: int, headers: dict[str, str], body: str) -> None:
                data = body.encode()
                if headers.get("x-hang"):
                    time.sleep(float(headers["x-hang"]))  # longer than the client waits
                try:
                    self.send_response(status)
                    for name, value in {"content-type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client was killed

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def next_reply(self) -> Reply | None:
        with self._lock:
            return self.replies.pop(0) if self.replies else None

    def answer(self, request: dict[str, Any]) -> Reply:
        asks = request["messages"]
        text = "Yes." if asks[0]["role"] == "user" else self.override(request) or answer_to(asks)
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = self.usage(request, text)
        return 200, {}, json.dumps({"choices": [choice], "usage": usage})

    def __enter__(self) -> FakeLLM:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()
