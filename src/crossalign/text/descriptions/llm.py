"""Descriptions by any LLM that is served as OpenAI's chat completions: OpenAI, Ollama, vLLM, llama.cpp, LM Studio ..."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from crossalign.errors import InputError, need_package
from crossalign.text.descriptions.completions import Reply, ServerError, error_in, reply_in, seconds_to_wait, texts_in
from crossalign.text.descriptions.questions import ANSWER_SCHEMA, Order

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger("crossalign")

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "no-key"
"""Sent if there is no key: the client needs one, local servers do not."""
SECRET_LENGTH = 10

ASKED_AGAIN = 2
GIVE_UP_AFTER = 10
"""Number of classes in a row for which the server failed, after which the run ends."""
LONGEST_WAIT = 60.0
"""The most seconds that a server may ask to wait; a longer wait ends the run."""
TOLD_FROM = 5.0
"""A wait of at least so many seconds is reported to the user."""
NO_COMPLETIONS = 2
"""Number of answers without a completion, after which a server that never gave one is not asked again."""

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Server:
    """Address and settings of an LLM server.

    Attributes:
        model: its name there.
        base_url: up to and with "/v1".
        key: sent as the bearer token; never shown or stored.
        timeout: seconds that one answer may take.
        retries: of one request, after 408, 409, 429, 5xx, a timeout, a lost connection or a body that is no completion; each
            waits as long as the server asks, else half a second and then twice as long each time.
    """

    model: str
    base_url: str = OPENAI_URL
    key: str = field(default=NO_KEY, repr=False)
    timeout: float = 600.0
    retries: int = 6

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
            good = good and not parts.query and not parts.fragment
        except ValueError:
            good = False
        if not good:
            raise InputError("the base URL is no plain http address; give one such as http://localhost:11434/v1")
        # The client's own message about such a header would hold the key.
        if not self.key.isascii() or not self.key.isprintable() or " " in self.key:
            raise InputError("the API key holds characters that cannot be sent; set the environment variable again")

    @property
    def address(self) -> str:
        """The base URL without user and password, to be shown and stored."""
        parts = urlsplit(self.base_url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")).rstrip("/")

    def without_key(self, text: str) -> str:
        """Remove the key from what a server sent; very short keys ("EMPTY", "ollama") are words, not secrets."""
        return text.replace(self.key, "***") if len(self.key) >= SECRET_LENGTH else text

    def one_line(self, text: object) -> str:
        """Shorten a server's message to one line without the key."""
        line = self.without_key(" ".join(str(text).split()))
        return line if len(line) <= 300 else f"{line[:300]} ..."


@dataclass(frozen=True)
class Answer:
    """Outcome of the questions about a class: its texts, or why there are none."""

    name: str
    texts: tuple[str, ...] = ()
    failure: str = ""


class _NoAnswer(Exception):
    """The server failed, also after retries."""


class _Unusable(Exception):
    """The server answered, but no text was usable."""


async def describe(
    server: Server,
    order: Order,
    questions: Mapping[str, str],
    arrived: Callable[[Answer], None],
    *,
    concurrency: int = 4,
    say: Callable[[str], None] = log.info,
) -> None:
    """Ask about many classes, some at a time.

    Args:
        server: which is asked.
        order: what is wanted of every class.
        questions: class name to `order.question` about it.
        arrived: called with each class's answer as it comes, in the order of their coming.
        concurrency: how many classes are asked about at the same time.
        say: told of long waits that the server asks for.

    Raises:
        InputError: what holds for every class: nothing answers there, the key is refused, there is no such model, a quota is
            used up, or the server asks to wait for longer than a minute.
    """
    need_package("openai", "llm", "asking an LLM")
    from openai import AsyncOpenAI, Timeout

    limit = asyncio.Semaphore(concurrency)
    timeout = Timeout(server.timeout, connect=min(10.0, server.timeout))
    async with AsyncOpenAI(api_key=server.key, base_url=server.base_url, timeout=timeout, max_retries=0) as client:
        asker = _Asker(client, server, order, say)
        await asker.greet()

        async def ask(name: str, question: str) -> None:
            async with limit:
                arrived(await asker.ask(name, question))

        tasks = [asyncio.ensure_future(ask(*item)) for item in questions.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Asker:
    """A server, and which features it turned out to support."""

    def __init__(self, client: AsyncOpenAI, server: Server, order: Order, say: Callable[[str], None]):
        self._client, self._server, self._order, self._say = client, server, order, say
        self._structured = True
        self._answered = False
        self._lost_in_a_row = 0
        self._refusal: InputError | None = None
        self._told_until = 0.0

    async def greet(self) -> None:
        """Check quickly whether a server answers, before every class waits for its retries."""
        from openai import APIConnectionError, APIError, AuthenticationError

        quick = self._client.with_options(max_retries=1, timeout=min(30.0, self._server.timeout))
        try:
            await quick.models.with_raw_response.list()
        except APIConnectionError:
            raise InputError(
                f"no server answers at {self._server.address}; start it, or give the base URL of another"
            ) from None
        except AuthenticationError:
            raise self._refused(ServerError(401, "")) from None
        except APIError:
            pass  # Some servers have no list of models.

    async def ask(self, name: str, question: str) -> Answer:
        """Ask about a class until its texts can be used, at most three times."""
        if self._refusal is not None:  # Another class has met it just now.
            raise self._refusal
        if self._lost_in_a_row >= GIVE_UP_AFTER:
            return Answer(name, failure=f"not asked, since the server failed {GIVE_UP_AFTER} times in a row")
        try:
            answer = Answer(name, tuple(await self._until_usable(name, question)))
        except _NoAnswer as error:
            self._lost_in_a_row += 1
            return Answer(name, failure=str(error))
        except _Unusable as error:
            answer = Answer(name, failure=str(error))
        except InputError as error:
            self._refusal = error
            raise
        self._lost_in_a_row = 0
        return answer

    async def _until_usable(self, name: str, question: str) -> list[str]:
        order = self._order
        messages = [{"role": "system", "content": order.instruction}, {"role": "user", "content": question}]
        taken: list[str] = []
        reason = ""
        for _ in range(1 + ASKED_AGAIN):
            reply = await self._complete(messages)
            try:
                usable, faults = order.sift([] if reply.fault else texts_in(reply.text), name, taken)
            except ValueError as error:
                usable, faults = [], [str(error)]
            taken += usable
            lacking = order.count - len(taken)
            if lacking <= 0:
                return taken[: order.count]
            faults = faults or [reply.fault or f"there were only {len(usable)} texts"]
            reason = self._server.one_line("; ".join(faults[:5]))
            messages += [
                # Some servers refuse a message without content.
                {"role": "assistant", "content": reply.text or "(nothing)"},
                {"role": "user", "content": f"{lacking} more are needed. {_complaint(faults)}"},
            ]
        raise _Unusable(f"{len(taken)} of {order.count} texts usable after {1 + ASKED_AGAIN} answers ({reason})")

    async def _complete(self, messages: Messages) -> Reply:
        """Get an answer; a server that cannot keep to a schema is asked for plain JSON from then on."""
        structured = self._structured
        reply = await self._send(messages, structured)
        # Most servers say 400 to a format that they do not know; some say 422, 500 or 501, or 200.
        if structured and isinstance(reply, ServerError) and reply.status in (None, 200, 400, 422, 500, 501):
            reply = await self._send(messages, structured=False)
            self._structured = isinstance(reply, ServerError)
        if isinstance(reply, ServerError):
            said = self._server.one_line(reply.words)
            if reply.status in (None, 200):
                if not self._answered:
                    refusal = f"{self._server.address} answers no question but says {said!r}"
                    raise InputError(f"{refusal}; check the model's name and {self._base_url}")
                raise _NoAnswer(f"the server says {said!r}")
            raise _NoAnswer(f"HTTP {reply.status}: {said}")
        self._answered = True
        return reply

    async def _send(self, messages: Messages, structured: bool) -> Reply | ServerError:
        """Send a request, again after failures that may pass; waits as long as the server asks, up to a bound.

        The client's own retries are off: which waits it respects, and up to which length, differs between its versions.
        """
        options: dict[str, Any] = {"model": self._server.model, "messages": messages}
        if structured:
            schema = {"name": "descriptions", "schema": ANSWER_SCHEMA, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        attempt = 0
        while True:
            outcome, wait = await self._try(options)
            if isinstance(outcome, Reply):
                return outcome
            if isinstance(outcome, ServerError):
                self._check_refusal(outcome)
                if not _may_pass(outcome.status):
                    return outcome
            self._check_wait(outcome, wait)
            if isinstance(outcome, _NotACompletion) and attempt >= NO_COMPLETIONS and not self._answered:
                raise InputError(f"{self._server.address} gives no chat completions ({outcome}); check {self._base_url}")
            if attempt >= self._server.retries:
                if isinstance(outcome, ServerError):
                    return outcome
                raise _NoAnswer(str(outcome))
            await self._sleep(min(0.5 * 2**attempt, 8) if wait is None else wait)
            attempt += 1

    async def _try(self, options: Mapping[str, Any]) -> tuple[Reply | ServerError | _Passing, float | None]:
        """Send a request once: what came of it, and how long the server asks to wait."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        create: Callable[..., Any] = self._client.chat.completions.with_raw_response.create
        try:
            response = (await create(**options)).http_response
        except APITimeoutError:
            return _Passing(f"no answer within {self._server.timeout:g} s"), None
        except APIConnectionError:
            return _Passing("the connection failed"), None
        except APIStatusError as error:
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            # The client has taken the error out of the body.
            fault = error_in({"error": error.body}, error.status_code) or ServerError(error.status_code, error.message)
            return ServerError(error.status_code, fault.words, fault.code), seconds_to_wait(headers)
        headers = {name.lower(): value for name, value in response.headers.items()}
        text = self._server.without_key(response.text)
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        if failure := error_in(body, 200):
            return failure, seconds_to_wait(headers)
        reply = reply_in(body)
        if reply is None:
            start = f": {self._server.one_line(text)[:80]!r}" if text.strip() else ", but empty"
            return _NotACompletion(f"the server's answer is no chat completion{start}"), None
        return reply, None

    def _check_refusal(self, error: ServerError) -> None:
        """Raise an error where a refusal holds for every class.

        Raises:
            InputError: it does.
        """
        if error.status in (401, 402, 403, 404, 405) or error.code == "insufficient_quota":
            raise self._refused(error)

    def _check_wait(self, outcome: Any, wait: float | None) -> None:
        if wait is not None and wait > LONGEST_WAIT:
            said = f" ({self._server.one_line(outcome.words)})" if isinstance(outcome, ServerError) else ""
            raise InputError(
                f"{self._server.address} asks to wait {wait:.0f} s{said}, longer than {LONGEST_WAIT:g} s; what is answered "
                "is saved, and the same command goes on after that time"
            )

    async def _sleep(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        if seconds >= TOLD_FROM and now >= self._told_until:
            self._told_until = now + seconds
            self._say(f"{self._server.address} asks to wait; going on in {seconds:.0f} s")
        await asyncio.sleep(seconds)

    def _refused(self, error: ServerError) -> InputError:
        said = self._server.one_line(error.words)
        address = self._server.address
        if error.status == 401:
            # OpenAI's words show a part of the key.
            words = "" if "key" in said.lower() or not said else f" ({said})"
            return InputError(f"{address} refuses the API key{words}; put a valid one into its environment variable")
        if error.status in (404, 405):
            return InputError(
                f"{address} has no chat completions by model {self._server.model!r} ({error.status}: {said}); "
                f"check the model's name and {self._base_url}"
            )
        return InputError(f"{address} refuses to answer ({error.status}: {said}); see to that, and give the command again")

    @property
    def _base_url(self) -> str:
        has_version = self._server.address.rstrip("/").endswith("/v1")
        return "the base URL" if has_version else f"the base URL, which mostly ends in /v1 ({self._server.address}/v1)"


class _Passing(str):
    """A failure that may be temporary, in words."""


class _NotACompletion(_Passing):
    """An answer that is no completion, as when a proxy answers."""


def _may_pass(status: int | None) -> bool:
    return status in (408, 409, 429) or (status is not None and status >= 500)


def _complaint(faults: list[str]) -> str:
    listed = "\n".join(f"- {fault}" for fault in faults[:20])
    return f'These cannot be used, so write others, again as JSON {{"descriptions": [...]}}:\n{listed}'
