"""`crossalign describe`: the real command against a real server of its own process, healthy and failing."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

import llm_server
from crossalign.cli import main
from crossalign.text import prompts
from crossalign.text.descriptions import load_descriptions
from crossalign.text.descriptions.questions import Order

SCRIPT = Path(sys.executable).with_name("crossalign")
KEY = "sk-test-5d41402abc4b2a76b9719d911017c592"
ANIMALS = ("cat", "red fox", "barn owl", "toad", "zebra", "otter", "hen", "moose", "newt", "crab", "wolf", "lynx")


@pytest.fixture
def serve(tmp_path):
    yield from llm_server.serving(tmp_path)


def environment(**more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
    return clean | {"OMP_NUM_THREADS": "1"} | more


def command(server, output, names=ANIMALS, *more):
    asked = ["--base-url", server.url, "--model", "made-up"] if server else []
    return ["--labels", ",".join(names), *asked, "--output", output, *more]


def run(words, **env):
    words = [SCRIPT, "describe", *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment(**env))
    assert "Traceback" not in done.stderr, done.stderr
    return done


def call(words):
    """The same without a process of its own, where only the result matters."""
    done = CliRunner().invoke(main, ["describe", *map(str, words)], env={"OPENAI_API_KEY": None, "OPENAI_BASE_URL": None})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def texts(names, count=10):
    return {name: llm_server.texts(name, count) for name in names}


def test_the_file_is_made_and_can_be_used(serve, tmp_path):
    server, output = serve(), tmp_path / "animals.json"
    done = run(command(server, output, ANIMALS, "--domain", "kinds of animal", "--per-class", 8))
    assert (done.returncode, done.stdout) == (0, f"{output}: 12 of 12 classes described\n"), done.stderr
    assert "12 of 12 classes" in done.stderr
    made = read(output)
    order = Order("descriptors", 8, "kinds of animal")
    assert {key: made[key] for key in ("schema", "style", "model", "server", "per_class", "domain", "failures")} == {
        "schema": 1,
        "style": "descriptors",
        "model": "made-up",
        "server": server.url,
        "per_class": 8,
        "domain": "kinds of animal",
        "failures": {},
    }
    assert (made["instruction"], made["prompt"]) == (order.instruction, order.question("{class}"))
    assert 0 <= time.time() - datetime.fromisoformat(made["time"]).timestamp() < 120
    assert made["classes"] == texts(ANIMALS, 8)
    assert list(made["classes"]) == list(ANIMALS)

    loaded = load_descriptions(output)
    (of_fox,) = loaded.match(["Red_Fox"])
    assert (loaded.style, len(of_fox)) == ("descriptors", 8)
    inputs = prompts.prompt_inputs(["red fox"], descriptions=[loaded])
    expected = [f"red fox, which has {text}" for text in llm_server.texts("red fox", 8)]
    assert prompts.descriptor_sentences(inputs) == [expected]

    assert {entry["authorization"] for entry in server.log()} == {"Bearer no-key"}
    assert all(entry["formatted"] for entry in server.log())
    assert server.log("toad")[0]["messages"] == [
        {"role": "system", "content": order.instruction},
        {"role": "user", "content": "Class: toad\nKind: kinds of animal"},
    ]
    assert sorted(path.name for path in tmp_path.glob("*anim*")) == ["animals.json"]


def test_sentences_name_the_class_and_are_taken_as_prompts(serve, tmp_path):
    server, output = serve({"toad": ["nameless"]}), tmp_path / "animals.json"
    done = call(command(server, output, ("toad", "red fox"), "--style", "sentences", "--per-class", 3))
    assert done.exit_code == 0, done.stderr
    loaded = load_descriptions(output)
    assert loaded.style == "sentences"
    assert loaded.classes["red fox"] == tuple(f"A red fox has {text}." for text in llm_server.texts("red fox", 3))
    assert prompts.sentences(prompts.prompt_inputs(["toad"], descriptions=[loaded])) == [list(loaded.classes["toad"])]
    assert len(loaded.classes["toad"]) == 3
    assert all("toad" in text for text in loaded.classes["toad"])
    assert "does not name the class" in server.log("toad")[1]["messages"][3]["content"]


PASSING = {
    "cat": ["429"],
    "red fox": ["500", "500"],
    "barn owl": ["cut"],
    "toad": ["hung up"],
    "zebra": ["slow"],
    "otter": ["page"],
    "hen": ["broken", "hollow"],
    "moose": ["refusal"],
    "newt": ["few"],
    "bear": ["leak"],
    "crab": ["malformed", "prose"],
    "wolf": ["long", "repeat"],
    "lynx": ["fenced"],
    "mole": ["list"],
    "swan": ["listed"],
    "seal": ["half emoji"],
}


def test_every_fault_that_passes_is_got_over(serve, tmp_path):
    server, output = serve(PASSING), tmp_path / "animals.json"
    done = run(command(server, output, PASSING, "--concurrency", 16))
    assert done.returncode == 0, done.stderr
    made = read(output)
    assert made["failures"] == {}
    assert list(made["classes"]) == list(PASSING)
    for name, of_class in made["classes"].items():
        good = llm_server.texts(name, 10)
        assert len(of_class) == len(set(of_class)) == 10
        assert {text.lower() for text in of_class} == set(good), name
    in_one = {"zebra", "lynx", "mole", "swan", "seal"}
    for name, faults in PASSING.items():
        assert [entry["fault"] for entry in server.log(name)] == faults + ["none"] * (name not in in_one), name
    first, second = server.log("cat")
    assert second["time"] - first["time"] >= 1.0  # As long as Retry-After said.

    told = {name: [entry["messages"][-1]["content"] for entry in server.log(name)[1:]] for name in PASSING}
    assert "I cannot help with that." in told["moose"][0]
    assert "8 more are needed" in told["newt"][0]
    assert "only 2 texts" in told["newt"][0]
    assert "1 more are needed" in told["bear"][0]
    assert '"the ears of a bear": it names the class' in told["bear"][0]
    assert "10 more are needed" in told["crab"][1]
    assert "no JSON list" in told["crab"][1]
    assert "it has 33 words, not 2 to 20" in told["wolf"][0]
    assert "stands there already" in told["wolf"][1]


def test_lasting_faults_are_reported_and_only_those_are_asked_again(serve, tmp_path):
    plan = {"cat": ["refusal!"], "toad": ["few!"], "hen": ["leak!"], "crab": ["malformed!"], "wolf": ["500!"]}
    server, output = serve(plan), tmp_path / "animals.json"
    done = run(command(server, output))
    assert (done.returncode, done.stdout) == (1, f"{output}: 7 of 12 classes described\n")
    made = read(output)
    assert list(made["failures"]) == list(plan)
    assert all(f"{name}: {reason}" in done.stderr for name, reason in made["failures"].items())
    assert "I cannot help with that." in made["failures"]["cat"]
    assert made["failures"]["toad"].startswith("2 of 10 texts usable after 3 answers")
    assert "it names the class" in made["failures"]["hen"]
    assert "no JSON list" in made["failures"]["crab"]
    assert made["failures"]["wolf"] == "HTTP 500: out of order"
    assert [len(server.log(name)) for name in ("cat", "toad", "hen", "crab")] == [3, 3, 3, 3]
    assert load_descriptions(output).classes.keys() == set(ANIMALS) - set(plan)

    server.stop()
    healthy = serve(port=server.port)
    done = run(command(healthy, output))
    assert done.returncode == 0, done.stderr
    assert {entry["class"] for entry in healthy.log()} == set(plan)
    assert read(output)["failures"] == {}
    assert list(read(output)["classes"].items()) == list(texts(ANIMALS).items())

    before = output.read_bytes()
    done = run(command(healthy, output))
    assert (done.returncode, len(healthy.log()), output.read_bytes()) == (0, len(plan), before)


def test_a_server_without_formats_is_asked_for_plain_json_from_then_on(serve, tmp_path):
    server, output = serve(no_format=400), tmp_path / "animals.json"
    done = run(command(server, output, ANIMALS[:3], "--concurrency", 1))
    assert done.returncode == 0, done.stderr
    assert read(output)["classes"] == texts(ANIMALS[:3])
    assert [entry["formatted"] for entry in server.log()] == [True, False, False, False]


def test_a_killed_run_goes_on_where_it_was(serve, tmp_path):
    output, unbroken = tmp_path / "animals.json", tmp_path / "unbroken.json"
    partial = tmp_path / "animals.json.partial"
    server = serve(delay=0.3)
    words = [SCRIPT, "describe", *map(str, command(server, output, ANIMALS, "--concurrency", 2))]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=environment())
    deadline = time.monotonic() + 60
    while not partial.exists() or partial.read_bytes().count(b"\n") < 6:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    saved = {json.loads(line)["class"] for line in partial.read_text().splitlines()[1:]}
    assert 5 <= len(saved) < len(ANIMALS)
    with open(partial, "ab") as file:  # As if it had been killed while it wrote.
        file.write(b'{"class": "lynx", "texts": ["a gr')

    other = run([*command(server, output), "--style", "sentences"])
    assert other.returncode == 2
    assert 'style "descriptors", now "sentences"' in other.stderr
    asked_before = len(server.log())

    done = run(command(server, output))
    assert done.returncode == 0, done.stderr
    assert f"{len(saved)} classes were described before" in done.stderr
    assert {entry["class"] for entry in server.log()[asked_before:]} == set(ANIMALS) - saved
    assert not partial.exists()

    assert run(command(server, unbroken)).returncode == 0
    one, other = read(output), read(unbroken)
    assert one.pop("time") <= other.pop("time")
    assert json.dumps(one) == json.dumps(other)


def test_the_key_is_sent_and_otherwise_nowhere(serve, tmp_path):
    plan = {"cat": ["echo!"], "toad": ["echo content"], "hen": ["500!"]}
    server, output = serve(plan, key=KEY), tmp_path / "out" / "animals.json"
    output.parent.mkdir()
    done = run(command(server, output, ANIMALS, "--api-key-env", "MY_KEY"), MY_KEY=f"{KEY}\n")
    assert done.returncode == 1
    assert {entry["authorization"] for entry in server.log()} == {f"Bearer {KEY}"}
    assert read(output)["failures"]["cat"] == "HTTP 400: bad header Bearer ***"
    assert "a label with Bearer ***" in read(output)["classes"]["toad"]
    everything = [done.stdout, done.stderr, *(file.read_text() for file in output.parent.iterdir())]
    assert not any(secret in text for secret in (KEY, KEY[:12]) for text in everything)


def test_a_password_in_the_url_is_sent_and_not_stored(serve, tmp_path):
    server, output = serve({"hen": ["refusal!"]}), tmp_path / "animals.json"
    words = command(server, output, ("hen", "toad"))
    words[3] = server.url.replace("http://", "http://somebody:pass-4711@")
    done = call(words)
    assert done.exit_code == 1
    assert {entry["authorization"].split()[0] for entry in server.log()} == {"Basic"}
    assert read(output)["server"] == server.url
    assert not any(secret in text for secret in ("4711", "somebody") for text in (done.output, output.read_text()))


@pytest.mark.parametrize("key", ["sk-test-wrong-1234567890", "sk-test-schlüssel-1234567890", "sk-test-two words-1234"])
def test_a_wrong_key_stops_the_run_and_is_not_shown(serve, tmp_path, key):
    server = serve(key=KEY)
    done = run(command(server, tmp_path / "animals.json"), OPENAI_API_KEY=key)
    assert done.returncode == 2
    assert "API key" in done.stderr
    assert "sk-test" not in done.stdout + done.stderr
    assert not (tmp_path / "animals.json").exists()
    assert server.log() == []


def test_a_dry_run_shows_the_prompts_and_asks_nobody():
    done = run(["--labels", "cat,red fox", "--domain", "pets", "--dry-run"])
    order = Order("descriptors", 10, "pets")
    assert done.returncode == 0
    assert done.stdout == f"{order.instruction}\n\n{order.question('cat')}\n\n{order.question('red fox')}\n"
    sent, received = order.tokens([order.question("cat"), order.question("red fox")])
    assert f"2 requests, about {sent} tokens sent and {received} received" in done.stderr
    of_pets = run(["--dataset", "oxford_pet", "--dry-run", "--style", "sentences", "--per-class", 20])
    assert of_pets.stdout.count("\nKind: pet") == of_pets.stdout.count("\nClass: ") == 37
    assert "write 20 sentences" in of_pets.stdout


def test_near_classes_are_shown(serve, tmp_path):
    names = ("beagle", "basset hound", "Siamese cat", "Birman cat", "bulldozer", "excavator", "oak", "maple")
    server, output = serve(), tmp_path / "near.json"
    done = call(command(server, output, names, "--contrast", "--per-class", 2))
    assert done.exit_code == 0, done.stderr
    made = read(output)
    assert made["contrast"] == "builtin"
    assert {name: near[0] for name, near in made["near"].items()} == dict(
        zip(
            names,
            ("basset hound", "beagle", "Birman cat", "Siamese cat", "excavator", "bulldozer", "maple", "oak"),
            strict=True,
        )
    )
    assert all(len(near) == 5 and name not in near for name, near in made["near"].items())
    question = server.log("oak")[0]["messages"][1]["content"]
    assert f"Easily taken for: {'; '.join(made['near']['oak'])}\n" in question
    done = call(command(server, output, names, "--per-class", 2))
    assert (done.exit_code, "contrast" in done.stderr) == (2, True)


WRONG = [
    ("--labels cat --dry-run --dataset dtd", "either as --dataset NAME, as --labels or as --labels-file"),
    ("--output a.json --model m", "either as --dataset NAME, as --labels or as --labels-file"),
    ("--labels cat --model m", "name one with --output"),
    ("--labels cat --output nowhere/a.json --model m", "output 'nowhere/a.json' cannot be written"),
    ("--labels cat --output a.json --base-url http://127.0.0.1:9/v1", "name a model of the server with --model"),
    ("--labels cat --output a.json --model m", "the environment variable OPENAI_API_KEY holds no API key"),
    (
        "--labels cat --output a.json --model m --base-url http://localhost/v1 --api-key-env NO_SUCH",
        "variable NO_SUCH holds no",
    ),
    ("--labels cat --output a.json --model m --base-url localhost:11434/v1", "the base URL is no plain http address"),
    ("--labels cat --output a.json --model m --base-url http://h/v1?key=1", "the base URL is no plain http address"),
    (
        "--labels cat --output a.json --model m --base-url http://127.0.0.1:9/v1",
        "no server answers at http://127.0.0.1:9/v1",
    ),
    ("--labels cat,cat --dry-run", "cat stands more than once"),
    ("--labels cat,,dog --dry-run", "label number 2 is empty"),
    ("--labels \udcff,dog --dry-run", "is no valid text; give it as UTF-8"),
    ("--labels-file no-such.txt --dry-run", "labels file 'no-such.txt' cannot be read"),
    ("--dataset folder --dry-run", "dataset 'folder' has no class list"),
    ("--dataset pigs --dry-run", "dataset 'pigs' is unknown"),
    ("--labels cat --dry-run --per-class 0", "--per-class"),
    ("--from x.json --output a.json --model m", "--model is for asking an LLM"),
    ("--from no-such.json --output a.json", "'no-such.json' cannot be read"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[words for words, _ in WRONG])
def test_wrong_use_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = run(words.split())
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_or_page_is_named(serve, tmp_path):
    server = serve()
    words = command(server, tmp_path / "a.json", ("cat",))
    words[5] = "no-such-model"
    assert "'no-such-model' (404: model 'no-such-model' not found)" in run(words).stderr
    words = command(server, tmp_path / "a.json", ("cat",))
    words[3] = server.url.removesuffix("/v1")
    done = run(words)
    assert (done.returncode, "the base URL, which mostly ends in /v1" in done.stderr) == (2, True)


def documented():
    page = Path(__file__).parents[2] / "docs" / "descriptions.md"
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip().startswith("crossalign describe ")]


def test_the_documented_commands_run(serve, tmp_path, monkeypatch):
    server = serve(delay=0.01)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_KEY", KEY)
    Path("cupl.json").write_text('{"tench": ["A tench is a fish."]}')
    Path("dclip.json").write_text('{"Abyssinian": ["a cat"]}')
    Path("my-texts").mkdir()
    Path("my-texts", "tabby cat.txt").write_text("A tabby cat has stripes.\n")
    Path("labels.txt").write_text("tabby cat\nred fox\n")
    lines = documented()
    assert len(lines) >= 9
    for number, line in enumerate(lines):
        words = shlex.split(line, comments=True)[1:]
        for option, value in (("--base-url", server.url), ("--model", "made-up"), ("--output", f"{number}.json")):
            if option in words:
                words[words.index(option) + 1] = value
        if "--model" in words and "--base-url" not in words:
            words += ["--base-url", server.url]
        done = call(words[1:])
        assert done.exit_code in ((0, 1) if "--from" in words else (0,)), (line, done.output)
        if "--dry-run" not in words:
            assert load_descriptions(f"{number}.json").classes
