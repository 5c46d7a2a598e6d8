"""Starting a private Ray cluster, or attaching to the one the user named; never one instead of the other."""

from __future__ import annotations

import logging
import os
import socket
from importlib.util import find_spec
from pathlib import Path

import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

from align.errors import UserError

PROBE_SECONDS = 5.0
PACKAGES = ("align", "align_kernels")


def connect(address: str | None) -> bool:
    """Join a cluster; True where it is a private one, to be shut down at the end.

    A program that has called `ray.init` itself keeps its cluster and gives no address.
    Raises: UserError naming the address where nothing can be reached, within seconds.
    """
    if ray.is_initialized():
        if address is not None:
            raise UserError(f"--address {address}: this process is attached to a Ray cluster already; call ray.shutdown() first, or "
                            "give no address to use that cluster")
        return False
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        elsewhere = os.environ.get("RAY_ADDRESS")
        if elsewhere:
            raise UserError(f"RAY_ADDRESS is {elsewhere}, but no address was given: give --address {elsewhere} to use that cluster, or "
                            "unset RAY_ADDRESS to start a private one")
        # Without address="local" Ray joins whatever cluster it finds running on the machine.
        ray.init(address="local", include_dashboard=False, **quiet)
        return True
    _probe(address)
    # `ray start` authenticates by token where one exists; a client with an explicit address does so only if told. It says so in a
    # warning, before `ray.init` quiets its log.
    logging.getLogger("ray").setLevel(logging.ERROR)
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        # The nodes run the driver's align, not one they may have installed.
        ray.init(address=address, runtime_env={"py_modules": _package_folders()}, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(f"--address {address}: cannot attach ({error}). Is it the address that `ray start --head` printed, is Ray "
                        f"{ray.__version__} there too, and, where it authenticates by token, is RAY_AUTH_MODE=token set and the token "
                        "the same on both sides?") from error
    return False


def _probe(address: str) -> None:
    """Ray itself would try for minutes before it gives up on an address where nothing listens."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--address {address}: write auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: nothing answers there ({error}); `ray status` on the head node tells its address, and "
                        "without --address a private cluster is started on this machine") from error


def _package_folders() -> list[str]:
    found = [find_spec(name) for name in PACKAGES]
    return [str(Path(spec.origin).parent) for spec in found if spec is not None and spec.origin]
