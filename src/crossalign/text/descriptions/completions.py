"""Parse chat completions: the model's answer without its reasoning, or why there is no answer."""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

_THOUGHTS_END = re.compile(
    r"</\s*(?:[\w:]*think(?:ing)?|thoughts?|reasoning|reflection|scratchpad)\s*>"
    r"|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final(?:<\|[^|]*\|>[^<]*)*<\|message\|>",
    re.IGNORECASE,
)
"""Closing tags of a model's reasoning; the opening tag is often part of the prompt, so the answer lacks it."""
_THOUGHTS_BEGIN = re.compile(
    r"<\s*(?:[\w:]*think(?:ing)?|thoughts?|reasoning|reflection|scratchpad)\s*>"
    r"|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>(?:analysis|commentary)",
    re.IGNORECASE,
)
_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message in which servers return the reasoning."""


@dataclass(frozen=True)
class ServerError:
    """An error that a server returned instead of an answer.

    Attributes:
        status: of HTTP, or the code that stands in the error; None if there is none.
        words: the server's own.
        code: the kind of error in a word, such as "insufficient_quota", or nothing.
    """

    status: int | None
    words: str
    code: str = ""


@dataclass(frozen=True)
class Reply:
    """The content of a completion.

    Attributes:
        text: the answer without thoughts; empty if there is none.
        fault: why the text must not be used, in words for the model and the user; empty if it may be.
    """

    text: str
    fault: str = ""


def error_in(body: Any, status: int | None = None) -> ServerError | None:
    """Find the error in a body, which some servers send with status 200; None if there is none."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if not error and isinstance(body, Mapping):
        choices = body.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        error = first.get("error") if isinstance(first, Mapping) else None
    if not error:
        return None
    if not isinstance(error, Mapping):
        return ServerError(status, str(error))
    code = error.get("code")
    said = error.get("message") or json.dumps(error, ensure_ascii=False)
    number = int(code) if isinstance(code, (int, str)) and str(code).isdecimal() else None
    word = str(code or error.get("type") or "")
    return ServerError(number or status, str(said), "" if word.isdecimal() else word)


def reply_in(body: Any) -> Reply | None:
    """Parse a completion; None if the body is no completion, for example the page of a proxy."""
    try:
        choice = body["choices"][0]
        message = choice["message"]
        content, finish = message.get("content"), choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    if isinstance(content, list):
        content = "".join(_text_of(part) for part in content)
    if not isinstance(content, (str, type(None))):
        return None
    thought = any(message.get(field) for field in _REASONING)
    text, open_thoughts = _without_thoughts(content or message.get("refusal") or "")
    text = text.encode("utf-8", "ignore").decode()
    if finish in ("length", "max_tokens"):
        # The answer may be a draft or an unfinished list, so nothing of it is used.
        return Reply("", "the answer was truncated at the token limit; raise the limit at the server if the model thinks")
    if finish == "content_filter":
        return Reply("", "the server's filter held the answer back")
    if open_thoughts:
        return Reply("", "the answer holds thoughts that do not end, and nothing behind them")
    if not text.strip():
        return Reply("", "the answer was empty" + (" behind the model's thoughts" if thought or content else ""))
    return Reply(text)


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """Read how long a server asks to wait: retry-after-ms, or Retry-After in seconds or as a date; None if it does not."""
    try:
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    except (KeyError, ValueError):
        pass
    given = headers.get("retry-after", "")
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(given)
    except (ValueError, TypeError):
        return None
    now = datetime.now(timezone.utc if until.tzinfo else None)
    return max(0.0, (until - now).total_seconds())


def texts_in(content: str) -> list[str]:
    """Find the list of texts in an answer: JSON alone, in a code fence, or among words; the last one, if there are drafts.

    Raises:
        ValueError: there is none; the message says so in words for the model.
    """
    content, open_thoughts = _without_thoughts(content)
    if open_thoughts or not content.strip():
        raise ValueError("the answer was empty")
    decoder = json.JSONDecoder()
    position = 0
    last: list[str] = []
    while bracket := re.compile(r"[{\[]").search(content, position):
        try:
            value, position = decoder.raw_decode(content, bracket.start())
        except (ValueError, RecursionError):
            position = bracket.start() + 1
            continue
        last = _text_list(value) or last
    if last:
        return last
    shown = content if len(content) <= 80 else f"{content[:80]} ..."
    raise ValueError(f'the answer "{" ".join(shown.split())}" holds no JSON list of texts')


def _text_list(value: Any) -> list[str]:
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list)]
        value = value["descriptions"] if "descriptions" in value else lists[0] if len(lists) == 1 else None
    return value if isinstance(value, list) and all(isinstance(text, str) for text in value) else []


def _without_thoughts(text: str) -> tuple[str, bool]:
    """Return what follows the last reasoning block, and whether another block begins there and does not end."""
    ends = list(_THOUGHTS_END.finditer(text))
    rest = text[ends[-1].end() :] if ends else text
    return rest, _THOUGHTS_BEGIN.search(rest) is not None


def _text_of(part: Any) -> str:
    """Return the text of one part of a message; parts with reasoning return an empty text."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get("text") if kind in ("text", "output_text") else None
    return text if isinstance(text, str) else ""
