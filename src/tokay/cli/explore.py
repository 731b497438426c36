"""``tokay explore``."""

from __future__ import annotations

import contextlib
import webbrowser
from typing import Annotated

import typer

from tokay.cli.screen import RunFolder, Screen, escape, out


def explore(
    run: RunFolder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="To listen on; 0: any that is free.")] = 8090,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in your browser.")] = True,
) -> None:
    """Browse a run's data in a page on this machine, and mend training examples by hand (docs/explore.md)."""
    from tokay.explore.server import host_run

    screen = Screen()
    with screen.bars:
        hosted = host_run(run, port, screen)
    out.print(f"the page is at {escape(hosted.address)}", soft_wrap=True)
    out.print("the address carries the key of this session; Ctrl-C ends it", soft_wrap=True)
    if browser:
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(hosted.address)
    with contextlib.suppress(KeyboardInterrupt):
        hosted.run()
    out.print("stopped; decisions are in decisions.jsonl, and the next tokay distill or tokay train reads them")
