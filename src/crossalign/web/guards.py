"""What every request passes first: the path prefix of a proxy, other origins, a password, and a limit on bytes."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossalign.errors import InputError


@dataclass(frozen=True)
class Access:
    """Who reaches a server, and where.

    Attributes:
        login: (user, password) that every request must know, if any.
        origins: of web pages whose scripts may use the API, such as "https://example.org"; "*" are all.
        root_path: the path below which a proxy serves it, such as "/tools/crossalign"; or empty.
    """

    login: tuple[str, str] | None = field(default=None, repr=False)
    origins: tuple[str, ...] = ()
    root_path: str = ""

    def __post_init__(self) -> None:
        for origin in self.origins:
            if origin != "*" and not re.fullmatch(r"https?://[^\s/?#@*]+", origin):
                raise InputError(f"origin {origin!r} is none; give scheme and host, such as https://example.org, or *")
        if self.root_path and not re.fullmatch(r"(/[\w.~-]+)+", self.root_path):
            raise InputError(f"root path {self.root_path!r} is no path; give one such as /tools/crossalign")
        if self.root_path.split("/")[1:2] in (["v1"], ["docs"], ["gradio_api"]):
            raise InputError(f"root path {self.root_path!r} begins as the server's own paths do; give another")


def route_of(scope: Scope) -> str:
    """The path of a request below the prefix that a proxy serves it at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class PathPrefix:
    """Serves an application below a path, whether a proxy removes that path or passes it on."""

    def __init__(self, app: ASGIApp, root_path: str):
        self._app, self._root = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the prefix into the request's paths."""
        if scope["type"] in ("http", "websocket"):
            path, raw = scope["path"], scope.get("raw_path") or scope["path"].encode()
            if path != self._root and not path.startswith(f"{self._root}/"):
                path, raw = self._root + path, self._root.encode() + raw
            scope = {**scope, "root_path": self._root, "path": path, "raw_path": raw}
        await self._app(scope, receive, send)


class OtherOrigins:
    """Lets scripts of named web pages use the API; the page and all else stay closed to them."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]):
        self._app = app
        # Without credentials: a browser sends no password by itself, so that a script has to know it.
        self._cors = CORSMiddleware(
            app,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a browser's question, or add the headers that let the page read the answer."""
        is_api = scope["type"] == "http" and route_of(scope).startswith("/v1/")
        await (self._cors if is_api else self._app)(scope, receive, send)


class BasicAuth:
    """Lets nobody in who does not know user and password (HTTP Basic)."""

    def __init__(self, app: ASGIApp, user: str, password: str):
        self._app = app
        self._expected = base64.b64encode(f"{user}:{password}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or pass the request on."""
        if scope["type"] == "lifespan" or self._knows(Headers(scope=scope).get("authorization", "")):
            await self._app(scope, receive, send)
            return
        headers = {"WWW-Authenticate": 'Basic realm="crossalign", charset="UTF-8"'}
        await JSONResponse({"reason": "user or password is missing or wrong"}, 401, headers)(scope, receive, send)

    def _knows(self, header: str) -> bool:
        scheme, _, given = header.partition(" ")
        return scheme.lower() == "basic" and hmac.compare_digest(given.strip().encode(), self._expected)


class BodyLimit:
    """Reads no more of a request than a limit allows, and answers 413 to the rest.

    Uploads of the page are left out: they may be many files, each of which has the limit (`mount_page`).
    """

    def __init__(self, app: ASGIApp, megabytes: float):
        self._app = app
        self._most = int(1e6 * megabytes)
        reason = f"the request is larger than {megabytes:g} MB; send less at once"
        # Without the header the server would read on, only to throw away what comes.
        self._refusal = JSONResponse({"reason": reason}, 413, {"Connection": "close"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on as far as it goes."""
        if scope["type"] != "http" or route_of(scope) == "/gradio_api/upload":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._most:
            await self._refusal(scope, receive, send)
            return
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise _TooLarge
            return message

        async def unless_too_large(message: Message) -> None:
            nonlocal started
            # What the application says to the exception, a 400 or 500, is not the reason.
            if started or seen <= self._most:
                started = True
                await send(message)

        with suppress(_TooLarge):
            await self._app(scope, counted, unless_too_large)
        if seen > self._most and not started:
            await self._refusal(scope, receive, send)


class _TooLarge(Exception):
    """Stops whoever reads the request."""
