"""Schemathesis reads the OpenAPI document and asks everything: what is answered is documented.

A few requests of each route here; `make test-api` asks thousands. Whether a request that fits its
schema is served is not checked: some fields contradict each other, which a schema does not say.
"""

import pytest
from hypothesis import HealthCheck, settings
from serve.fake_pool import FakePool
from serve.live_server import settings_for

from puna.serve.app import build_app

schemathesis = pytest.importorskip("schemathesis", reason="puna[clients] is not installed")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

HOST = {"Host": "127.0.0.1"}
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
FEW, MANY = 6, 2000
ANY_SPEED = {"deadline": None, "suppress_health_check": list(HealthCheck)}

# Schemathesis 4.32 cannot make wrong conversations for this route: it ends with InvalidSchema.
ONLY_RIGHT = [{"include-path": "/apply-template", "generation": {"mode": "positive"}}]

pool = FakePool()
document = schemathesis.openapi.from_asgi(
    "/openapi.json",
    build_app(settings_for(pool), pool),
    headers=HOST,
    config=schemathesis.Config.from_dict({"operations": ONLY_RIGHT}),
)


def check(case) -> None:
    """Ask it, and compare the answer with the document."""
    case.call_and_validate(headers=HOST, checks=CHECKS)


@document.parametrize()
@settings(max_examples=FEW, **ANY_SPEED)
def test_every_answer_is_a_documented_one(case):
    check(case)


@pytest.mark.fuzz
@document.parametrize()
@settings(max_examples=MANY, **ANY_SPEED)
def test_every_answer_of_thousands_is_a_documented_one(case):
    check(case)
