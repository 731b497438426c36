"""uvicorn around the application: connections whose head never comes, and a shutdown that answers what it took."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tokay.errors import TokayError
from tokay.models.embedder import Embedder
from tokay.serve.app import make_app
from tokay.serve.options import Options


def make_server(
    models: Mapping[str, Embedder], options: Options | None = None, *, host: str = "127.0.0.1", port: int = 8080
) -> uvicorn.Server:
    """A server that ``run`` starts; on SIGTERM and SIGINT it takes nothing more and answers what it took.

    Raises:
        TokayError: the address can be reached from elsewhere and there is no key.
    """
    options = options or Options()
    if not options.api_keys and not is_loopback(host):
        raise TokayError(
            f"--host {host} can be reached from other machines and there is no key; set TOKAY_API_KEY (or --api-key), "
            "or serve on 127.0.0.1"
        )
    config = uvicorn.Config(
        make_app(models, options),
        host=host,
        port=port,
        http=guarded(options.header_timeout),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(options.timeout) + 5,
    )
    return uvicorn.Server(config)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guarded(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which closes a connection whose request's head does not arrive within ``seconds``.

    uvicorn's own timeout begins after a response: it knows nothing of a connection that never says anything, nor of
    one that sends its head a byte at a time.
    """

    class Guarded(H11Protocol):
        _head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head = self.loop.call_later(seconds, transport.abort)

        def data_received(self, data: bytes) -> None:
            if self._head is None and self._idle():
                self._head = self.loop.call_later(seconds, self.transport.abort)
            super().data_received(data)
            if not self._idle():
                self._stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _idle(self) -> bool:
            """No request's head is complete whose answer is due."""
            return self.cycle is None or self.cycle.response_complete

        def _stop(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return Guarded
