"""Posts JSON to an HTTP endpoint, with retries; several requests at once."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from align.errors import RunStopped, UserError

TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses after which a request may succeed when it is sent again."""
LONGEST_WAIT = 30.0
"""Seconds between two attempts."""
LARGEST_REPLY = 2**24
"""Bytes, decompressed."""


class RequestFailed(Exception):
    """A request that failed after every attempt; the message has the endpoint and the reason."""


def stop_run(error: RequestFailed) -> RunStopped:
    """The error that ends a run whose endpoint does not answer."""
    return RunStopped(
        f"reward: {error}; no answer is given a reward of 0 for it. Start the endpoint and resume, or let its answers count as failed: "
        "reward.on_error=fail (reward_limits.on_failure says what becomes of them)"
    )


def check_url(url: str) -> None:
    """Raises ValueError for an address that is not http(s), or that holds a password, which the recipe would show."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url must begin with http:// or https:// and name a host, not {url!r}")
    if parts.username or parts.password:
        raise ValueError("url must not hold a user or password: put the key into an environment variable and name it in key_variable")


@dataclass(frozen=True)
class Endpoint:
    """An address, and how it is asked."""

    url: str
    key: str | None = field(repr=False)
    """Sent as `Authorization: Bearer KEY`."""
    timeout: float
    """Seconds for one attempt."""
    attempts: int
    wait: float
    """Seconds before the second attempt; doubled before each further one."""
    at_once: int
    """Requests under way at the same time."""

    def post_all(self, bodies: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The parsed answers in order. After the first failure nothing more is sent, and it is raised as RequestFailed."""
        if not bodies:
            return []
        over = threading.Event()
        client = requests.Session()
        client.mount("http://", HTTPAdapter(pool_maxsize=self.at_once))
        client.mount("https://", HTTPAdapter(pool_maxsize=self.at_once))
        pool = ThreadPoolExecutor(self.at_once, thread_name_prefix="reward-request")
        try:
            return list(pool.map(lambda body: self._post(client, body, over), bodies))
        finally:  # also where a time limit interrupts
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)
            client.close()

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """As `auth`, because a header alone would give way to an entry of ~/.netrc."""
        if self.key is not None:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def _answer(self, client: requests.Session, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and content. A redirect is not followed: it would turn a POST into a GET, or send the row somewhere else."""
        ends = time.monotonic() + self.timeout
        with client.post(self.url, json=dict(body), auth=self._sign, timeout=self.timeout, stream=True, allow_redirects=False) as answer:
            content = bytearray()
            # read1 returns what has come; other reads wait for more, each time for as long as `timeout`.
            while chunk := answer.raw.read1(2**16, decode_content=True):
                content += chunk
                if time.monotonic() > ends:
                    raise requests.Timeout(f"the reply took longer than {self.timeout:g} s")
                if len(content) > LARGEST_REPLY:
                    raise RequestFailed(f"{self.url} answered more than {LARGEST_REPLY:,} bytes")
            return answer.status_code, answer.headers, bytes(content)

    def _parsed(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise RequestFailed(f"{self.url} answered {_start(content, 60)}, which is no JSON") from None

    def _post(self, client: requests.Session, body: Mapping[str, Any], over: threading.Event) -> Any:
        reason, attempt = "", 0
        while attempt < self.attempts and not over.is_set():
            attempt += 1
            pause = min(self.wait * 2 ** (attempt - 1), LONGEST_WAIT)
            try:
                status, headers, content = self._answer(client, body)
            except requests.exceptions.InvalidJSONError as error:
                raise RequestFailed(
                    f"{self.url} was not asked: a field of the row has a value that JSON does not have ({error})"
                ) from error
            except (requests.RequestException, HTTPError) as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if status < 300:
                    return self._parsed(content)
                if status < 400:
                    raise RequestFailed(
                        f"{self.url} redirects (status {status}) to {headers.get('location')!r:.200}: name that address as url"
                    )
                reason = f"status {status}: {_start(content, 100)}"
                if status not in TRANSIENT:
                    break
                pause = max(pause, _retry_after(headers))
            if attempt < self.attempts:
                over.wait(min(pause, LONGEST_WAIT))
        over.set()
        raise RequestFailed(
            f"{self.url} failed after {attempt} attempt{'s' if attempt != 1 else ''} ({reason or 'another request failed'})"
        )


def _start(content: bytes, characters: int) -> str:
    return repr(content.decode(errors="replace")[:characters])


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks for; 0 where it does not, or names a date."""
    value = headers.get("retry-after", "")
    return float(value) if value.isdecimal() else 0.0


def key_from(variable: str | None, where: str) -> str | None:
    """The key in this environment variable. Raises UserError where it is not set."""
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise UserError(f"{where}: the environment variable {variable} is not set (key_variable), in the process that scores answers")
    return key
