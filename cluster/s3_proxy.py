"""A proxy before a local S3 server: sees every request, and delays, cuts or refuses it if told to.

For measuring (a server 30 ms away) and for breaking things at an exact moment (half of an object
sent, then the sender dies). Signatures stay valid: hosts, paths and bodies pass unchanged.

    with LocalS3(folder) as server, S3Proxy(server.endpoint, latency_s=0.03) as proxy:
        os.environ.update(server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint})

What always holds: when the server does not answer, the client's connection is closed without an
answer, as if there were no proxy.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import ClientError, ClientSession, TCPConnector, web
from yarl import URL

from cluster.s3 import free_port

Moment = Literal["before", "after"]
Verdict = Literal["pass", "cut", "drop"]
_OF_ONE_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}
_LIMIT_BYTES = 1 << 30


@dataclass(frozen=True)
class Seen:
    """One request. path: bucket and key, without a leading slash. status: of the answer, 0 before
    there is one."""

    method: str
    path: str
    body: bytes
    moment: Moment
    status: int = 0


def look_on(seen: Seen) -> Verdict:
    """Let everything pass."""
    return "pass"


class S3Proxy:
    """One proxy on loopback, on a thread of its own.

    `hook` is called in that thread when a request has come in and again before its answer goes out.
    Before, "cut" sends only half of the body on and then drops both connections, and "drop" sends
    nothing on; after, either keeps the answer back.
    """

    def __init__(
        self, upstream: str, *, latency_s: float = 0.0, hook: Callable[[Seen], Verdict] = look_on
    ) -> None:
        self.upstream = upstream
        self.latency_s = latency_s
        self.hook = hook
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="s3 proxy", daemon=True)
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._session: ClientSession

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(30):
            raise RuntimeError("the proxy did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def _serve(self) -> None:
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        connector = TCPConnector(limit=0)
        async with ClientSession(auto_decompress=False, connector=connector) as session:
            self._session = session
            app = web.Application(client_max_size=_LIMIT_BYTES)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.lstrip("/")
        try:
            body = await request.read()
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            verdict = self.hook(Seen(request.method, path, body, "before"))
            if verdict == "drop":
                raise _Cut
            answer = await self._forward(request, body, cut=verdict == "cut")
            if self.hook(Seen(request.method, path, body, "after", answer.status)) != "pass":
                raise _Cut
        except (ClientError, ConnectionError, _Cut):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)
        return answer

    async def _forward(self, request: web.Request, body: bytes, *, cut: bool) -> web.Response:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in _OF_ONE_HOP
        }
        if cut:
            headers["Content-Length"] = str(len(body))
        async with self._session.request(
            request.method,
            URL(self.upstream + request.raw_path, encoded=True),
            headers=headers,
            data=_half(body) if cut else body,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
            allow_redirects=False,
        ) as answer:
            data = await answer.read()
            return _passed_on(request, answer.status, answer.headers, data)


class _Cut(Exception):
    """The sender is gone."""


async def _half(body: bytes) -> AsyncIterator[bytes]:
    yield body[: len(body) // 2]
    await asyncio.sleep(0.05)  # so that it arrives
    raise _Cut


def _passed_on(request: web.Request, status: int, headers: Any, data: bytes) -> web.Response:
    answer = web.Response(status=status, body=data)
    own = _OF_ONE_HOP if request.method == "HEAD" else {*_OF_ONE_HOP, "content-length"}
    for name, value in headers.items():
        if name.lower() not in own:
            answer.headers[name] = value
    return answer
