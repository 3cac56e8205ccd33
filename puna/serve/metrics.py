"""GET /metrics: what the server does, in Prometheus' text format, by vLLM's names under `puna:`.

What requests see is counted here, as their texts come: a model that is unloaded or an engine that
is started again loses none of it. What only an engine knows (its queue, its cache) is asked of the
engines at each scrape, and absent for models that are not loaded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import prometheus_client as prometheus
from fastapi import APIRouter, Request, Response
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from puna.serve.access_log import note_model
from puna.serve.clients import Pool, State
from puna.serve.engine_client import EngineClient, Piece, Started
from puna.serve.openai.responses import ONLY_READS

logger = logging.getLogger("puna.serve")
router = APIRouter(tags=["server"])

_SCRAPE_SECONDS = 2.0  # for the engines to answer; a step of a long prompt may come first

# Upper bounds in seconds: what follows the first token is mostly faster than what precedes it.
_FIRST = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
_BETWEEN = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
_WHOLE = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800)

_HISTOGRAMS = {
    "time_to_first_token_seconds": (_FIRST, "From the request to its first token"),
    "inter_token_latency_seconds": (_BETWEEN, "Between tokens of a text"),
    "e2e_request_latency_seconds": (_WHOLE, "From the request to its end"),
    "request_queue_time_seconds": (_WHOLE, "In the engine's queue"),
    "request_prefill_time_seconds": (_WHOLE, "Reading the prompt"),
    "request_decode_time_seconds": (_WHOLE, "From the first token to the last"),
}
_COUNTERS = {
    "prompt_tokens": "Tokens of prompts",
    "generation_tokens": "Tokens made",
    "prefix_cache_queries": "Prompt tokens that were looked up",
    "prefix_cache_hits": "Prompt tokens that were found computed",
}
# Field of an engine's answer -> name, family, help.
_OF_ENGINES = {
    "running": ("num_requests_running", GaugeMetricFamily, "Texts under way"),
    "waiting": ("num_requests_waiting", GaugeMetricFamily, "Texts in the queue"),
    "preemptions": ("num_preemptions", CounterMetricFamily, "Texts put back for want of cache"),
    "drafted_tokens": ("spec_decode_num_draft_tokens", CounterMetricFamily, "Tokens guessed"),
    "accepted_tokens": ("spec_decode_num_accepted_tokens", CounterMetricFamily, "Guessed right"),
    "steps": ("engine_steps", CounterMetricFamily, "Steps of the engine"),
    "memory_bytes": ("model_memory_bytes", GaugeMetricFamily, "Memory of the model's process"),
    "loads": ("model_loads", CounterMetricFamily, "How often the model was loaded"),
}
_STATES: tuple[State, ...] = ("ready", "loading", "unloaded", "failed")


class Metrics:
    """All counts of one server."""

    def __init__(self) -> None:
        # A time beside each count would double the text.
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self._registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        model = ["model_name"]
        self._histograms = {
            name: prometheus.Histogram(
                f"puna:{name}", text, model, buckets=bounds, registry=registry
            )
            for name, (bounds, text) in _HISTOGRAMS.items()
        }
        self._counters = {
            name: prometheus.Counter(f"puna:{name}", text, model, registry=registry)
            for name, text in _COUNTERS.items()
        }
        self._ended = prometheus.Counter(
            "puna:request_success",
            "Texts that ended, by why: stop, length, abort (the client left) or error",
            [*model, "finished_reason"],
            registry=registry,
        )
        self._responses = prometheus.Counter(
            "puna:http_responses", "HTTP responses", ["status"], registry=registry
        )
        self._engines = _Engines()
        registry.register(self._engines)

    def note_response(self, record: Mapping[str, Any]) -> None:
        """Count a response as the access log tells of it."""
        self._responses.labels(str(record["status"])).inc()

    def request(self, model: str, began: float) -> RequestMeter:
        """Counts one prompt's texts; `began` is time.perf_counter()'s when it was asked."""
        histograms = {name: one.labels(model) for name, one in self._histograms.items()}
        counters = {name: one.labels(model) for name, one in self._counters.items()}
        return RequestMeter(model, began, histograms, counters, self._ended)

    async def text(self, pool: Pool) -> bytes:
        """Everything in Prometheus' text format."""
        try:
            async with asyncio.timeout(_SCRAPE_SECONDS):
                self._engines.answers = await pool.metrics()
        except TimeoutError:
            logger.warning("metrics without the engines: no answer in %g s", _SCRAPE_SECONDS)
            self._engines.answers = {}
        return prometheus.generate_latest(self._registry)


class RequestMeter:
    """Watches the parts of one prompt's texts."""

    def __init__(
        self,
        model: str,
        began: float,
        histograms: Mapping[str, prometheus.Histogram],
        counters: Mapping[str, prometheus.Counter],
        ended: prometheus.Counter,
    ) -> None:
        self._model = model
        self._began = began
        self._histograms = histograms
        self._counters = counters
        self._ended = ended
        self._latest: dict[int, float] = {}  # when each text had its last token
        self._texts_left = 0

    def take(self, part: Started | Piece) -> None:
        """Count a part that has just come."""
        if isinstance(part, Started):
            self._texts_left = part.choices
            self._counters["prompt_tokens"].inc(part.prompt_tokens)
            return
        if part.ids:
            self._take_tokens(part)
        if part.ending is not None and "error" not in part.ending:
            self._take_ending(part.choice, part.ending)

    def fail(self, reason: str) -> None:
        """Count the texts that will not end by themselves."""
        if self._texts_left:
            self._ended.labels(self._model, reason).inc(self._texts_left)

    def _take_tokens(self, piece: Piece) -> None:
        now, count = time.perf_counter(), len(piece.ids)
        self._counters["generation_tokens"].inc(count)
        before = self._latest.get(piece.choice)
        if before is not None:
            between = self._histograms["inter_token_latency_seconds"]
            between.observe((now - before) / count)
        elif not self._latest:
            self._histograms["time_to_first_token_seconds"].observe(now - self._began)
        self._latest[piece.choice] = now

    def _take_ending(self, choice: int, ending: Mapping[str, Any]) -> None:
        self._texts_left -= 1
        self._ended.labels(self._model, ending["finish_reason"]).inc()
        if choice == 0:
            self._counters["prefix_cache_queries"].inc(ending["prompt_tokens"])
            self._counters["prefix_cache_hits"].inc(ending["cached_tokens"])
            for name in ("queue", "prefill", "decode"):
                seconds = ending[f"{name}_seconds"]
                self._histograms[f"request_{name}_time_seconds"].observe(seconds)
        if not self._texts_left:
            whole = self._histograms["e2e_request_latency_seconds"]
            whole.observe(time.perf_counter() - self._began)


class MeteredPool:
    """A pool whose models' texts are counted; otherwise as it is."""

    def __init__(self, pool: Pool, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[EngineClient]:
        """The pool's, with a client that counts. Raises ServeError."""
        began = time.perf_counter()
        note_model(name)
        async with self._pool.use(name) as client:
            # It is asked as the client itself, and everything but `generate` is the client's.
            yield cast(EngineClient, _MeteredClient(client, self._metrics, name, began))


class _MeteredClient:
    def __init__(self, client: EngineClient, metrics: Metrics, model: str, began: float) -> None:
        self._client = client
        self._metrics = metrics
        self._model = model
        self._began = began

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def generate(self, **fields: Any) -> AsyncGenerator[Started | Piece]:
        meter = self._metrics.request(self._model, self._began)
        reason = "error"
        try:
            async with aclosing(self._client.generate(**fields)) as parts:
                async for part in parts:
                    meter.take(part)
                    yield part
        except (GeneratorExit, asyncio.CancelledError):
            reason = "abort"
            raise
        finally:
            meter.fail(reason)


class _Engines(Collector):
    """What the engines answered last, as Prometheus' families."""

    def __init__(self) -> None:
        self.answers: Mapping[str, Mapping[str, Any]] = {}

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        for field, (name, family, text) in _OF_ENGINES.items():
            told = family(f"puna:{name}", text, labels=["model_name"])
            for model, answer in self.answers.items():
                if field in answer:
                    told.add_metric([model], answer[field])
            yield told
        yield self._cache_usage()
        yield self._states()

    def _cache_usage(self) -> GaugeMetricFamily:
        text = "Part of the cache's pages that is used, 1 is all"
        told = GaugeMetricFamily("puna:kv_cache_usage_perc", text, labels=["model_name"])
        for model, answer in self.answers.items():
            if answer.get("pages"):
                told.add_metric([model], answer["pages_used"] / answer["pages"])
        return told

    def _states(self) -> GaugeMetricFamily:
        labels = ["model_name", "state"]
        told = GaugeMetricFamily("puna:model_state", "1 for the model's state", labels=labels)
        for model, answer in self.answers.items():
            for state in _STATES:
                told.add_metric([model, state], float(answer.get("state") == state))
        return told


@router.get(
    "/metrics",
    response_class=Response,
    responses={**ONLY_READS, 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Counts for Prometheus."""
    state = request.app.state
    text = await state.metrics.text(state.pool)
    return Response(text, headers={"Content-Type": prometheus.CONTENT_TYPE_LATEST})
