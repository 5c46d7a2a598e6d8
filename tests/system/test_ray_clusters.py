"""Which cluster a run works on: a private one, one that is named, and what a wrong name is answered."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import ray

from align.errors import UserError
from align.workers import cluster
from align.workers.connect import connect

NOBODY, MALFORMED = "no Ray cluster answers there", "write auto, HOST:PORT or ray://HOST:PORT"


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:9", NOBODY),
        ("nowhere.invalid:6379", NOBODY),
        ("ray://127.0.0.1:9", NOBODY),
        ("127.0.0.1:99999", NOBODY),
        ("somewhere", MALFORMED),
        ("host:port", MALFORMED),
    ],
)
def test_a_wrong_address_is_told_within_seconds(address: str, told: str):
    began = time.monotonic()
    with pytest.raises(UserError, match=told) as error:
        connect(address)
    assert str(error.value).startswith(f"--address {address}: ") and time.monotonic() - began < 20


def test_a_cluster_of_the_environment_is_not_joined_silently(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match=r"give --address 10\.0\.0\.1:6379 to use that cluster"):
        connect(None)


def test_auto_tells_what_it_found(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UserError, match="--address auto: no Ray cluster answers there"):
        connect("auto")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(UserError, match="--address auto: finds no Ray cluster"):
        connect("auto")
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    with pytest.raises(UserError, match="--address auto: finds no Ray cluster"):
        connect("auto")


def test_attaching_ships_the_drivers_align():
    """A cluster started by another program, which stays up when this one leaves it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray")  # not pytest's: Ray's sockets need a short path
    command = [
        Path(sys.executable).parent / "ray",
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--num-cpus=1",
        f"--temp-dir={folder}",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    with open(Path(folder) / "out", "w") as out:
        head = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        _until_listening(port, head)
        assert connect(f"127.0.0.1:{port}")
        path = ray.get(ray.remote(num_cpus=0.1)(lambda: sys.path).remote(), timeout=60)
        assert [p for p in path if p.startswith(folder) and (Path(p) / "align" / "config" / "recipes.py").is_file()]
        with pytest.raises(UserError, match="attached to a Ray cluster already"):
            connect("auto")
        with pytest.raises(UserError, match=r"wanted 12\.5 CPUs .* the cluster has 1; lower"):
            cluster._check([cluster.Need("rollout", 25, 0.5, 0.0)])
        ray.shutdown()
        assert head.poll() is None
    finally:
        ray.shutdown()
        head.terminate()
        head.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _until_listening(port: int, head: subprocess.Popen) -> None:
    for _ in range(600):
        assert head.poll() is None
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the head did not come up")


def test_a_private_cluster_listens_on_loopback_and_gets_no_secrets():
    """In a process of its own, whose environment it is."""
    code = (
        "import os, ray\n"
        "from align.workers.connect import connect\n"
        "connect(None)\n"
        "env = ray.get(ray.remote(num_cpus=0.1)(lambda: dict(os.environ)).remote())\n"
        "print([env.get(name) for name in ('SERVICE_API_KEY', 'HF_TOKEN', 'JUDGE', 'HF_HOME')], os.environ['HF_TOKEN'])\n"
        "print({node['NodeManagerAddress'] for node in ray.nodes()})\n"
        "ray.shutdown()\n"
    )
    secrets = {"SERVICE_API_KEY": "a", "HF_TOKEN": "b", "JUDGE": "c", "HF_HOME": "d", "ALIGN_PASS_ENV": "JUDGE"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | secrets, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["[None, None, 'c', 'd'] b", "{'127.0.0.1'}"]
