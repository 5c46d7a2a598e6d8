"""Starts a private Ray cluster, or attaches to the one that the user named, without a fallback between the two."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import grpc
import ray
from ray._private import ray_constants
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]  # compiled, and without a stub
from ray.exceptions import RayError

from align.errors import UserError
from align.workers.environment import without_secrets

PROBE_SECONDS = 5.0
PACKAGES = ("align", "align_kernels")
LOOPBACK = "127.0.0.1"
QUIET = {"logging_level": "ERROR", "log_to_driver": False}
USERS_AUTH_MODE = os.environ.get("RAY_AUTH_MODE")


def connect(address: str | None) -> bool:
    """Join a cluster. Returns True if this call joined it: the caller must then call `ray.shutdown`, which ends only a private cluster.

    A program that has called `ray.init` itself gives no address, and its cluster is used.
    Raises: UserError naming the address if no cluster can be reached within seconds.
    """
    if ray.is_initialized():
        if address is not None:
            raise UserError(
                f"--address {address}: this process is attached to a Ray cluster already; call ray.shutdown() first, or "
                "give no address to use that cluster"
            )
        return False
    if address is None:
        elsewhere = os.environ.get("RAY_ADDRESS")
        if elsewhere:
            raise UserError(
                f"RAY_ADDRESS is {elsewhere}, but no address was given: give --address {elsewhere} to use that cluster, or "
                "unset RAY_ADDRESS to start a private one"
            )
        _authenticate(USERS_AUTH_MODE or "token")
        with without_secrets(), _on_loopback():
            _start()
        _protect_token()
        return True
    found = _running(address) if address == "auto" else address
    _authenticate("token" if _wants_token(found, address) else "disabled")
    try:
        # The nodes run the driver's version of align, not their own.
        ray.init(address=found, runtime_env={"py_modules": _package_folders()}, **QUIET)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise UserError(
            f"--address {address}: cannot attach ({error}). Is Ray {ray.__version__} there too, and, where it authenticates by "
            "token, is the token (~/.ray/auth_token or RAY_AUTH_TOKEN_PATH) the same on both sides?"
        ) from error
    return True


def _start() -> None:
    """Start a private cluster. Ray raises a bare Exception where one of its processes does not come up."""
    try:
        # Without address="local" Ray joins any cluster that runs on the machine.
        ray.init(address="local", include_dashboard=False, _node_ip_address=LOOPBACK, **QUIET)
    except Exception as error:
        ray.shutdown()
        raise UserError(
            f"a private Ray cluster did not start ({' '.join(str(error).split())}): is the machine busy with other work? Try again when "
            "it is not, or use workers.backend: local"
        ) from error


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A cluster that starts in the block listens on loopback only, so that no other machine reaches it.

    Ray replaces a loopback address by the machine's, except where it allows no clusters of several machines.
    """
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the processes of the cluster
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = True
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


def _protect_token() -> None:
    """Let the user alone read the token, which runs code in every cluster that has it. Ray writes it by the user's mask."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with suppress(OSError):  # the file of another user, whose mode is theirs
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)


def _authenticate(mode: str) -> None:
    """Authenticate as the cluster does. Otherwise calls from the cluster to the client fail, and actors vanish."""
    os.environ["RAY_AUTH_MODE"] = mode
    Config.initialize("")  # Ray reads the variable once, when it is imported


def _running(address: str) -> str:
    """HOST:PORT for `auto`: the cluster of RAY_ADDRESS, as inside a Ray job, else the one on this machine."""
    try:
        found = canonicalize_bootstrap_address(address)
        if found is None:
            raise ValueError("RAY_ADDRESS is `local`, which names none")
        return found
    except (ConnectionError, ValueError) as error:
        raise UserError(
            f"--address {address}: finds no Ray cluster ({error}); give its HOST:PORT, or leave --address out to start a private one"
        ) from error


def _wants_token(found: str, address: str) -> bool:
    """Check that a Ray head answers, and whether it needs a token. Ray itself would retry for minutes, or without end."""
    client, target = found.startswith("ray://"), found.removeprefix("ray://")
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--address {address}: write auto, HOST:PORT or ray://HOST:PORT")
    channel = grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])
    try:
        channel.unary_unary("/ray.rpc.RayletDriver/ClusterInfo" if client else "/ray.rpc.NodeInfoGcsService/CheckAlive")(
            b"", timeout=PROBE_SECONDS
        )
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return True
        # A client port answers an empty request with NOT_FOUND.
        if not (client and error.code() is grpc.StatusCode.NOT_FOUND):
            raise UserError(
                f"--address {address}: no Ray cluster answers there ({error.details() or error.code().name}); `ray status` on "
                "the head node tells its address, a client port is written ray://HOST:PORT, and without --address a private "
                "cluster is started on this machine"
            ) from error
    finally:
        channel.close()
    return False


def _package_folders() -> list[str]:
    found = [find_spec(name) for name in PACKAGES]
    return [str(Path(spec.origin).parent) for spec in found if spec is not None and spec.origin]
