"""The page on a socket of this machine alone."""

from __future__ import annotations

from pathlib import Path

from tokay.errors import MissingExtra, TokayError

try:
    from tokay.explore.app import OPTIONS, Explorer, make_app
    from tokay.explore.fence import Session
    from tokay.serve.server import Hosted, listen
except ModuleNotFoundError as error:
    if error.name not in ("fastapi", "starlette", "prometheus_client", "orjson", "uvicorn"):
        raise
    raise MissingExtra("tokay explore", "serve", error.name.replace("_", "-")) from error

from tokay.explore.cache import cache_of
from tokay.progress import Progress
from tokay.store import Run

HOST = "127.0.0.1"


def host_run(path: Path, port: int, progress: Progress | None = None) -> Hosted:
    """A server of the page over a run, which answers when ``run`` begins; ``address`` has its key.

    Args:
        path: a run folder, finished or not.
        port: to listen on; 0: any that is free.
        progress: of the index that is made the first time.

    Raises:
        TokayError: no run, nothing in it yet, a run that cannot be written, or a port that is taken.
    """
    run = Run(path, writable=False)
    if not run.is_done("corpus"):
        raise TokayError(f"{path} holds no passages yet; 'tokay distill … --out {path}' reads documents first")
    listener = listen(HOST, port, OPTIONS)
    try:
        cache = cache_of(run, progress)
        session = Session(listener.getsockname()[1])
        hosted = Hosted(make_app(Explorer(run, cache), session), OPTIONS, listener)
    except BaseException:
        listener.close()
        raise
    hosted.address = hosted.url + session.path
    return hosted
