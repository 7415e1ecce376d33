"""Bytes to and from one API server, over the Kubernetes client's configuration and connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from rlhf_operator.runtime.errors import Silent, TooLong, Unreachable

READ_AHEAD = 2**21
"""Bytes of an answer that are read before they are asked for: an event of a watch may be large."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds without which nothing would notice that nobody answers."""

    connect: float = 5.0
    answer: float = 30.0
    """From the request to the end of its answer."""
    silence: float = 100.0
    """Between two events of a watch: the API server sends a bookmark about once a minute."""


@dataclass(frozen=True)
class Response:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    content: bytes


async def in_cluster() -> Configuration:
    """As the pod's service account, its token read again as it is renewed."""
    configuration = Configuration()
    kubernetes_config.load_incluster_config(client_configuration=configuration)
    return configuration


async def from_kubeconfig(path: str | None = None, context: str | None = None) -> Configuration:
    """As a kubeconfig says: the one given, or KUBECONFIG, or the user's own."""
    configuration = Configuration()
    await kubernetes_config.load_kube_config(
        config_file=path, context=context, client_configuration=configuration, persist_config=False
    )
    return configuration


async def configuration(path: str | None = None, context: str | None = None) -> Configuration:
    """In a pod the service account, elsewhere (or where a path is given) a kubeconfig."""
    if path is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        return await in_cluster()
    return await from_kubeconfig(path, context)


class Stream:
    """An answer that is read as it comes."""

    def __init__(self, response: aiohttp.ClientResponse, path: str) -> None:
        self._response = response
        self._what = f"GET {path}"
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        """All of it."""
        with _told_as_unreachable(self._what):
            return await self._response.read()

    async def lines(self) -> AsyncIterator[bytes]:
        """Its lines, of any length (aiohttp's own reader bounds them).

        Raises:
            Silent: nothing came for too long.
            Unreachable: it broke off.
        """
        begun: list[bytes] = []
        while chunk := await self._chunk():
            *complete, rest = chunk.split(b"\n")
            for line in complete:
                begun.append(line)
                yield b"".join(begun)
                begun = []
            begun.append(rest)

    async def _chunk(self) -> bytes:
        try:
            with _told_as_unreachable(self._what):
                return await self._response.content.readany()
        except Unreachable as error:
            if isinstance(error.__cause__, TimeoutError):
                raise Silent(str(error)) from error.__cause__
            raise


class Transport:
    """A pool of connections to one API server, used in one event loop."""

    def __init__(self, configuration: Configuration, timeouts: Timeouts, user_agent: str) -> None:
        self._configuration = configuration
        self._timeouts = timeouts
        # Not compressed: it is CPU at both ends of a fast network.
        self._headers = {"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "identity"}
        self._trust = RESTClientObject(configuration).ssl_context
        self._proxy = _proxy(configuration)
        self._session: aiohttp.ClientSession | None = None

    @property
    def host(self) -> str:
        """Of the API server, with the port."""
        return str(self._configuration.host).partition("://")[2]

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        most_bytes: int | None = None,
    ) -> Response:
        """Send a request and read its whole answer.

        Raises:
            Unreachable: there was none.
            TooLong: it has more than `most_bytes`.
        """
        limit = aiohttp.ClientTimeout(total=self._timeouts.answer, sock_connect=self._timeouts.connect)
        with _told_as_unreachable(f"{method} {path}"):
            async with await self._send(method, path, limit, body, content_type) as response:
                content = await _read(response, most_bytes)
                return Response(response.status, response.headers, content)

    @contextlib.asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[Stream]:
        """GET an answer that goes on and on. The block begins when the answer does.

        Raises:
            Unreachable: it did not.
        """
        limit = aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect, sock_read=self._timeouts.silence)
        with _told_as_unreachable(f"GET {path}"):
            async with asyncio.timeout(self._timeouts.answer):
                response = await self._send("GET", path, limit)
        try:
            yield Stream(response, path)
        finally:
            response.close()

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def _send(
        self,
        method: str,
        path: str,
        limit: aiohttp.ClientTimeout,
        body: Any = None,
        content_type: str = "application/json",
    ) -> aiohttp.ClientResponse:
        if self._session is None:  # here, and not earlier: it belongs to the running loop
            connector = aiohttp.TCPConnector(limit=0, ssl=self._trust, socket_factory=_socket)
            # The client's own session asks .netrc and the environment anew for every request, in threads: that took
            # more time than all else.
            self._session = aiohttp.ClientSession(
                connector=connector, trust_env=False, read_bufsize=READ_AHEAD, cookie_jar=aiohttp.DummyCookieJar()
            )
        headers = {**self._headers, "Content-Type": content_type, **await self._authorization()}
        return await self._session.request(
            method,
            str(self._configuration.host).rstrip("/") + path,
            data=None if body is None else orjson.dumps(body),
            headers=headers,
            timeout=limit,
            proxy=self._proxy,
            server_hostname=self._configuration.tls_server_name or None,
        )

    async def _authorization(self) -> dict[str, str]:
        settings = await self._configuration.auth_settings()
        return {
            setting["key"]: setting["value"]
            for setting in settings.values()
            if setting["in"] == "header" and setting["value"]
        }


async def _read(response: aiohttp.ClientResponse, most_bytes: int | None) -> bytes:
    if most_bytes is None:
        return await response.read()
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > most_bytes:
            raise TooLong(f"{response.method} {response.url.path}: found more than {most_bytes} bytes")
    return b"".join(parts)


@contextlib.contextmanager
def _told_as_unreachable(what: str) -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
        reason = str(error) or type(error).__name__
        raise Unreachable(f"{what.partition('?')[0]}: {reason}") from error


def _proxy(configuration: Configuration) -> str | None:
    """The way to the API server: the kubeconfig's, else the environment's. Read once, not for every request."""
    if configuration.proxy:
        return str(configuration.proxy)
    target = urlsplit(str(configuration.host))
    if not target.hostname or proxy_bypass(target.hostname):
        return None
    return getproxies().get(target.scheme)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that notices within half a minute that the other end is gone, without a reset and in mid-silence."""
    family, kind, protocol = address[:3]
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
        if hasattr(socket, option):  # each system has its own set of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return sock
