"""``tokay serve``: embeddings over HTTP, in the words of the clients that people have. No torch here.

Reading order: options, catalogue (names), batcher (whose turn it is), encoder (texts to vectors), openai and gemini
(what clients say), guard (keys, sizes, time), app (all of it), server (uvicorn).
"""

from tokay.errors import MissingExtra

try:
    from tokay.serve.app import make_app
    from tokay.serve.options import Options
except ModuleNotFoundError as error:
    if error.name not in ("fastapi", "starlette", "prometheus_client"):
        raise
    raise MissingExtra("tokay serve", "serve", error.name.replace("_", "-")) from error

__all__ = ["Options", "make_app"]
