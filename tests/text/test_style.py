"""Sentences are told from fragments by their texts, and the marks of lists and bold type stay out of prompts."""

import json
import warnings

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from crossalign.cli import main
from crossalign.errors import InputError
from crossalign.text.descriptions import load_descriptions, parse_descriptions
from crossalign.text.descriptions.style import predicate_of, style_of, tidy_descriptor, tidy_sentence
from crossalign.text.prompts import SOURCES, prompt_inputs

UNTIDY = {
    "harbour": [
        "A harbour shelters boats from waves.",
        "in a harbour, cranes stand along the quay.",
        "- boats lie side by side, as in any harbour.",
        "**The harbour:** masts and a lighthouse.",
        "* Harbours have piers.",
    ],
    "quarry": [
        "1. A quarry is a pit of cut stone.",
        "steps of grey rock lead down a quarry.",
        "• dust hangs over the quarry.",
        "The quarry has water at its floor..",
        "A **quarry** with\n- dump trucks\n- loose stones.",
    ],
}
IT_HAS = {
    "grey seal": ["It is a sea mammal.", "It has a long nose.", "They are spotted."],
    "harp seal": ["It's a sea mammal.", "It has a dark saddle on its back.", "It can be white."],
}


def prompts_of(descriptions, source, **options):
    file = parse_descriptions(descriptions, "file.json")
    return SOURCES[source](prompt_inputs(tuple(descriptions), descriptions=[file], **options))


def test_untidy_sentences_are_sentences_without_marks():
    assert prompts_of(UNTIDY, "sentences") == [
        [
            "A harbour shelters boats from waves.",
            "in a harbour, cranes stand along the quay.",
            "boats lie side by side, as in any harbour.",
            "The harbour: masts and a lighthouse.",
            "Harbours have piers.",
        ],
        [
            "A quarry is a pit of cut stone.",
            "steps of grey rock lead down a quarry.",
            "dust hangs over the quarry.",
            "The quarry has water at its floor.",
            "A quarry with, dump trucks, loose stones.",
        ],
    ]


def test_as_published_the_marks_stay_and_white_space_is_folded():
    (_, quarry) = prompts_of(UNTIDY, "sentences", as_published=True)
    assert quarry[0] == "1. A quarry is a pit of cut stone."
    assert quarry[4] == "A **quarry** with - dump trucks - loose stones."
    file = parse_descriptions({"seal": ["a seal.", "It is a seal.", "a  seal.", ".", " "]}, "f", "descriptors")
    inputs = prompt_inputs(["seal"], descriptions=[file], as_published=True)
    assert inputs.descriptors == [("a seal.", "It is a seal.", "a seal.", ".")]


def test_texts_about_it_stand_behind_the_name():
    assert prompts_of(IT_HAS, "descriptor_sentences") == [
        ["grey seal, which is a sea mammal", "grey seal, which has a long nose", "grey seal, which are spotted"],
        [
            "harp seal, which is a sea mammal",
            "harp seal, which has a dark saddle on its back",
            "harp seal, which can be white",
        ],
    ]
    first = prompts_of(IT_HAS, "sentences")[0][:3]
    assert first == [
        "a photo of a grey seal, which is a sea mammal.",
        "a grey seal, which is a sea mammal.",
        "a close-up photo of a grey seal, which is a sea mammal.",
    ]


@pytest.mark.parametrize("descriptions", [UNTIDY, IT_HAS], ids=["untidy", "it has"])
@pytest.mark.parametrize(
    "source", ["sentences", "descriptor_sentences", "template-and-sentences", "first-sentences", "concepts"]
)
def test_no_prompt_has_a_sentence_in_a_clause_or_two_full_stops(descriptions, source):
    for prompt in (prompt for of_class in prompts_of(descriptions, source) for prompt in of_class):
        assert "which is A " not in prompt
        assert "which has A" not in prompt
        assert not prompt.endswith("..")
        assert "*" not in prompt


@pytest.mark.parametrize(
    ("texts", "style"),
    [
        (["A cat sits."] * 3 + ["Whiskers are long."] * 7, "sentences"),
        (["a cat with whiskers", "cats on a sofa"], "sentences"),
        (["whiskers", "a long tail"], "descriptors"),
        (["Whiskers.", "A long tail."], "descriptors"),
        (["A seabird"], "descriptors"),
        (["It is a small animal."], "descriptors"),
        (["These animals have whiskers."], "descriptors"),
        (["a tail like that of a cat", "whiskers", "fur", "paws"], "descriptors"),
        ([], "descriptors"),
    ],
)
def test_clear_files_are_told_without_a_word(texts, style):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert style_of([(("cat",), texts)], "f.json") == style


@pytest.mark.parametrize(
    ("texts", "named", "style", "taken"),
    [
        (["The tail is long.", "The ears are pointed."], "0 of 2", "descriptors", "put behind the class name"),
        (["A cat sits."] * 2 + ["The tail is long."] * 8, "2 of 10", "sentences", "as they stand"),
        (["the face of a cat", "whiskers"], "1 of 2", "descriptors", "put behind the class name"),
    ],
)
def test_an_unclear_file_is_warned_of(texts, named, style, taken):
    with pytest.warns(UserWarning, match="so it is unclear") as caught:
        assert style_of([(("cat",), texts)], "f.json") == style
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith(f"f.json: {named} texts name their class, so it is unclear")
    assert f"taken as {style}, that is {taken}. State the description style, sentences or descriptors" in message
    assert style_of([(("cat",), texts)]) == style


def test_aliases_name_a_class_too():
    texts = {"n01": ["A tench swims in a pond.", "The tench is green."], "n02": ["A goldfish is orange."]}
    file = parse_descriptions(texts, "f.json")
    assert file.style_for(["n01", "n02"], [["tench"], ["goldfish"]]) == "sentences"
    inputs = prompt_inputs(["tench", "goldfish"], [["n01"], ["n02"]], [file])
    assert inputs.sentences == [tuple(texts["n01"]), tuple(texts["n02"])]


def test_a_stated_style_overrules(tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(IT_HAS))
    assert load_descriptions(path).style == "descriptors"
    stated = load_descriptions(path, "sentences")
    with pytest.warns(UserWarning, match=r"file\.json: 6 of 6 sentences, in 2 of 2 classes, do not name their class\."):
        inputs = prompt_inputs(tuple(IT_HAS), descriptions=[stated])
    assert inputs.sentences == [tuple(texts) for texts in IT_HAS.values()]
    own = {"schema": 1, "style": "descriptors", "classes": {"cat": ["whiskers"]}}
    assert parse_descriptions(own, "f", "descriptors").classes == {"cat": ("has whiskers",)}
    assert parse_descriptions(own, "f", "sentences").classes == {"cat": ("whiskers",)}
    with pytest.raises(InputError, match="description style is 'odd', but must be one of descriptors, sentences"):
        parse_descriptions(IT_HAS, "f", "odd")


def test_sentences_that_name_no_class_are_counted():
    file = parse_descriptions({"cat": ["A cat sits.", "Cats purr.", "Whiskers."], "dog": ["A dog barks."]}, "pets.json")
    with pytest.warns(UserWarning, match=r"^pets\.json: 1 of 4 sentences, in 1 of 2 classes, do not name their class\. "):
        prompt_inputs(["cat", "dog"], descriptions=[file])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt_inputs(["cat", "dog"], descriptions=[file], as_published=True)


def test_a_class_with_marks_alone_has_no_descriptions():
    file = parse_descriptions({"cat": ["A cat sits."], "dog": ["-", "**"]}, "pets.json", "sentences")
    with pytest.raises(InputError, match=r"pets\.json has no descriptions for 1 of 2 classes: dog"):
        prompt_inputs(["cat", "dog"], descriptions=[file])


@pytest.mark.parametrize(
    ("text", "tidy"),
    [
        ("- a quarry.", "a quarry."),
        ("-a quarry", "a quarry"),
        ("(2) a quarry", "a quarry"),
        ("b) a quarry", "a quarry"),
        ("2) - **a quarry**", "a quarry"),
        ("## A quarry", "A quarry"),
        ("<li><b>A quarry</b> is deep.</li>", "A quarry is deep."),
        ("__Size__: large", "Size: large"),
        ("**Signs*** Depth: 30 m.", "Signs Depth: 30 m."),
        ('"A quarry is deep."', "A quarry is deep."),
        ("Look for:\n* steps\n* dust", "Look for: steps, dust"),
        ("-20 degrees", "-20 degrees"),
        ("3.5 m deep", "3.5 m deep"),
        ("a 4-by-4 truck, 2*3 m", "a 4-by-4 truck, 2*3 m"),
        ("a black-and-white sign - old", "a black-and-white sign - old"),
        ("It goes on...", "It goes on."),
    ],
)
def test_marks_are_taken_out(text, tidy):
    assert tidy_sentence(text) == tidy


@pytest.mark.parametrize(
    ("text", "tidy"),
    [
        ("A seabird", "a seabird"),
        ("It is a seabird.", "a seabird"),
        ("They are used in churches.", "used in churches"),
        ("It is grey.", "which is grey"),
        ("This small bird has black feet;", "has black feet"),
        ("They have black feet", "has black feet"),
        ("It often has black feet", "often has black feet"),
        ("The seal has black feet.", "has black feet"),
        ("which is a fish", "a fish"),
        ("It usually lives at sea.", "which usually lives at sea"),
        ("With black feet", "black feet"),
        ("The bill is short.", "the bill is short"),
        ("usually round", "usually round"),
        ("live plants", "live plants"),
        ("They live in trees", "which live in trees"),
        ("often wet", "often wet"),
        ("black feet", "black feet"),
        ("has black feet", "has black feet"),
        ("German flag", "German flag"),
    ],
)
def test_fragments_read_well_behind_a_name(text, tidy):
    assert tidy_descriptor(text, ["seal"]) == tidy


def test_what_a_sentence_says_of_its_class():
    assert predicate_of("The grey seal has a long nose.", ["grey seal"]) == "has a long nose"
    assert predicate_of("A grey-seal is an animal.", ["grey seal"]) == "an animal"
    assert predicate_of("It has a long nose.", ["grey seal"]) is None
    assert predicate_of("has a long nose.", ["grey seal"]) is None


texts = st.text(st.sampled_from(list('aB1 .*-_#>\n•"“”()<b/>')), max_size=24)


@given(texts)
def test_tidying_twice_changes_nothing(text):
    assert tidy_sentence(tidy_sentence(text)) == tidy_sentence(text)
    assert "**" not in tidy_sentence(text)
    assert not tidy_sentence(text).endswith("..")


def call(*words):
    return CliRunner().invoke(main, [*map(str, words)])


@pytest.mark.filterwarnings("default::UserWarning")
def test_describe_says_what_is_unclear_and_takes_the_style_stated(tmp_path):
    source = tmp_path / "unclear.json"
    source.write_text(json.dumps({"cat": ["The tail is long."], "dog": ["The ears are floppy."]}))
    done = call("describe", "--from", source, "--output", tmp_path / "guessed.json")
    assert "0 of 2 texts name their class, so it is unclear" in done.stderr
    assert (done.exit_code, done.stdout.endswith("; fragments\n")) == (0, True)
    for option in ("--style", "--description-style"):
        output = tmp_path / f"{option}.json"
        done = call("describe", "--from", source, "--output", output, option, "sentences")
        assert (done.exit_code, done.stderr) == (0, "")
        assert json.loads(output.read_text())["style"] == "sentences"


@pytest.mark.parametrize("command", [["classify", "x.jpg"], ["explain", "x.jpg"]])
@pytest.mark.parametrize("given", [[], ["--descriptions", "oxford_pet"]])
def test_a_style_needs_a_file(command, given):
    done = call(*command, "--labels", "cat,dog", *given, "--description-style", "sentences")
    assert done.exit_code == 2
    assert "--description-style needs a file in --descriptions; add it" in done.stderr
