"""What every request passes first, the page's and the API's alike: a password, and a limit on bytes."""

from __future__ import annotations

import base64
import hmac
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


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
        if scope["type"] != "http" or scope["path"] == "/gradio_api/upload":
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
