"""A chat server on loopback that answers after a fixed time and costs next to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator

BODY = json.dumps(
    {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": '{"grades": {"1": 3, "2": 0, "3": 1}, "best": 1}'},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 500, "completion_tokens": 20, "total_tokens": 520},
    }
)


def reply(status: int, body: str, *headers: str) -> bytes:
    """A whole response."""
    head = [f"HTTP/1.1 {status} -", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


def faulty(rng: random.Random) -> bytes | None:
    """10 % 429, 5 % 500, 3 % JSON that is cut off, 2 % no answer at all; else an answer."""
    share = rng.random()
    if share < 0.10:
        return reply(429, '{"error": {"message": "slow down"}}', f"retry-after: {rng.choice(('0', '0.1'))}")
    if share < 0.15:
        return reply(500, '{"error": {"message": "oops"}}')
    if share < 0.18:
        return reply(200, BODY[: len(BODY) // 2])
    return None if share < 0.20 else reply(200, BODY)


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as far as it is needed: one request after another, each with a content-length."""

    answer = reply(200, BODY)
    rng: random.Random | None = None
    seconds = 0.5

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0] or 0) if found else 0
        if not found or len(body) < length:
            return
        self.received = body[length:]
        answer = faulty(self.rng) if self.rng else self.answer
        if answer:
            asyncio.get_running_loop().call_later(self.seconds, self._send, answer)

    def _send(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)


async def _serve(seconds: float, seed: int) -> None:
    _Connection.seconds, _Connection.rng = seconds, random.Random(seed) if seed else None
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the parent is gone


@contextlib.contextmanager
def serving(seconds: float, *, seed: int = 0) -> Iterator[str]:
    """The base URL of such a server in a process of its own; a seed makes it fail as ``faulty`` says."""
    command = [sys.executable, __file__, str(seconds), str(seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.stdin.close()
            process.wait(10)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), int(sys.argv[2])))
