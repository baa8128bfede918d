"""Descriptions by any LLM that is served as OpenAI's chat completions: OpenAI, Ollama, vLLM, llama.cpp, LM Studio ..."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from crossalign.errors import InputError
from crossalign.text.descriptions.questions import ANSWER_SCHEMA, Order

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "no-key"
"""Sent where there is no key, since the client wants one and local servers ask for none."""
SECRET_LENGTH = 10

ASKED_AGAIN = 2
GIVE_UP_AFTER = 10
"""Classes lost to the server in a row, after which the others are not tried."""

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Server:
    """Where an LLM is asked.

    Attributes:
        model: its name there.
        base_url: up to and with "/v1".
        key: sent as the bearer token; never shown or stored.
        timeout: seconds that one answer may take.
        retries: of one request, after 408, 409, 429, 5xx, a timeout, a cut connection or a body that is no completion.
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
        """Blank out the key in what a server sent; shorter keys ("EMPTY", "ollama") are no secrets but words."""
        return text.replace(self.key, "***") if len(self.key) >= SECRET_LENGTH else text

    def one_line(self, text: object) -> str:
        """Make a server's words one short line without the key."""
        line = self.without_key(" ".join(str(text).split()))
        return line if len(line) <= 300 else f"{line[:300]} ..."


@dataclass(frozen=True)
class Answer:
    """What came of asking about a class: its texts, or why there are none."""

    name: str
    texts: tuple[str, ...] = ()
    failure: str = ""


class _NoAnswer(Exception):
    """The server failed, also after the retries."""


class _Unusable(Exception):
    """The server answered, but nothing that can be used."""


async def describe(
    server: Server, order: Order, questions: Mapping[str, str], arrived: Callable[[Answer], None], *, concurrency: int = 4
) -> None:
    """Ask about many classes, some at a time.

    Args:
        server: which is asked.
        order: what is wanted of every class.
        questions: class name to `order.question` about it.
        arrived: called with each class's answer as it comes, in the order of their coming.
        concurrency: how many classes are asked about at the same time.

    Raises:
        InputError: nothing answers there, the key is refused, or there is no such model.
    """
    from openai import AsyncOpenAI, Timeout

    limit = asyncio.Semaphore(concurrency)
    timeout = Timeout(server.timeout, connect=min(10.0, server.timeout))
    async with AsyncOpenAI(
        api_key=server.key, base_url=server.base_url, timeout=timeout, max_retries=server.retries
    ) as client:
        asker = _Asker(client, server, order)
        await asker.greet()

        async def one(name: str, question: str) -> None:
            async with limit:
                arrived(await asker.ask(name, question))

        tasks = [asyncio.ensure_future(one(*item)) for item in questions.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Asker:
    """One server and what has been learnt of it."""

    def __init__(self, client: AsyncOpenAI, server: Server, order: Order):
        self._client, self._server, self._order = client, server, order
        self._structured = True
        self._lost_in_a_row = 0

    async def greet(self) -> None:
        """Find out quickly whether anything answers there, before every class waits for its retries."""
        from openai import APIConnectionError, APIError, AuthenticationError

        quick = self._client.with_options(max_retries=1, timeout=min(30.0, self._server.timeout))
        try:
            await quick.models.with_raw_response.list()
        except APIConnectionError:
            raise InputError(
                f"no server answers at {self._server.address}; start it, or give its address with --base-url"
            ) from None
        except AuthenticationError as error:
            raise self._input_error(error) from None
        except APIError:
            pass  # Some servers have no list of models.

    async def ask(self, name: str, question: str) -> Answer:
        """Ask about a class until its texts can be used, at most three times."""
        if self._lost_in_a_row >= GIVE_UP_AFTER:
            return Answer(name, failure=f"not asked, since the server failed {GIVE_UP_AFTER} times in a row")
        try:
            answer = Answer(name, tuple(await self._until_usable(name, question)))
        except _NoAnswer as error:
            self._lost_in_a_row += 1
            return Answer(name, failure=str(error))
        except _Unusable as error:
            answer = Answer(name, failure=str(error))
        self._lost_in_a_row = 0
        return answer

    async def _until_usable(self, name: str, question: str) -> list[str]:
        order = self._order
        messages = [{"role": "system", "content": order.instruction}, {"role": "user", "content": question}]
        kept: list[str] = []
        reason = ""
        for _ in range(1 + ASKED_AGAIN):
            content = await self._complete(messages)
            try:
                usable, faults = order.sift(texts_in(content), name, kept)
            except ValueError as error:
                usable, faults = [], [str(error)]
            kept += usable
            lacking = order.count - len(kept)
            if lacking <= 0:
                return kept[: order.count]
            faults = faults or [f"there were only {len(usable)} texts"]
            reason = self._server.one_line("; ".join(faults[:5]))
            messages += [
                # Some servers refuse a message without content.
                {"role": "assistant", "content": content or "(nothing)"},
                {"role": "user", "content": f"{lacking} more are needed. {_complaint(faults)}"},
            ]
        raise _Unusable(f"{len(kept)} of {order.count} texts usable after {1 + ASKED_AGAIN} answers ({reason})")

    async def _complete(self, messages: Messages) -> str:
        """Get an answer's text; a server that cannot keep to a schema is asked for plain JSON from then on."""
        from openai import APIStatusError

        structured = self._structured
        try:
            return await self._send(messages, structured)
        except APIStatusError as error:
            # Most servers say 400 to a format that they do not know; some say 422, 500 or 501.
            if not structured or error.status_code not in (400, 422, 500, 501):
                raise self._no_answer(error) from None
        try:
            content = await self._send(messages, structured=False)
        except APIStatusError as error:
            raise self._no_answer(error) from None
        self._structured = False
        return content

    async def _send(self, messages: Messages, structured: bool) -> str:
        """Send one request, again where the client does not do so itself: after a body that is no completion."""
        from openai import APIConnectionError, APITimeoutError, AuthenticationError, NotFoundError

        options: dict[str, Any] = {}
        if structured:
            schema = {"name": "descriptions", "schema": ANSWER_SCHEMA, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        create: Callable[..., Any] = self._client.chat.completions.create
        for attempt in range(self._server.retries + 1):
            if attempt:
                await asyncio.sleep(min(0.5 * 2 ** (attempt - 1), 8))
            try:
                content = _content(await create(model=self._server.model, messages=messages, **options))
            except (AuthenticationError, NotFoundError) as error:
                raise self._input_error(error) from None
            except APITimeoutError:
                raise _NoAnswer(f"no answer within {self._server.timeout:g} s") from None
            except APIConnectionError:
                raise _NoAnswer("the connection failed") from None
            except ValueError:
                content = None
            if content is not None:
                return self._server.without_key(content)
        raise _NoAnswer("the server's answer is no chat completion")

    def _no_answer(self, error: APIStatusError) -> _NoAnswer:
        return _NoAnswer(f"HTTP {error.status_code}: {self._words(error)}")

    def _input_error(self, error: APIStatusError) -> InputError:
        if error.status_code == 401:
            # Not in the server's words, since OpenAI's show a part of the key.
            return InputError(
                f"{self._server.address} refuses the API key; put a valid one into the variable that --api-key-env names"
            )
        return InputError(
            f"{self._server.address} has no chat completions by model {self._server.model!r} (404: {self._words(error)}); "
            "check --model and --base-url, which mostly ends in /v1"
        )

    def _words(self, error: APIStatusError) -> str:
        body = error.body
        said = body.get("message") if isinstance(body, dict) else None
        return self._server.one_line(said or error.message)


def _content(completion: Any) -> str | None:
    """Take the text, or refusal, out of a completion; None if it is none, as when a proxy answers instead."""
    try:
        message = completion.choices[0].message
        content = message.content or getattr(message, "refusal", None) or ""
    except (AttributeError, IndexError, TypeError):
        return None
    return content.encode("utf-8", "ignore").decode() if isinstance(content, str) else None


def _complaint(faults: list[str]) -> str:
    listed = "\n".join(f"- {fault}" for fault in faults[:20])
    return f'These cannot be used, so write others, again as JSON {{"descriptions": [...]}}:\n{listed}'


def texts_in(content: str) -> list[str]:
    """Find the list of texts in an answer: JSON alone, in a code fence, or among words and a model's thoughts.

    Raises:
        ValueError: there is none; the message says so in words for the model.
    """
    content = re.sub(r"<think>.*?</think>", "", content, flags=re.DOTALL)
    if not content.strip():
        raise ValueError("the answer was empty")
    decoder = json.JSONDecoder()
    position = 0
    while found := re.compile(r"[{\[]").search(content, position):
        try:
            value, position = decoder.raw_decode(content, found.start())
        except (ValueError, RecursionError):
            position = found.start() + 1
            continue
        if texts := _text_list(value):
            return texts
    shown = content if len(content) <= 80 else f"{content[:80]} ..."
    raise ValueError(f'the answer "{" ".join(shown.split())}" holds no JSON list of texts')


def _text_list(value: Any) -> list[str]:
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list)]
        value = value["descriptions"] if "descriptions" in value else lists[0] if len(lists) == 1 else None
    return value if isinstance(value, list) and all(isinstance(text, str) for text in value) else []
