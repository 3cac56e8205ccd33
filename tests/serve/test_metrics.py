"""/metrics as Prometheus' own parser reads it, against what was asked and said."""

import asyncio
import time
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve.fake_pool import FakeClient, FakePool
from serve.live_server import client_of, serving
from serve.puna_serve import puna_serve
from serve.raw_http import answered, chat, connected, head
from shared_weights import SHARED, needs_shared
from starlette.testclient import TestClient

from puna.serve.errors import ServeError

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]
PROMPT_TOKENS = len("user: Hi\n")  # of the scripted pool, one a character

# vllm/v1/metrics/loggers.py: what dashboards ask for, after the prefix.
VLLM_NAMES = {
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "num_preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "request_success_total",
    "time_to_first_token_seconds_bucket",
    "inter_token_latency_seconds_bucket",
    "e2e_request_latency_seconds_bucket",
    "request_queue_time_seconds_bucket",
    "request_prefill_time_seconds_bucket",
    "request_decode_time_seconds_bucket",
}
ENGINE = {"running": 3, "waiting": 2, "pages": 200, "pages_used": 50, "preemptions": 4, "steps": 9}


class EnginePool(FakePool):
    """A pool whose engines count as ENGINE says, after `wait_seconds`."""

    wait_seconds = 0.0

    async def metrics(self) -> dict[str, dict[str, Any]]:
        await asyncio.sleep(self.wait_seconds)
        return {name: {"state": "ready", "loads": 1, **ENGINE} for name in self.clients}


def samples(client: TestClient) -> dict[str, float]:
    """Every sample by its name and the values of its labels, histograms' bounds left out."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return parsed(answer.text)


def parsed(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            if "le" not in sample.labels:
                found[" ".join([sample.name, *sorted(sample.labels.values())])] = sample.value
    return found


def test_every_name_that_vllms_dashboards_ask_for_is_there():
    client = client_of(EnginePool())
    assert client.post(CHAT, json={"messages": MESSAGES}).status_code == 200
    names = {
        sample.name.removeprefix("puna:")
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }
    assert names >= VLLM_NAMES


def test_the_text_says_what_it_is():
    answer = client_of(FakePool()).get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert "# TYPE puna:prompt_tokens_total counter" in answer.text
    assert "_created" not in answer.text


def test_tokens_and_ends_are_counted_per_model():
    pool = FakePool(small=FakeClient(says=["a", "b", "c"]), large=FakeClient(says=["a"] * 50))
    client = client_of(pool)
    client.post(CHAT, json={"model": "small", "messages": MESSAGES})
    client.post(CHAT, json={"model": "small", "messages": MESSAGES, "stream": True, "n": 2})
    client.post(CHAT, json={"model": "large", "messages": MESSAGES, "max_tokens": 5})
    found = samples(client)
    assert found["puna:prompt_tokens_total small"] == 2 * PROMPT_TOKENS
    assert found["puna:generation_tokens_total small"] == 3 + 2 * 3
    assert found["puna:generation_tokens_total large"] == 5
    assert found["puna:request_success_total small stop"] == 3
    assert found["puna:request_success_total large length"] == 1
    assert found["puna:prefix_cache_queries_total small"] == 2 * PROMPT_TOKENS
    assert found["puna:prefix_cache_hits_total small"] == 2  # the pool finds one token each time
    assert found["puna:http_responses_total 200"] == 3


def test_times_are_those_of_the_clock():
    client = client_of(FakePool(fake=FakeClient(says=["a", "b", "c"], wait_seconds=0.05)))
    began = time.perf_counter()
    client.post(CHAT, json={"messages": MESSAGES})
    took = time.perf_counter() - began
    found = samples(client)
    assert found["puna:time_to_first_token_seconds_count fake"] == 1
    assert 0.05 <= found["puna:time_to_first_token_seconds_sum fake"] < took
    assert found["puna:inter_token_latency_seconds_count fake"] == 2
    assert 0.1 <= found["puna:inter_token_latency_seconds_sum fake"] < took
    assert found["puna:e2e_request_latency_seconds_count fake"] == 1
    assert 0.15 <= found["puna:e2e_request_latency_seconds_sum fake"] <= took
    assert found["puna:request_prefill_time_seconds_sum fake"] == 0.25  # as the engine says
    assert found["puna:request_decode_time_seconds_sum fake"] == 0.5


def test_each_prompt_of_a_list_is_a_request():
    client = client_of(FakePool())
    client.post("/v1/completions", json={"prompt": ["ab", "cde"], "max_tokens": 2})
    found = samples(client)
    assert found["puna:prompt_tokens_total fake"] == 5
    assert found["puna:e2e_request_latency_seconds_count fake"] == 2


def test_a_text_that_fails_and_one_that_is_left_are_counted_as_such():
    failing = FakePool(fake=FakeClient(says=["a", ServeError("failed", "broken")]))
    client = client_of(failing)
    assert client.post(CHAT, json={"messages": MESSAGES}).status_code == 500
    found = samples(client)
    assert found["puna:request_success_total error fake"] == 1
    assert found["puna:generation_tokens_total fake"] == 1
    assert found["puna:http_responses_total 500"] == 1
    assert found["puna:e2e_request_latency_seconds_count fake"] == 0


def test_who_leaves_is_counted_as_aborted():
    endless = FakePool(fake=FakeClient(never_ends=True, wait_seconds=0.01))
    with serving(endless) as url:
        connection = connected(url)
        connection.sendall(chat(stream=True, max_tokens=100_000))
        assert connection.recv(1000)
        connection.close()
        began = time.monotonic()
        while not endless.client.left and time.monotonic() < began + 5:
            time.sleep(0.02)
        answer = answered(url, head("/metrics", "GET", Connection="close")).decode()
        found = parsed(answer.split("\r\n\r\n", 1)[1])
    assert found["puna:request_success_total abort fake"] == 1


def test_refusals_are_counted_by_their_status():
    client = client_of(FakePool(), api_keys=("key",))
    client.get("/v1/models")
    client.get("/v1/models", headers={"Host": "evil.com"})
    answer = client.get("/metrics", headers={"Authorization": "Bearer key"})
    found = parsed(answer.text)
    assert found["puna:http_responses_total 401"] == 1
    assert found["puna:http_responses_total 403"] == 1


def test_what_the_engines_know_is_asked_of_them():
    found = samples(client_of(EnginePool()))
    assert found["puna:num_requests_running fake"] == 3
    assert found["puna:num_requests_waiting fake"] == 2
    assert found["puna:kv_cache_usage_perc fake"] == 0.25
    assert found["puna:num_preemptions_total fake"] == 4
    assert found["puna:model_state fake ready"] == 1
    assert found["puna:model_state fake loading"] == 0


def test_an_engine_that_does_not_answer_costs_only_its_own_numbers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("puna.serve.metrics._SCRAPE_SECONDS", 0.05)
    pool = EnginePool()
    pool.wait_seconds = 5
    client = client_of(pool)
    client.post(CHAT, json={"messages": MESSAGES})
    found = samples(client)
    assert "puna:num_requests_running fake" not in found
    assert found["puna:generation_tokens_total fake"] == 3
    assert "metrics without the engines" in caplog.text


def test_names_with_quotes_and_newlines_are_escaped():
    pool = FakePool(**{'a"b\\c\nd': FakeClient()})
    client = client_of(pool)
    client.post(CHAT, json={"messages": MESSAGES})
    assert samples(client)['puna:generation_tokens_total a"b\\c\nd'] == 3


def test_two_servers_of_a_process_count_apart():
    one, other = client_of(FakePool()), client_of(FakePool())
    one.post(CHAT, json={"messages": MESSAGES})
    assert "puna:generation_tokens_total fake" in samples(one)
    assert "puna:generation_tokens_total fake" not in samples(other)


@needs_shared
def test_a_real_engine_is_counted_as_it_says():
    stories = SHARED / "stories260K" / "stories260K.gguf"
    body = {"prompt": "Once upon a time", "max_tokens": 20, "temperature": 0}
    with puna_serve(stories, "--backend", "numpy") as url:
        for _ in range(2):
            usage = httpx.post(f"{url}/v1/completions", json=body).json()["usage"]
        found = parsed(httpx.get(f"{url}/metrics").text)
    model = "stories260K"
    assert found[f"puna:prompt_tokens_total {model}"] == 2 * usage["prompt_tokens"]
    assert found[f"puna:generation_tokens_total {model}"] == 40
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert found[f"puna:prefix_cache_hits_total {model}"] == cached
    assert found[f"puna:inter_token_latency_seconds_count {model}"] == 38
    assert found[f"puna:num_requests_running {model}"] == 0
    assert 0 <= found[f"puna:kv_cache_usage_perc {model}"] < 1
    assert found[f"puna:model_loads_total {model}"] == 1
    assert found[f"puna:engine_steps_total {model}"] >= 20
    assert found[f"puna:model_memory_bytes {model}"] > 10**6
    decode = found[f"puna:request_decode_time_seconds_sum {model}"]
    assert 0 < decode <= found[f"puna:e2e_request_latency_seconds_sum {model}"]
