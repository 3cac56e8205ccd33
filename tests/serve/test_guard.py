"""Who may call and in what form: keys, Host, Origin, media types, and the paths around them."""

import gzip
import json
from typing import Any

import pytest
from serve.fake_pool import FakePool
from serve.live_server import client_of
from starlette.testclient import TestClient

from puna.errors import ConfigError
from puna.serve.guard.host import host_name, is_loopback

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hi"}]}
KEY = "sk-the-right-key"

# Every route that generates or names models: a new one without a key has to be put here or there.
PUBLIC = {"/health", "/version", "/api/version"}


def with_keys(*keys: str) -> TestClient:
    return client_of(FakePool(), api_keys=keys or (KEY,))


def bearer(key: str | bytes) -> dict[str, Any]:
    value = key if isinstance(key, bytes) else key.encode("latin-1")
    return {"Authorization": b"Bearer " + value}


def test_every_documented_route_needs_the_key_but_the_public_ones():
    client = with_keys()
    document = client.get("/openapi.json", headers=bearer(KEY)).json()
    asked = {
        path: client.request(method, path.replace("{", "").replace("}", ""))
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert {path for path, answer in asked.items() if answer.status_code != 401} == PUBLIC
    assert len(asked) > 20


def test_what_no_route_answers_needs_the_key_too():
    client = with_keys()
    for path in ("/openapi.json", "/v1/nothing", "/api/pull", "/metrics/", "/runs"):
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path",
    [
        "//v1/models",
        "/V1/models",
        "/v1//models",
        "/v1/%6dodels",
        "/v1%2fmodels",
        "/%2e/v1/models",
        "/health/../v1/models",
        "/static/../v1/models",
        "/static/%2e%2e/v1/models",
        "/static/..%2fv1/models",
        "/v1/models/",
        "/v1/models;/health",
        "/v1/models?/health",
        "/v1/models%00",
    ],
)
def test_no_spelling_of_a_path_goes_around_the_key(path: str):
    answer = with_keys().get(path, follow_redirects=False)
    assert answer.status_code in (401, 404)
    assert "fake" not in answer.text


@pytest.mark.parametrize(
    "wrong",
    [
        KEY[:-1],
        KEY + "x",
        KEY[1:],
        KEY.upper(),
        KEY + "\x00",
        f"{KEY} {KEY}",
        "",
        b"sk-the-right-k\xc3\xa9y",
        b"\xff\xfe",
        "x" * 60_000,
    ],
)
def test_only_the_whole_key_is_the_key(wrong: str | bytes):
    answer = with_keys().get("/v1/models", headers=bearer(wrong))
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert KEY not in answer.text


def test_each_of_several_keys_is_right():
    client = with_keys("first", "second")
    for key in ("first", "second"):
        assert client.get("/v1/models", headers=bearer(key)).status_code == 200
        lower = {"Authorization": f"bearer {key}"}
        assert client.get("/v1/models", headers=lower).status_code == 200
    assert client.get("/v1/models", headers=bearer("third")).status_code == 401


def test_a_key_in_another_place_is_none():
    client = with_keys()
    assert client.get(f"/v1/models?api_key={KEY}").status_code == 401
    assert client.get("/v1/models", headers={"Authorization": f"Basic {KEY}"}).status_code == 401
    assert client.get("/v1/models", headers={"Authorization": KEY}).status_code == 401
    twice = [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer x")]
    assert client.get("/v1/models", headers=twice).status_code == 401


def test_without_keys_any_key_will_do():
    assert client_of(FakePool()).get("/v1/models", headers=bearer("any")).status_code == 200


def test_a_wrong_key_is_refused_before_the_body_is_looked_at():
    answer = with_keys().post(CHAT, content=b"{" * 100_000)
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8000", "localhost", "LOCALHOST:1", "localhost.", "[::1]:8000",
     "app.localhost", "127.8.9.10", "models.example.org", "Models.Example.Org:443"],
)  # fmt: skip
def test_loopback_and_configured_hosts_are_served(host: str):
    client = client_of(FakePool(), allowed_hosts=("models.example.org",))
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "evil.com:127.0.0.1", "127.1",
     "2130706433", "0x7f.0.0.1", "0.0.0.0", "192.168.1.5", "[::]", "[::ffff:8.8.8.8]",
     "user@localhost", "localhost@evil.com", "localhost:80:80", "localhost/evil", "evil.com#",
     "", " localhost", "localhost\t", "sub.models.example.org", "testserver"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/static/app.js"])
def test_another_host_is_refused_on_every_path(host: str, path: str):
    client = client_of(FakePool(), allowed_hosts=("models.example.org",))
    answer = client.get(path, headers={"Host": host})
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "permission_error"


def test_two_hosts_are_refused():
    headers = [("Host", "localhost"), ("Host", "evil.com")]
    assert client_of(FakePool()).get("/v1/models", headers=headers).status_code == 403


def test_a_server_at_every_address_is_served_by_the_one_it_was_reached_at():
    everywhere = client_of(FakePool(), host="0.0.0.0")
    reached = TestClient(everywhere.app, base_url="http://10.1.2.3:8000")
    assert reached.get("/v1/models").status_code == 200
    assert reached.get("/v1/models", headers={"Host": "10.1.2.4"}).status_code == 403
    at_one = client_of(FakePool(), host="10.1.2.3")
    assert at_one.get("/v1/models", headers={"Host": "10.1.2.3:8000"}).status_code == 200


def test_names_and_addresses_have_one_spelling():
    assert host_name("[::1]:80") == "::1"
    assert host_name("Example.ORG.") == "example.org"
    assert is_loopback("0:0:0:0:0:0:0:1")
    assert not is_loopback("localhost.example.org")


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.com", "https://127.0.0.1.evil.com", "http://localhost:3000",
               "http://127.0.0.1:8000", "file://", "", "http://evil.com:80/127.0.0.1"]
)  # fmt: skip
def test_a_page_of_another_origin_may_not_generate(origin: str):
    pool = FakePool()
    answer = client_of(pool).post(CHAT, json=BODY, headers={"Origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert pool.client.asked == []


def test_the_own_page_may_generate_also_behind_a_proxy_that_changes_the_host():
    client = client_of(FakePool(), allowed_hosts=("chat.example.org",))
    for origin in ("http://127.0.0.1", "https://chat.example.org"):
        assert client.post(CHAT, json=BODY, headers={"Origin": origin}).status_code == 200


def test_cors_is_off_unless_asked_for():
    client = client_of(FakePool())
    read = client.get("/v1/models", headers={"Origin": "http://evil.com"})
    assert not [name for name in read.headers if name.startswith("access-control")]
    asked = {"Origin": "http://evil.com", "Access-Control-Request-Method": "POST"}
    preflight = client.options(CHAT, headers=asked)
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_a_configured_origin_is_answered_without_credentials():
    settings = {"cors_origins": ("https://app.example.org",), "api_keys": (KEY,)}
    client = client_of(FakePool(), **settings)
    origin = {"Origin": "https://app.example.org"}
    asked = {
        **origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
    }
    preflight = client.options(CHAT, headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
    assert "x-stainless-os" in preflight.headers["Access-Control-Allow-Headers"]
    answer = client.post(CHAT, json=BODY, headers=origin | bearer(KEY))
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
    refused = client.post(CHAT, json=BODY, headers=origin)
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
    for one in (preflight, answer, refused):
        assert "access-control-allow-credentials" not in one.headers
    other = client.options(CHAT, headers=asked | {"Origin": "https://evil.com"})
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers


def test_every_origin_needs_a_key_and_never_has_credentials():
    with pytest.raises(ConfigError, match="without an API key"):
        client_of(FakePool(), cors_origins=("*",))
    client = client_of(FakePool(), cors_origins=("*",), api_keys=(KEY,))
    headers = {"Origin": "https://any.example", **bearer(KEY), "Cookie": "a=b"}
    answer = client.post(CHAT, json=BODY, headers=headers)
    assert answer.status_code == 200
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["null", "example.org", "https://a.org/path", "https://*", ""])
def test_what_is_no_origin_is_refused_at_the_start(origin: str):
    with pytest.raises(ConfigError, match="a CORS origin should be"):
        client_of(FakePool(), cors_origins=(origin,))


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "text/plain; application/json", "application/jsonx", "application/json, text/plain",
     "application/json; charset=utf-16", "", "application/x-json"],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/tokenize", "/api/chat"])
def test_only_json_that_says_so_is_read(kind: str, path: str):
    pool = FakePool()
    answer = client_of(pool).post(path, content=json.dumps(BODY), headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert pool.client.asked == []


@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf8"'],
)
def test_json_is_read_in_every_spelling_of_its_name(kind: str):
    headers = {"Content-Type": kind}
    assert client_of(FakePool()).post(CHAT, content=json.dumps(BODY), headers=headers).is_success


def test_a_post_without_a_media_type_or_with_two_is_refused():
    client = client_of(FakePool())
    assert client.post(CHAT, content=json.dumps(BODY)).status_code == 415
    twice = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    assert client.post(CHAT, content=json.dumps(BODY), headers=twice).status_code == 415


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip"])
def test_a_compressed_body_is_not_unpacked(coding: str):
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    body = gzip.compress(b"[" * 50_000_000, compresslevel=1)
    assert client_of(FakePool()).post(CHAT, content=body, headers=headers).status_code == 415


def test_a_body_above_the_bound_is_refused_and_one_at_it_is_read():
    body = json.dumps(BODY).encode()
    exact = client_of(FakePool(), limits={"body_bytes": len(body)})
    headers = {"Content-Type": "application/json"}
    assert exact.post(CHAT, content=body, headers=headers).status_code == 200
    answer = exact.post(CHAT, content=body + b" ", headers=headers)
    assert answer.status_code == 413
    assert answer.headers["Connection"] == "close"
    assert str(len(body)) in answer.json()["error"]["message"]


def test_a_body_in_parts_is_cut_off_where_it_becomes_too_large():
    parts = (b" " * 1000 for _ in range(1000))
    headers = {"Content-Type": "application/json"}
    client = client_of(FakePool(), limits={"body_bytes": 10_000})
    assert client.post(CHAT, content=parts, headers=headers).status_code == 413


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_of_ten_thousand_is_refused(opening: str):
    headers = {"Content-Type": "application/json"}
    for path in (CHAT, "/api/generate"):
        answer = client_of(FakePool()).post(path, content=opening * 10_000, headers=headers)
        assert answer.status_code == 400, path


def test_refusals_below_api_have_ollamas_shape():
    client = with_keys()
    answer = client.get("/api/tags")
    assert answer.status_code == 401
    assert answer.json() == {"error": "an API key is needed (hint: Authorization: Bearer KEY)"}
    unknown = client.get("/api/nothing", headers=bearer(KEY))
    assert unknown.status_code == 404
    assert isinstance(unknown.json()["error"], str)
