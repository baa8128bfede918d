"""Answers of servers as they are met: errors with status 200, thoughts, parts, cut answers, and waits that are asked for."""

import json
import re
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from click.testing import CliRunner

from crossalign.cli import main
from crossalign.text.descriptions import llm
from crossalign.text.descriptions.completions import error_in, reply_in, seconds_to_wait, texts_in
from crossalign.text.descriptions.questions import Order
from crossalign.text.names import mentions
from llm_answers import answering, described

DRAFT = [f"DRAFT number {word} to be thrown away" for word in ("one", "two", "three", "four", "five", "six", "seven")]
GOOD = (
    "a long tapering tail",
    "two upright pointed ears",
    "thick grey winter fur",
    "a narrow dark muzzle",
    "four slender pale legs",
    "wide amber coloured eyes",
    "a broad white chest",
    "black tips on both ears",
    "a bushy ruff of hair",
    "large furry round paws",
    "a sloping muscular back",
    "short stiff whiskers below",
)
DRAFTED, ANSWER = json.dumps({"descriptions": DRAFT}), json.dumps({"descriptions": GOOD})


def completion(content, finish="stop", **fields):
    message = {"role": "assistant", "content": content, **fields}
    return {"id": "x", "object": "chat.completion", "choices": [{"index": 0, "finish_reason": finish, "message": message}]}


def describe(url, output, *options, labels="red fox,tabby cat", key=None):
    words = ["describe", "--labels", labels, "--base-url", url, "--model", "any", "--output", str(output), *options]
    done = CliRunner().invoke(main, words, env={"OPENAI_API_KEY": key, "OPENAI_BASE_URL": None})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture
def waits(monkeypatch):
    """Replace the waits between requests, and count them."""
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(llm.asyncio, "sleep", sleep)
    return slept


def test_an_error_with_status_200_ends_the_run_with_the_servers_words(tmp_path, waits):
    body = {"error": "Unexpected endpoint or method. (POST /chat/completions)"}
    with answering((body,)) as (url, asked):
        done = describe(url, tmp_path / "a.json")
    assert done.exit_code == 2
    assert "Unexpected endpoint or method. (POST /chat/completions)" in done.stderr
    assert f"check the model's name and the base URL, which mostly ends in /v1 ({url}/v1)" in done.stderr
    assert not (tmp_path / "a.json").exists()
    assert (waits, len(asked) <= 8) == ([], True)


@pytest.mark.parametrize("status", [200, 401, 403])
@pytest.mark.parametrize("code", [401, "401"])
def test_a_refused_key_ends_the_run_whatever_the_status(tmp_path, waits, status, code):
    key = "sk-secret-1234567890"
    with answering(({"error": {"message": f"No auth credentials found for {key}", "code": code}}, status)) as (url, _):
        done = describe(f"{url}/v1", tmp_path / "a.json", key=key)
    assert done.exit_code == 2
    assert "No auth credentials found for ***" in done.stderr
    assert key not in done.output
    assert waits == []


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (402, {"error": {"message": "Insufficient credits"}}, "refuses to answer (402: Insufficient credits)"),
        (
            429,
            {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}},
            "exceeded your current",
        ),
        (405, {"error": {"message": "Method not allowed"}}, "(405: Method not allowed)"),
        (404, b"404 page not found", "which mostly ends in /v1"),
        (200, {"choices": [{"error": {"message": "Provider is not permitted", "code": 403}}]}, "Provider is not permitted"),
    ],
)
def test_what_holds_for_every_class_is_found_out_once(tmp_path, waits, status, body, words):
    with answering((body, status)) as (url, asked):
        done = describe(url, tmp_path / "a.json", "--concurrency", "1")
    assert (done.exit_code, words in done.stderr) == (2, True), done.stderr
    assert len(asked) == 1
    assert waits == []


def test_a_proxys_page_is_shown_and_not_asked_for_ever(tmp_path, waits):
    with answering((b"<html>Sign in to the network</html>",)) as (url, asked):
        done = describe(url, tmp_path / "a.json", "--concurrency", "1")
    assert done.exit_code == 2
    assert "gives no chat completions" in done.stderr
    assert "<html>Sign in to the network</html>" in done.stderr
    assert len(asked) == 3


def test_an_error_after_answers_fails_its_class_alone(tmp_path, waits):
    error = {"error": {"message": "the model crashed"}}
    with answering((completion(ANSWER),), (error,)) as (url, _):
        done = describe(f"{url}/v1", tmp_path / "a.json", "--concurrency", "1")
    assert done.exit_code == 1
    assert "tabby cat: the server says 'the model crashed'" in done.stderr
    assert list(described(tmp_path / "a.json")) == ["red fox"]


BEGUN = f"First a draft: {DRAFTED} That is too vague, I will do better."


@pytest.mark.parametrize(
    "body",
    [
        completion(f"{BEGUN}\n</think>\n\n{ANSWER}"),
        completion(f"<think>{BEGUN}</think>{ANSWER}"),
        completion(f"<think>{BEGUN}</think><think>{BEGUN}</think>{ANSWER}"),
        completion(f"<thinking>{BEGUN}</thinking>\n{ANSWER}"),
        completion(f"<Reasoning>{BEGUN}</Reasoning>\n{ANSWER}"),
        completion(f"<seed:think>{BEGUN}</seed:think>\n{ANSWER}"),
        completion(f"[THINK]{BEGUN}[/THINK]{ANSWER}"),
        completion(f"◁think▷{BEGUN}◁/think▷{ANSWER}"),
        completion(f"<|channel|>analysis<|message|>{BEGUN}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}"),
        completion(f"{BEGUN} So my answer is:\n```json\n{ANSWER}\n```"),
        completion(ANSWER, reasoning_content=BEGUN),
        completion([{"type": "thinking", "thinking": [{"type": "text", "text": BEGUN}]}, {"type": "text", "text": ANSWER}]),
        completion([{"type": "reasoning", "text": BEGUN}, {"type": "output_text", "text": ANSWER}]),
    ],
)
def test_no_draft_of_a_models_thoughts_is_taken(tmp_path, body):
    with answering((body,)) as (url, asked):
        done = describe(f"{url}/v1", tmp_path / "a.json")
    assert done.exit_code == 0, done.stderr
    assert described(tmp_path / "a.json") == {"red fox": list(GOOD[:10]), "tabby cat": list(GOOD[:10])}
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (completion(f"<think>\n{BEGUN} so", "length"), "the answer was truncated at the token limit"),
        (completion(ANSWER, "length"), "the answer was truncated at the token limit"),
        (completion(None, "length", reasoning_content=BEGUN), "the answer was truncated at the token limit"),
        (completion(None, reasoning=BEGUN), "the answer was empty behind the model's thoughts"),
        (completion(f"<think>\n{BEGUN}"), "the answer holds thoughts that do not end"),
        (completion(f"{BEGUN}</think>"), "the answer was empty behind the model's thoughts"),
        (completion(f"<|channel|>analysis<|message|>{BEGUN}"), "the answer holds thoughts that do not end"),
        (completion([{"type": "thinking", "text": BEGUN}]), "the answer was empty"),
        (completion(None, "content_filter"), "the server's filter held the answer back"),
    ],
)
def test_thoughts_without_an_answer_are_a_failure_that_is_named(tmp_path, body, words):
    with answering((body,)) as (url, asked):
        done = describe(f"{url}/v1", tmp_path / "a.json", labels="red fox")
    assert done.exit_code == 1
    assert f"red fox: 0 of 10 texts usable after 3 answers ({words}" in done.stderr
    assert len(asked) == 3
    assert words.split(";")[0] in asked[1][1]["messages"][-1]["content"]
    assert not (tmp_path / "a.json").exists() or described(tmp_path / "a.json") == {}


def test_a_long_wait_ends_the_run_and_says_so(tmp_path, waits):
    quota = ({"error": {"message": "Rate limit reached for requests per day"}}, 429, {"Retry-After": 300})
    labels = "ape,bee,cat,dog,eel,fox,gnu,hen,ibis,jay,koi,lark,mole,newt"
    with answering((completion(ANSWER),), quota) as (url, asked):
        done = describe(f"{url}/v1", tmp_path / "a.json", "--concurrency", "1", labels=labels)
        assert done.exit_code == 2
        assert "asks to wait 300 s (Rate limit reached for requests per day), longer than 60 s" in done.stderr
        assert "the same command goes on after that time" in done.stderr
    assert (len(asked), waits) == (2, [])
    saved = (tmp_path / "a.json.partial").read_text()
    assert [json.loads(line)["class"] for line in saved.splitlines()[1:]] == ["ape"]


def test_a_short_wait_is_waited_and_told(tmp_path, waits):
    busy = ({"error": {"message": "slow down"}}, 429, {"Retry-After": 20})
    with answering(busy, busy, (completion(ANSWER),)) as (url, asked):
        done = describe(f"{url}/v1", tmp_path / "a.json", labels="red fox")
    assert done.exit_code == 0, done.stderr
    assert (waits, len(asked)) == ([20.0, 20.0], 3)
    assert re.search(r"127\.0\.0\.1:\d+/v1 asks to wait; going on in 20 s", done.stderr)


def test_waits_without_a_word_grow(tmp_path, waits):
    with answering(({"error": {"message": "overloaded"}}, 503)) as (url, asked):
        done = describe(f"{url}/v1", tmp_path / "a.json", labels="red fox")
    assert "red fox: HTTP 503: overloaded" in done.stderr
    assert (waits, len(asked)) == ([0.5, 1, 2, 4, 8, 8], 7)


def test_how_long_to_wait_is_read_from_every_notation():
    later = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=90), usegmt=True)
    assert seconds_to_wait({"retry-after": "7"}) == 7
    assert seconds_to_wait({"retry-after-ms": "1500", "retry-after": "7"}) == 1.5
    assert 80 < seconds_to_wait({"retry-after": later}) <= 90
    assert seconds_to_wait({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert [seconds_to_wait(headers) for headers in ({}, {"retry-after": "soon"})] == [None, None]


def test_errors_and_completions_are_told_apart():
    assert error_in(completion("x")) is None
    assert error_in({"error": {"message": "m", "type": "t"}}, 400).code == "t"
    assert reply_in({"choices": []}) is None
    assert reply_in([1]) is None
    assert reply_in(completion(3)) is None
    assert reply_in(completion(None, refusal="I cannot.")).text == "I cannot."
    assert texts_in(f"{DRAFTED} or rather {ANSWER}") == list(GOOD)


LETTERS = ("A", "B", "I", "black", "X", "O", "Am", "It", "one")


@pytest.mark.parametrize("name", LETTERS)
def test_classes_that_are_words_of_the_language_are_described(tmp_path, name):
    texts, _ = Order("descriptors", 10).sift(GOOD, name)
    assert len(texts) == len(GOOD) - (name == "black")
    with answering((completion(ANSWER),)) as (url, _):
        done = describe(f"{url}/v1", tmp_path / "a.json", labels=f"{name},fox")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "name", "named"),
    [
        ("A thumb rests beside a fist.", "A", False),
        ("The letter A is a fist with the thumb beside it.", "A", True),
        ("This photo shows an A, a closed fist.", "A", True),
        ('a sign for "a"', "a", True),
        ("a closed fist", "a", False),
        ("I see a raised little finger.", "I", False),
        ("A hand forms an I with its little finger.", "I", True),
        ("It has a long tail.", "It", False),
        ("a mark like an x", "X", False),
        ("a mark like an X", "X", True),
        ("One finger is raised.", "One", False),
    ],
)
def test_an_article_names_no_class(text, name, named):
    assert mentions(text, [name]) is named
