"""The page of a run, served on a free port of this machine, in a thread; and a client that has its key."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tokay.explore.server import host_run


@contextlib.contextmanager
def exploring(run: Path, copy_to: Path | None = None) -> Iterator[str]:
    """Serve a run, or a copy of it; gives the address with its key."""
    path = run
    if copy_to is not None:
        path = copy_to / run.name
        shutil.copytree(run, path)
    hosted = host_run(path, 0)
    thread = threading.Thread(target=hosted.run)
    thread.start()
    try:
        while not hosted.uvicorn.started:
            time.sleep(0.01)
        yield hosted.address
    finally:
        hosted.stop()
        thread.join()


@contextlib.contextmanager
def opened(address: str) -> Iterator[httpx.Client]:
    """A client as a browser is after it opened the address: with the cookie, and the page's token in its headers."""
    with httpx.Client(base_url=address.split("/?")[0], follow_redirects=True, timeout=60) as client:
        page = client.get(f"/?{address.split('/?')[1]}")
        token = re.search(r'name="tokay-token" content="([^"]+)"', page.text)
        assert token
        client.headers["X-Tokay-Token"] = token[1]
        yield client
