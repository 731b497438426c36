"""An OpenAI-style batch API on loopback: files, batches, their ends of every kind."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Row = dict[str, Any]


def answered(body: dict[str, Any]) -> Row:
    text = f"answer to {body['messages'][-1]['content']}"
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return {"response": {"status_code": 200, "body": {"choices": [choice], "usage": usage}}, "error": None}


class FakeBatches:
    """Use as a context manager.

    ``asked`` counts prompts over all batches. A batch ends after ``polls`` questions as the next of ``ends`` says
    (completed when there is none), with what ``row`` makes of each request: a row, or None where it was not done.
    ``faults`` are statuses answered to the next calls of a method and path.
    """

    def __init__(self, *, polls: int = 2) -> None:
        self.polls = polls
        self.ends: list[str] = []
        self.row: Callable[[dict[str, Any]], Row | None] = answered
        self.faults: dict[str, list[int]] = {}
        self.errors: list[str] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.asked: Counter[str] = Counter()
        self.calls: list[str] = []
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                with fake._lock:
                    self.reply(*fake.post(self.path, self.headers.get("content-type", ""), body))

            def do_GET(self) -> None:
                with fake._lock:
                    self.reply(*fake.get(self.path))

            def reply(self, status: int, value: Any) -> None:
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients that are killed are no news

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def post(self, path: str, kind: str, body: bytes) -> tuple[int, Any]:
        if fault := self._fault(f"POST {path}"):
            if path.endswith("/batches") and fault == 504:  # made, but nobody hears of it
                self._make(json.loads(body))
            return fault, {"error": {"message": "no"}}
        if path == "/v1/files":
            boundary = kind.split("boundary=")[1].encode()
            parts = {
                re.findall(rb'name="(\w+)"', head)[0]: content.removesuffix(b"\r\n")
                for head, content in (p.split(b"\r\n\r\n", 1) for p in body.split(b"--" + boundary)[1:-1])
            }
            assert parts[b"purpose"] == b"batch"
            return 200, {"id": self._keep(parts[b"file"])}
        if path == "/v1/batches":
            return 200, self._make(json.loads(body))
        return 404, {"error": {"message": "not here"}}

    def get(self, path: str) -> tuple[int, Any]:
        if fault := self._fault(f"GET {path.split('?')[0]}"):
            return fault, {"error": {"message": "no"}}
        if path.startswith("/v1/batches?"):
            ids = list(self.batches)[::-1]
            after = path.partition("&after=")[2]
            rest = ids[ids.index(after) + 1 :] if after else ids
            return 200, {"data": [self.batches[i] for i in rest[:2]], "has_more": len(rest) > 2}  # small pages
        name = path.split("/")[3]
        if path.startswith("/v1/batches/") and name in self.batches:
            return 200, self._look(self.batches[name])
        if path.startswith("/v1/files/") and name in self.files:
            return 200, self.files[name]
        return 404, {"error": {"message": "not here"}}

    def _fault(self, call: str) -> int:
        self.calls.append(call)
        path = next((p for p, left in self.faults.items() if call.startswith(p) and left), "")
        return self.faults[path].pop(0) if path else 0

    def _keep(self, content: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    def _make(self, order: dict[str, Any]) -> dict[str, Any]:
        assert (order["endpoint"], order["completion_window"]) == ("/v1/chat/completions", "24h")
        name = f"batch_{len(self.batches)}"
        requests = [json.loads(line) for line in self.files[order["input_file_id"]].splitlines()]
        self.asked.update(r["body"]["messages"][-1]["content"] for r in requests)
        self.batches[name] = {"id": name, "status": "validating", "metadata": order["metadata"], "left": self.polls}
        self.batches[name]["requests"] = len(requests)
        self.batches[name]["input_file_id"] = order["input_file_id"]
        return self.batches[name]

    def _look(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["left"] -= 1
        if batch["left"] == 0:
            batch["status"] = self.ends.pop(0) if self.ends else "completed"
            if batch["status"] == "failed":
                batch["errors"] = {"data": [{"code": "x", "message": message} for message in self.errors]}
                return batch
            out: dict[str, list[bytes]] = {"output_file_id": [], "error_file_id": []}
            for line in self.files[batch["input_file_id"]].splitlines()[::-1]:  # in no order that one may rely on
                request = json.loads(line)
                if row := self.row(request["body"]):
                    good = (row.get("response") or {}).get("status_code") == 200
                    text = json.dumps({"id": "x", "custom_id": request["custom_id"], **row}).encode()
                    out["output_file_id" if good else "error_file_id"].append(text)
            batch |= {name: self._keep(b"\n".join(lines)) for name, lines in out.items() if lines}
        return batch

    def __enter__(self) -> FakeBatches:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()
