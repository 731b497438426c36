"""uvicorn around the application: connections whose head never comes, and a shutdown that answers what it took."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping

from tokay.errors import MissingExtra, TokayError

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ModuleNotFoundError as error:
    raise MissingExtra("tokay serve", "serve", "uvicorn") from error

from starlette.types import ASGIApp

from tokay.models.cross_encoder import CrossEncoder
from tokay.models.embedder import Embedder
from tokay.search.index import Searcher
from tokay.search.reranker import Reranker
from tokay.serve.app import make_app
from tokay.serve.options import Options

_IDLE_SECONDS = 30
"""How long a connection may stay open between two requests."""

_BACKLOG = 1024


def listen(host: str, port: int, options: Options) -> socket.socket:
    """The address that is served, taken but not yet answered on.

    Raises:
        TokayError: it can be reached from elsewhere and there is no key, or it cannot be had.
    """
    if not options.api_keys and not is_loopback(host):
        raise TokayError(
            f"host {host!r} can be reached from other machines and there is no key; set TOKAY_API_KEY (or --api-key), "
            "or serve on 127.0.0.1"
        )
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # asyncio sets this itself only on sockets that were made with proto=IPPROTO_TCP; without it the body of an
        # answer waits 40 ms for the client to acknowledge the header (Nagle's algorithm and delayed acknowledgement)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
    except OSError as error:
        raise TokayError(f"cannot listen on {host} port {port}: {error.strerror}; choose another --port") from error
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Hosted:
    """An application on a socket, until SIGTERM or SIGINT; then it takes nothing more, answers what it took, and ends.

    Args:
        app: of ASGI.
        options: of which the times matter.
        listener: of ``listen``.
    """

    def __init__(self, app: ASGIApp, options: Options, listener: socket.socket) -> None:
        self.listener = listener
        self.address = self.url
        listener.listen(_BACKLOG)  # whoever is told the address may connect, and is answered when ``run`` begins
        self.app = app
        config = uvicorn.Config(
            app,
            http=guarded(options.header_timeout),
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=round(options.timeout) + 5,
        )
        self.uvicorn = uvicorn.Server(config)

    @property
    def url(self) -> str:
        """Where it is."""
        host, port = self.listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Serve; a signal ends it."""
        self.uvicorn.run(sockets=[self.listener])

    def stop(self) -> None:
        """As the signals do, from another thread."""
        self.uvicorn.should_exit = True


class Server(Hosted):
    """Serves models.

    Args:
        models: name to embedder.
        options: what can be chosen.
        listener: of ``listen``.
        indexes: name to index, for ``/v1/search``.
        rerankers: name to reranker, for ``/v1/rerank``.
    """

    def __init__(
        self,
        models: Mapping[str, Embedder],
        options: Options,
        listener: socket.socket,
        *,
        indexes: Mapping[str, Searcher] | None = None,
        rerankers: Mapping[str, Reranker[CrossEncoder]] | None = None,
    ) -> None:
        super().__init__(make_app(models, options, indexes=indexes, rerankers=rerankers), options, listener)


def guarded(seconds: float) -> type[H11Protocol]:
    """An HTTP protocol that closes a connection whose request's head does not arrive within ``seconds``.

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
