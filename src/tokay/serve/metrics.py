"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS = tuple(2**n for n in range(4, 18))
_TEXTS = tuple(2**n for n in range(12))


class Metrics:
    """One registry a server, so that two of them in a process do not count together."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self._requests = Counter("tokay_requests", "Requests by route and status", ["route", "status"], registry=own)
        self._seconds = Histogram(
            "tokay_request_seconds",
            "Time from a request's head to its answer",
            ["route"],
            buckets=_SECONDS,
            registry=own,
        )
        self._tokens = Counter("tokay_tokens", "Tokens that were asked for, by model", ["model"], registry=own)
        self._texts = Counter("tokay_texts", "Texts that were asked for, by model", ["model"], registry=own)
        self._batch_texts = Histogram("tokay_batch_texts", "Texts of a micro-batch", buckets=_TEXTS, registry=own)
        self._batch_tokens = Histogram(
            "tokay_batch_tokens", "Padded tokens of a micro-batch", buckets=_TOKENS, registry=own
        )
        self._batch_seconds = Histogram("tokay_batch_seconds", "Time of a micro-batch", buckets=_SECONDS, registry=own)
        self._waiting = Gauge("tokay_waiting_tokens", "Tokens that no micro-batch has taken yet", registry=own)

    def watch(self, waiting: Callable[[], float]) -> None:
        """Where the number of waiting tokens is read."""
        self._waiting.set_function(waiting)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered; status 499: its client had gone."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def asked(self, model: str, texts: int, tokens: int) -> None:
        """A request asked for vectors."""
        self._tokens.labels(model).inc(tokens)
        self._texts.labels(model).inc(texts)

    def batch(self, texts: int, tokens: int, seconds: float) -> None:
        """A micro-batch was run."""
        self._batch_texts.observe(texts)
        self._batch_tokens.observe(tokens)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """What ``/metrics`` answers."""
        return generate_latest(self.registry)
