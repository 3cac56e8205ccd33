"""The OpenAPI document: every route, its schemas, and every status that it may answer with."""

from serve.fake_pool import FakePool
from serve.live_server import client_of

from puna.serve.openai.schemas import UNSUPPORTED, ChatRequest, CompletionRequest


def document() -> dict:
    return client_of(FakePool()).get("/openapi.json").json()


def test_every_route_says_how_it_fails():
    for path, operations in document()["paths"].items():
        for operation in operations.values():
            statuses = set(operation["responses"])
            assert "422" not in statuses, path
            if "requestBody" in operation:
                assert {"200", "400", "401", "413", "415", "429", "500", "503"} <= statuses, path
            assert operation["responses"]["200"]["description"], path


def test_a_failure_has_one_schema():
    body = document()["paths"]["/v1/chat/completions"]["post"]["responses"]["429"]["content"]
    assert body["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}


def test_a_stream_is_documented_beside_the_whole_answer():
    content = document()["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}


def test_no_schema_is_left_over_or_missing():
    made = document()
    text = str(made)
    for name in made["components"]["schemas"]:
        assert f"#/components/schemas/{name}" in text
    assert "HTTPValidationError" not in text


def test_no_documented_field_is_refused_as_unsupported():
    for request, allowed in ((ChatRequest, set()), (CompletionRequest, set())):
        assert set(request.model_fields) & set(UNSUPPORTED) == allowed


def test_nothing_is_loaded_from_elsewhere():
    """FastAPI's own pages would load their scripts from a foreign host."""
    client = client_of(FakePool())
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
