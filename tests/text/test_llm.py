"""Asking an LLM, judging its answers and keeping them: what the command alone cannot show."""

import asyncio
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_server
from crossalign.errors import InputError
from crossalign.text.descriptions import bundled_descriptions
from crossalign.text.descriptions.answers import AnswerFile
from crossalign.text.descriptions.completions import texts_in
from crossalign.text.descriptions.llm import GIVE_UP_AFTER, Server, describe
from crossalign.text.descriptions.questions import Order
from crossalign.text.names import mentions

NAMES = ("cat", "red fox", "barn owl")


@pytest.fixture
def serve(tmp_path):
    yield from llm_server.serving(tmp_path)


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def ask(server, names, concurrency=4, **how):
    answers, order = [], Order("descriptors", 10)
    questions = {name: order.question(name) for name in names}
    url = server if isinstance(server, str) else server.url
    asyncio.run(describe(Server("made-up", url, **how), order, questions, answers.append, concurrency=concurrency))
    return {answer.name: answer for answer in answers}


def test_a_server_too_slow_or_always_cut_fails_only_its_class(serve):
    server = serve({"cat": ["slow!"], "toad": ["cut!"], "hen": ["page!"]})
    answers = ask(server, ("cat", "toad", "hen", "crab"), timeout=0.5, retries=1)
    assert {name: answer.failure for name, answer in answers.items()} == {
        "cat": "no answer within 0.5 s",
        "toad": "the connection failed",
        "hen": "the server's answer is no chat completion: \"<html>a proxy's page</html>\"",
        "crab": "",
    }
    assert [len(server.log(name)) for name in ("cat", "toad", "hen", "crab")] == [2, 2, 2, 1]


@pytest.mark.parametrize("status", [422, 500])
def test_other_refusals_of_formats_are_understood(serve, status):
    server = serve(no_format=status)
    answers = ask(server, NAMES, retries=0, concurrency=1)
    assert {name: list(answer.texts) for name, answer in answers.items()} == {
        name: llm_server.texts(name, 10) for name in NAMES
    }
    assert [entry["formatted"] for entry in server.log()] == [True, False, False, False]


def test_a_dead_server_is_not_asked_for_every_class(serve):
    names = [f"animal {i}" for i in range(GIVE_UP_AFTER + 5)]
    server = serve({name: ["hung up!"] for name in names})
    answers = ask(server, names, retries=0, concurrency=1)
    failures = [answers[name].failure for name in names]
    assert failures[:GIVE_UP_AFTER] == ["the connection failed"] * GIVE_UP_AFTER
    assert failures[GIVE_UP_AFTER:] == [f"not asked, since the server failed {GIVE_UP_AFTER} times in a row"] * 5
    assert len(server.log()) == GIVE_UP_AFTER


def test_no_more_classes_at_a_time_than_allowed(serve):
    server = serve(delay=0.2)
    ask(server, [f"animal {i}" for i in range(12)], concurrency=3)
    times = sorted(entry["time"] for entry in server.log())
    assert all(later - earlier >= 0.15 for earlier, later in zip(times, times[3:], strict=False))
    assert any(later - earlier < 0.15 for earlier, later in pairwise(times))


def test_a_server_never_shows_its_key():
    assert "4711" not in repr(Server("m", key="sk-4711"))


@given(
    st.lists(st.text(max_size=20), min_size=1, max_size=5), st.sampled_from(["{}", "```json\n{}\n```", "Sure [1]: {} {{"])
)
@settings(max_examples=60, deadline=None)
def test_json_is_found_among_words(listed, around):
    if not any("<think>" in text for text in listed):
        assert texts_in(around.format(json.dumps({"descriptions": listed}))) == listed


@pytest.mark.parametrize(
    "content", ["", '<think>["a"]</think>', "no", "[1, 2]", '{"a": ["x"], "b": ["y"]}', "[" * 3000, '["a", "b']
)
def test_what_is_no_list_of_texts_is_not_taken_for_one(content):
    with pytest.raises(ValueError, match=r"empty|holds no JSON list"):
        texts_in(content)


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("ears like a Barn-Owl", "barn owl", True),
        ("larger than most barn owls", "barn owl", True),
        ("larger than other owls", "barn owl", False),
        ("a scattered pattern", "cat", False),
        ("a crane's long neck", "crane (bird)", True),
        ("the mark of !!! on it", "!!!", True),
        ("a red mark", "!!!", False),
    ],
)
def test_a_name_is_found_whatever_its_form(text, name, found):
    assert mentions(text, [name]) is found


def test_texts_are_tidied_and_parted():
    order = Order("descriptors", 3)
    texts = [
        ' 1. "has a  long tail." ',
        "- A LONG TAIL",
        "which has ears, long;",
        "tail",
        "is brown all over",
        "Has 7. stripes",
    ]
    usable, reasons = order.sift(texts, "cat", earlier=["7 stripes"])
    assert usable == ["a long tail", "ears, long"]
    assert [reason.split(": ")[1] for reason in reasons] == [
        "it stands there already",
        "it has 1 words, not 2 to 20",
        'it does not complete "which has ..."',
        "it stands there already",
    ]


@pytest.mark.parametrize("dataset", ["oxford_pet", "eurosat", "dtd"])
def test_our_own_descriptors_would_be_taken(dataset):
    classes = {name: [t.removeprefix("has ") for t in ts] for name, ts in bundled_descriptions(dataset).classes.items()}
    refused = [(name, r) for name, ts in classes.items() for r in Order("descriptors", 8).sift(ts, name)[1]]
    assert refused == []


@pytest.mark.parametrize(
    "change",
    [{"model": "other"}, {"instruction": "Write."}, {"style": "sentences"}, {"prompt": "Class: {class}\nKind: pet"}],
)
@pytest.mark.parametrize("finished", [True, False])
def test_answers_of_other_settings_are_not_mixed(tmp_path, change, finished):
    path = tmp_path / "pets.json"
    made_with = {"style": "descriptors", "model": "made-up", "instruction": "Describe.", "prompt": "Class: {class}"}
    answers = AnswerFile(path, made_with, {})
    answers.add("cat", ["a long tail"])
    if finished:
        answers.finish(["cat"], {})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(
        InputError, match=f"made with another {next(iter(change))} .*, now .*{next(iter(change.values()))[:5]}"
    ):
        AnswerFile(path, made_with | change, {})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert list(AnswerFile(path, made_with, {}).classes) == ["cat"]


def test_classes_can_be_added_and_changed_neighbours_are_asked_again(tmp_path):
    path = tmp_path / "pets.json"
    answers = AnswerFile(path, {"model": "m"}, {"author": "a"})
    answers.add("cat", ["a long tail"], ["lynx"])
    answers.add("hen", ["a red comb"])
    answers.finish(["cat", "hen"], {"owl": "refused"})
    again = AnswerFile(path, {"model": "m"}, {"author": "a"})
    assert not again.finished
    assert again.lacking(["owl", "hen", "cat"], {"cat": ["lynx"]}) == ["owl"]
    assert again.lacking(["owl", "hen", "cat"], {"cat": ["lynx", "owl"]}) == ["owl", "cat"]
    again.add("owl", ["round eyes"])
    again.finish(["owl", "hen"], {})
    assert list(read(path)["classes"].items()) == [
        ("owl", ["round eyes"]),
        ("hen", ["a red comb"]),
        ("cat", ["a long tail"]),
    ]
    assert read(path)["near"] == {"cat": ["lynx"]}
    assert AnswerFile(path, {"model": "m"}, {}).finished


@pytest.mark.parametrize("size", range(0, 260, 7))
def test_a_partial_file_cut_anywhere_is_taken_up(tmp_path, size):
    path, partial = tmp_path / "pets.json", tmp_path / "pets.json.partial"
    answers = AnswerFile(path, {"model": "m"}, {})
    answers.add("cat", ["a long tail"])
    answers.add("ibex", ["long curved horns"])
    whole = partial.read_bytes()
    partial.write_bytes(whole[:size])
    again = AnswerFile(path, {"model": "m"}, {})
    assert len(again.classes) == max(0, whole[:size].count(b"\n") - 1)
    for name, of_class in {"cat": ["a long tail"], "ibex": ["long curved horns"]}.items():
        if name in again.lacking(["cat", "ibex"], {}):
            again.add(name, of_class)
    assert AnswerFile(path, {"model": "m"}, {}).classes == answers.classes


def test_a_damaged_partial_file_is_not_thrown_away(tmp_path):
    partial = tmp_path / "pets.json.partial"
    partial.write_text('{"schema": 1, "time": "t", "settings": {"model": "m"}}\nnonsense\n')
    with pytest.raises(InputError, match=r"damaged; remove it"):
        AnswerFile(tmp_path / "pets.json", {"model": "m"}, {})
    assert partial.read_text().endswith("nonsense\n")
