"""Each command through a real process."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command import SCRIPT, fails, run, shows
from conftest import PHOTOS
from crossalign.methods.registry import METHODS
from systems import needs_posix

COMMANDS = tuple(
    "ablate classify datasets demo describe encoders evaluate explain features methods reproduce serve store table".split()  # noqa: SIM905
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("chelsea.png", "coffee.png"):
        shutil.copy(PHOTOS / name, folder)
    return folder


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    root = tmp_path_factory.mktemp("by_class")
    for label, names in {
        "cat": ["chelsea.png"],
        "cup_of_coffee": ["coffee.png"],
        "rocket": ["rocket.jpg"],
        "astronaut": ["astronaut.png"],
    }.items():
        (root / label).mkdir()
        for name in names:
            shutil.copy(PHOTOS / name, root / label)
    return root


def test_help_teaches():
    text = run("--help").stdout
    for command in COMMANDS:
        assert command in text
        assert f"crossalign {command}" in run(command, "--help").stdout
    assert run("--version").stdout.startswith("crossalign, version ")


def test_help_imports_nothing_that_takes_long():
    slow = {"torch", "numpy", "PIL", "asyncio", "tabulate"}
    help = "import sys, crossalign.cli as c; c.main(['--help'], standalone_mode=False)"
    code = f"{help}; assert not {slow} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("matplotlib", "figures", "explain cat.png --labels cat,dog -o why.png"),
        ("matplotlib", "figures", "ablate --dataset folder --data-path . --figure steps.pdf"),
        ("openai", "llm", "describe --labels cat,dog --model any --base-url http://localhost:1/v1 --output mine.json"),
        ("openai", "llm", "serve --model any --base-url http://localhost:1/v1"),
    ],
)
def test_a_package_of_an_extra_that_is_missing_is_named_before_the_work(package, extra, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert f"needs {package}; run `pip install 'crossalign[{extra}]'`" in fails(*command.split())
    assert not list(tmp_path.iterdir())


def test_labelling_needs_no_package_of_an_extra():
    extras = ("matplotlib", "openai", "openvino", "nncf", "pyarrow", "ray", "transformers", "fastapi", "gradio")
    missing = f"import sys; sys.modules.update(dict.fromkeys({extras}))"
    label = "from crossalign import Classifier; print(Classifier(['cat', 'dog'], views=4)(sys.argv[1])[0].label)"
    command = [sys.executable, "-c", f"{missing}; {label}", PHOTOS / "chelsea.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "cat\n", done.stderr


@pytest.mark.slow
def test_demo_knows_its_photos():
    done = run("demo")
    assert done.returncode == 0, done.stderr
    by_photo = {line.split()[0]: line for line in done.stdout.splitlines() if ".png" in line or ".jpg" in line}
    assert len(by_photo) >= 6
    for photo, label in {"chelsea.png": "cat", "coffee.png": "cup of coffee", "rocket.jpg": "rocket"}.items():
        assert re.match(rf"{photo} +{label} +{label} \d", by_photo[photo])  # what it shows, then the first answer
    for method in ("clip", "clip-e", "clip-d", "waffle", "cupl", "wca"):
        assert f"| {method} " in done.stdout


@pytest.mark.slow
def test_classify_gives_json_in_order_and_reports_a_broken_file(photos, tmp_path):
    (tmp_path / "broken.jpg").write_text("no picture")
    done = run("classify", photos, tmp_path / "broken.jpg", "--labels", "cat,dog,cup of coffee", "--json", "--views", 8)
    assert done.returncode == 1
    assert "1 of 3 images could not be read" in done.stderr
    rows = json.loads(done.stdout)
    assert [Path(row["image"]).name for row in rows] == ["chelsea.png", "coffee.png", "broken.jpg"]
    assert [row["predictions"][0]["label"] for row in rows[:2]] == ["cat", "cup of coffee"]
    for row in rows[:2]:
        assert row["error"] is None
        assert sum(p["probability"] for p in row["predictions"]) == pytest.approx(1)
        assert [p["score"] for p in row["predictions"]] == sorted((p["score"] for p in row["predictions"]), reverse=True)
    assert rows[2]["predictions"] == []
    assert "cannot be read" in rows[2]["error"]


@pytest.mark.slow
def test_classify_takes_a_list_a_pattern_and_a_labels_file(photos, tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\ncup of coffee, hot\n\n")
    done = run(
        "classify",
        "-",
        "--labels-file",
        tmp_path / "labels.txt",
        "--csv",
        "--top-k",
        2,
        "--views",
        4,
        stdin=f"{photos}/coffee.png\n",
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["rank"], row["error"]) for row in rows] == [("1", ""), ("2", "")]
    assert rows[0]["label"] == "cup of coffee, hot"
    done = run("classify", f"{photos}/*.png", "--labels", 'cat,"cup, with coffee"', "--method", "clip")
    assert [line.split(": ")[1].split(" 0.")[0] for line in done.stdout.splitlines()] == ["cat", "cup, with coffee"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo.jpg"], "give the labels either as --labels"),
        (["photo.jpg", "--labels", "a,b", "--labels-file", "f"], "give the labels either as --labels"),
        (["photo.jpg", "--labels", '"a"b,c'], "--labels cannot be split at its commas"),
        (["photo.jpg", "--labels-file", "none.txt"], "labels file 'none.txt' cannot be read"),
        (["photo.jpg", "--labels", "cat"], "1 label given, but classifying takes two or more"),
        (["photo.jpg", "--labels", "cat,cat,dog"], "cat stands more than once"),
        (["photo.jpg", "--labels", "cat,,dog"], "label number 2 is empty"),
        (["*.nothing", "--labels", "a,b"], "no file matches '*.nothing'"),
        (["photo.jpg", "--labels", "a,b", "--json", "--csv"], "exclude each other"),
        (["photo.jpg", "--labels", "a,b", "--method", "wcb"], "unknown method wcb, did you mean wca? known are clip"),
        (["photo.jpg", "--labels", "a,b", "--encoder", "clipp"], "encoder 'clipp' names no known backend"),
        (["photo.jpg", "--labels", "a,b", "--device", "cuda:77"], "device 'cuda:77' is not available"),
        (["photo.jpg", "--labels", "a,b", "--descriptions", "none.json"], "'none.json'"),
        (["photo.jpg", "--labels", "a,b", "--views", "0"], "--views"),
    ],
)
def test_wrong_use_of_classify_is_one_sentence(arguments, message):
    assert message in fails("classify", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("classify", "photo.jpg", "--labels", "a,b", "--views", "0"),  # what click refuses,
        ("classify", "-", "--labels", "a,b"),  # what the command does,
        ("classify", "photo.jpg", "--labels", "cat"),  # and the library
        ("evaluate", "--dataset", "folder", "--methods", "cupl"),
        ("table", "none.json"),
    ],
)
@pytest.mark.slow
def test_a_real_process_refuses_in_the_same_words(arguments):
    done = run(*arguments, stdin="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == fails(*arguments, stdin="")


def test_an_empty_folder_and_no_input_say_so(tmp_path):
    assert "holds no images" in fails("classify", tmp_path, "--labels", "a,b")
    assert "no images were named" in fails("classify", "-", "--labels", "a,b", stdin="")


@pytest.fixture(scope="module")
def evaluated(by_class, tmp_path_factory):
    store, output = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("out") / "results.json"
    descriptions = output.with_name("descriptions.json")
    descriptions.write_text(
        json.dumps(
            {
                "Cat": ["A cat has whiskers.", "A cat has pointed ears."],
                "cup-of-coffee": ["A cup of coffee stands on a saucer."],
                "rocket": ["A rocket stands on a launch pad.", "A rocket is tall and white."],
                "astronaut": ["An astronaut wears a suit."],
            }
        )
    )
    command = ("evaluate", "--dataset", "folder", "--data-path", by_class, "--store", store, "--views", 4, "--runs", 3)
    command = (*command, "--descriptions", descriptions)
    done = run(*command, "--output", output)
    assert done.returncode == 0, done.stderr
    return command, done, output


@pytest.mark.slow
def test_evaluate_prints_a_table_and_writes_results(evaluated):
    _, done, output = evaluated
    content = json.loads(output.read_text())
    assert content["schema"] == 1
    assert content["dataset"] | {"root": "", "fingerprint": ""} == {
        "name": "folder",
        "root": "",
        "images": 4,
        "classes": 4,
        "fingerprint": "",
    }
    assert content["views"] == {"count": 4, "crop_scale": [0.1, 0.9], "sampled": 4, "runs": 3}
    by_method = {row["method"]: row for row in content["results"]}
    assert list(by_method) == [method.name for method in METHODS.values() if method.single_image]
    for row in by_method.values():
        assert 0 <= row["ci95"][0] <= row["top1"] <= row["ci95"][1] <= 100
        assert row["top1"] <= row["top5"] == 100  # four classes
        assert row["n"] == 4
    assert len(by_method["wca"]["runs"]) == 3
    assert "std" in by_method["wca"]
    assert by_method["clip"]["top1"] == 100  # four photos that the encoder knows
    assert set(content["timing"]) == {"loading", "texts", "views", "scoring"}
    assert content["versions"]["crossalign"]
    assert "evaluate --dataset folder" in content["command"]
    assert sum(line.startswith("|") for line in done.stdout.splitlines()) == 2 + len(by_method)
    assert "4 images encoded now" in done.stderr
    assert "scoring" in done.stderr


@pytest.mark.slow
def test_a_second_call_encodes_nothing_and_finds_the_same(evaluated, tmp_path):
    command, _, output = evaluated
    done = run(*command, "--output", tmp_path / "again.json", "--num_workers", 0)
    assert "0 images encoded now, 4 cached before" in done.stderr
    assert json.loads((tmp_path / "again.json").read_text())["results"] == json.loads(output.read_text())["results"]


@pytest.mark.slow
@needs_posix
def test_a_killed_run_leaves_nothing_half_written(evaluated, tmp_path):
    command, _, output = evaluated
    command = [tmp_path / "store" if str(word).endswith("store0") else word for word in command]
    target = tmp_path / "results.json"
    process = subprocess.Popen(
        [SCRIPT, *map(str, command), "--output", target], stderr=subprocess.PIPE, start_new_session=True
    )
    while process.poll() is None and not list((tmp_path / "store").glob("views/*/manifest.json")):
        time.sleep(0.01)
    os.killpg(process.pid, 9)
    process.communicate()
    assert process.returncode == -9
    if target.exists():
        json.loads(target.read_text())
    done = run(*command, "--output", target)
    assert done.returncode == 0, done.stderr
    assert json.loads(target.read_text())["results"] == json.loads(output.read_text())["results"]


@pytest.mark.slow
def test_the_references_spelling_and_a_config_file_work(by_class, tmp_path):
    (tmp_path / "quick.yaml").write_text("views: 3\nsampled_views: 3\nruns: 2\ntemplates: ['a picture of a {}.']\n")
    done = run(
        "evaluate", "--dataset_name", "folder", "--data_path", by_class, "--config", tmp_path / "quick.yaml", "--limit", 2,
        "--methods", "clip-e,clip", "--num_workers", 1, "--output", tmp_path / "r.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "r.json").read_text())
    assert (content["views"]["count"], content["dataset"]["images"]) == (3, 2)
    assert [row["method"] for row in content["results"]] == ["clip-e", "clip"]


@pytest.mark.slow
def test_untrained_open_clip_runs_through_the_same_commands(by_class, photos):
    encoder = ("--encoder", "open_clip:ViT-S-32-alt/random", "--runtime", "torch", "--views", 2)
    done = run(
        "evaluate", "--dataset", "folder", "--data-path", by_class, *encoder, "--methods", "clip,waffle", "--limit", 2
    )
    assert done.returncode == 0, done.stderr
    assert "open_clip:ViT-S-32-alt/random is untrained" in done.stderr
    assert "| open_clip:ViT-S-32-alt/random | waffle " in done.stdout
    done = run("classify", photos / "chelsea.png", "--labels", "cat,dog", *encoder, "--json")
    assert len(json.loads(done.stdout)[0]["predictions"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no dataset given"),
        (["--dataset", "imagenet-q"], "dataset 'imagenet-q' is unknown; known are caltech101"),
        (["--dataset", "dtd", "--data-path", "nowhere"], "published at https://www.robots.ox.ac.uk/~vgg/data/dtd/"),
        (["--dataset", "dtd", "--crop-scale", "wide"], "--crop-scale is 'wide', but must be"),
        (["--dataset", "dtd", "--crop-scale", "0.9,0.1"], "crop_scale is 0.9, 0.1"),
        (["--dataset", "dtd", "--output", "no/such/folder/r.json"], "'no/such/folder/r.json' cannot be written"),
        (["--dataset", "folder", "--methods", "cupl"], "cupl need descriptions of the classes"),
        (["--dataset", "folder"], "no folder was given for folder"),
        (["--dataset", "folder", "--methods", "clap"], "unknown method clap"),
        (["--dataset", "folder", "--config", "none.yaml"], "config 'none.yaml' cannot be read"),
    ],
)
def test_wrong_use_of_evaluate_is_one_sentence(arguments, message):
    assert message in fails("evaluate", *arguments)


@pytest.mark.slow
def test_without_descriptions_a_folder_runs_the_methods_that_need_none(by_class):
    done = run("evaluate", "--dataset", "folder", "--data-path", by_class, "--views", 2, "--limit", 1)
    assert "left out, since no --descriptions were given: clip-d, cupl, wca" in done.stderr
    assert "| waffle " in done.stdout
    assert "| wca " not in done.stdout


@pytest.mark.parametrize("layout", ["markdown", "csv", "latex"])
def test_table_lays_out_results(evaluated, layout):
    _, _, output = evaluated
    done = run("table", output, output, "--format", layout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cupl") == 2
    assert done.stdout.startswith({"markdown": "| dataset", "csv": "dataset,", "latex": "\\begin{tabular}"}[layout])


def test_table_refuses_other_files(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    assert "not a results file of schema 1" in fails("table", tmp_path / "x.json")
    assert "cannot be read" in fails("table", tmp_path / "none.json")


@pytest.mark.slow
def test_lists_tell_what_there_is():
    encoders = shows("encoders", "ViT-B-32")
    assert "builtin" in encoders
    assert "open_clip:ViT-B-32/openai" in encoders
    assert "ViT-L-14/laion" not in encoders
    assert encoders.index("open_clip:ViT-B-16/openai") < encoders.index("builtin")
    described = shows("encoders", "builtin")
    for row in (
        "activation   ReLU6, GELU",
        "input        224 x 224 pixels, bicubic",
        "logit scale  20",
        "logit bias   none",
    ):
        assert row in described
    datasets = shows("datasets")
    for name in ("imagenet", "imagenetv2", "imagenet-r", "imagenet-sketch", "imagenet-a", "cub", "oxford_pet", "places365"):
        assert f"\n{name} " in datasets
    command = [sys.executable, "-m", "crossalign", "methods"]
    methods = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    for name in ("clip", "clip-e", "clip-d", "waffle", "cupl", "wca"):
        assert f"\n{name} " in methods
