"""A real server on a free port of this machine, in a thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping

from tokay.models.embedder import Embedder
from tokay.serve import Options
from tokay.serve.server import Server, listen


@contextlib.contextmanager
def serving(models: Mapping[str, Embedder], **options: object) -> Iterator[str]:
    """A server on a free port, in a thread; gives its URL."""
    chosen = Options.model_validate(options)
    listener = listen("127.0.0.1", 0, chosen)
    server = Server(models, chosen, listener)
    url = server.url
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.uvicorn.started:
            time.sleep(0.01)
        yield url
    finally:
        server.stop()
        thread.join()
