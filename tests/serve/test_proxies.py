"""What docs/how-to/serve-models.md gives to other programs is understood by them, and works."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
from serve.fake_pool import FakeClient, FakePool
from serve.live_server import serving
from serve.puna_serve import ROOT, puna_serve

PAGE = (ROOT / "docs" / "how-to" / "serve-models.md").read_text(encoding="utf-8")
NAME = "box.example.org"
TOKENS, WAIT_SECONDS = 8, 0.1
LONG_BODY = 3 << 20


def block(language: str) -> str:
    """The page's only block in it."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)
    return str(found)


def program(name: str) -> str:
    """Its path; proxies lie where only root looks by default."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"this machine has no {name}")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextmanager
def running(*command: str) -> Iterator[None]:
    """The program, until the block ends."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def nginx(folder: Path, port: int, server: str) -> Iterator[str]:
    """The page's nginx in front of the server, with a certificate of its own."""
    path = program("nginx")
    request = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"]
    files = {"key": str(folder / "box.key"), "pem": str(folder / "box.pem")}
    request += ["-days", "1", "-subj", f"/CN={NAME}", "-keyout", files["key"], "-out", files["pem"]]
    subprocess.run(request, check=True, capture_output=True)
    text = block("nginx").replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    for kind, file in files.items():
        text = text.replace(f"/etc/ssl/box.{kind}", file)
    text = text.replace("http://127.0.0.1:8000", server)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "" if os.getuid() else "user root;"  # the folder is but ours
    main = f"{user} daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
    http = f"http {{\naccess_log off;\n{paths}{text}}}\n"
    (folder / "nginx.conf").write_text(main + http)
    with running(path, "-p", str(folder), "-c", str(folder / "nginx.conf")):
        yield f"https://127.0.0.1:{port}"


@contextmanager
def caddy(folder: Path, port: int, server: str) -> Iterator[str]:
    """The page's Caddy; it gets no certificate here, and so speaks HTTP."""
    path = program("caddy")
    text = block("caddyfile").replace(NAME, f"http://{NAME}:{port}", 1)
    text = text.replace("127.0.0.1:8000", server.removeprefix("http://"))
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + text)
    with running(path, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(params=[nginx, caddy])
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[httpx2.Client]:
    """A client of a proxy in front of a model that says a token every tenth of a second."""
    pool = FakePool(fake=FakeClient(says=["word "] * TOKENS, wait_seconds=WAIT_SECONDS))
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    port, headers = free_port(), {"Host": NAME}
    with (
        serving(pool, allowed_hosts=(NAME,)) as server,
        request.param(tmp_path, port, server) as url,
        httpx2.Client(base_url=url, verify=trust, headers=headers, timeout=20) as client,
    ):
        end = time.monotonic() + 10
        while True:
            with suppress(httpx2.TransportError):
                if "ok" in client.get("/health").text:
                    break
            assert time.monotonic() < end
            time.sleep(0.05)
        yield client


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_a_stream_comes_through_as_it_is_made(proxied: httpx2.Client, path: str):
    body = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    began = time.monotonic()
    with proxied.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        times = [time.monotonic() - began for _piece in answer.iter_raw()]
    assert len(times) >= TOKENS
    assert times[-1] - times[0] > (TOKENS - 2) * WAIT_SECONDS


def test_large_bodies_and_request_ids_come_through(proxied: httpx2.Client):
    message = {"role": "user", "content": "x" * LONG_BODY}
    body = {"model": "fake", "messages": [message]}
    answer = proxied.post("/v1/chat/completions", json=body)
    assert answer.json()["error"]["code"] == "context_length_exceeded"  # it was read as a whole
    assert answer.headers["X-Request-Id"]


def test_a_foreign_origin_is_refused_and_the_page_s_own_is_not(proxied: httpx2.Client):
    body = {"prompt": "Hi", "max_tokens": 1}
    for origin, status in ((f"https://{NAME}", 200), ("https://evil.example.org", 403)):
        answer = proxied.post("/v1/completions", json=body, headers={"Origin": origin})
        assert answer.status_code == status


def test_prometheus_reads_the_page_s_configuration(tmp_path: Path):
    path = program("promtool")
    text = block("yaml").replace("/etc/prometheus/puna.key", str(tmp_path / "key"))
    (tmp_path / "key").write_text("key")
    (tmp_path / "prometheus.yml").write_text(text)
    subprocess.run([path, "check", "config", str(tmp_path / "prometheus.yml")], check=True)
    asks = [row.replace("\\|", "|") for row in re.findall(r"^\| `(.+?)` \|", PAGE, re.M)]
    assert len(asks) == 5
    rules = [{"record": f"ask{number}", "expr": ask} for number, ask in enumerate(asks)]
    groups = {"groups": [{"name": "asks", "rules": rules}]}
    (tmp_path / "rules.yml").write_text(json.dumps(groups))
    subprocess.run([path, "check", "rules", str(tmp_path / "rules.yml")], check=True)


def test_every_number_of_the_page_is_told(tiny_run: Path):
    names = set(re.findall(r"puna:\w+", PAGE))
    assert len(names) > 5
    with puna_serve(tiny_run, "--backend", "numpy") as url, httpx2.Client(base_url=url) as client:
        client.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 2})
        told = set(re.findall(r"^(puna:\w+)", client.get("/metrics").text, re.M))
    assert names - told == set()


def test_systemd_reads_the_page_s_unit(tmp_path: Path):
    path = program("systemd-analyze")
    unit = block("ini").replace("/opt/puna/bin/puna", "/bin/true").replace("User=puna\n", "")
    (tmp_path / "puna.service").write_text(unit)
    done = subprocess.run(
        [path, "verify", "--man=no", str(tmp_path / "puna.service")], capture_output=True, text=True
    )
    assert [line for line in done.stderr.splitlines() if "puna.service" in line] == []
