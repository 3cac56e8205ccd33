"""A Ray cluster of two nodes, each in a network namespace of its own, and commands run on it.

  unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc \
    python tests/two_nodes.py FOLDER SCRIPT
runs SCRIPT (Python) in the first node's namespace, with HEAD (an address) among its environment.
Ray takes no 127.0.0.1, so the nodes have addresses, and a cable between them. Nothing outside sees
them, and all of it ends with the process.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

PORT, CLIENT_PORT = 6379, 10001
NODES = {"one": "10.77.0.1", "two": "10.77.0.2"}
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
SECONDS = 120


def lay_cable() -> None:
    """Two namespaces, each with one end of a cable and its address."""
    run("mount", "-t", "tmpfs", "none", "/run")
    for node in NODES:
        run("ip", "netns", "add", node)
    run("ip", "link", "add", "end-one", "type", "veth", "peer", "name", "end-two")
    for node, address in NODES.items():
        run("ip", "link", "set", f"end-{node}", "netns", node)
        inside(node, "ip", "address", "add", f"{address}/24", "dev", f"end-{node}")
        inside(node, "ip", "link", "set", f"end-{node}", "up")
        inside(node, "ip", "link", "set", "lo", "up")


def run(*words: str) -> None:
    subprocess.run(words, check=True)


def inside(node: str, *words: str) -> None:
    run("ip", "netns", "exec", node, *words)


def start(node: str, words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A raylet, and on the first node the cluster's head, in the foreground of a process."""
    with log.open("wb") as file:
        return subprocess.Popen(
            ["ip", "netns", "exec", node, *RAY, *words, "--object-store-memory=90000000"],
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def wait_for_nodes(raylets: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Until Ray says that both are there."""
    script = (
        f"import ray; ray.init(address='{NODES['one']}:{PORT}', log_to_driver=False,"
        " logging_level='ERROR'); assert len(ray.nodes()) == 2"
    )
    words = ["ip", "netns", "exec", "one", sys.executable, "-c", script]
    ends = time.monotonic() + SECONDS
    while subprocess.run(words, capture_output=True, check=False).returncode:
        if time.monotonic() > ends or any(one.poll() is not None for one in raylets):
            logs = "\n".join(path.read_text() for path in folder.glob("*.log"))
            sys.exit(f"the cluster did not start:\n{logs}")
        time.sleep(1)


def main() -> None:
    """Start both nodes, run the script, leave its exit code."""
    folder, script = Path(sys.argv[1]), sys.argv[2]
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HEAD": f"{NODES['one']}:{PORT}",
        "CLIENT": f"ray://{NODES['one']}:{CLIENT_PORT}",
    }
    lay_cable()
    head = ["--head", f"--node-ip-address={NODES['one']}", f"--port={PORT}"]
    head += ["--include-dashboard=false", "--temp-dir=/run/ray"]
    raylets = [start("one", head, folder / "one.log")]
    node = [f"--address={NODES['one']}:{PORT}", f"--node-ip-address={NODES['two']}"]
    raylets.append(start("two", node, folder / "two.log"))
    wait_for_nodes(raylets, folder)
    done = subprocess.run(["ip", "netns", "exec", "one", sys.executable, "-c", script], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
