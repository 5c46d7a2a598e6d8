"""The head of a cluster that ends is noticed by its address, on a clock of the test."""

import socket

import pytest
import ray

from align.errors import RunStopped, UserError
from align.workers import connect, head
from align.workers.head import Head


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_head_is_lost_when_its_address_has_been_silent_for_so_long(listening):
    now = [0.0]
    watched = Head(f"127.0.0.1:{listening.getsockname()[1]}", 5.0, clock=lambda: now[0])
    watched.probe()
    now[0] = 100.0
    watched.probe()
    watched.check()
    listening.close()
    for seconds, lost in ((101.0, False), (105.9, False), (106.0, True)):
        now[0] = seconds
        watched.probe()
        assert watched.lost is lost


def test_one_that_comes_back_is_not_lost():
    now = [0.0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    watched = Head(f"127.0.0.1:{address[1]}", 5.0, clock=lambda: now[0])
    watched.probe()
    now[0] = 4.0
    with socket.create_server(address, reuse_port=True):
        watched.probe()
    for seconds in (6.0, 10.0):
        now[0] = seconds
        watched.probe()
    assert not watched.lost
    now[0] = 11.0
    watched.probe()
    assert watched.lost


def test_the_loss_is_told_once_and_the_workers_are_asked_for_a_while():
    now = [0.0]
    watched = Head("127.0.0.1:1", 0.0, clock=lambda: now[0])
    watched.lost = True
    with pytest.raises(RunStopped, match="its head or one of its nodes has ended"):
        watched.check()
    now[0] = head.LAST_SECONDS - 1
    watched.check()
    now[0] = head.LAST_SECONDS
    with pytest.raises(RunStopped):
        watched.check()


def test_the_run_is_stopped_before_ray_ends_the_process():
    assert max(head.PRIVATE_SECONDS, head.ATTACHED_SECONDS) + head.LAST_SECONDS + 2 * head.INTERVAL < 50


def test_a_private_cluster_that_does_not_start_is_told(monkeypatch):
    def fails(**_):
        raise Exception("The current node timed out during startup.\nThis could happen")

    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(UserError, match=r"^a private Ray cluster did not start \(The current node timed out during startup\. This could"):
        connect.connect(None)
