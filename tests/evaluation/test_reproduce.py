"""The paper's grid: its figures, the noise between two runs, and the command through a real process."""

import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import dataset_trees as trees
from crossalign.cli import main
from crossalign.datasets.configs import load_config
from crossalign.evaluation.latex import escape_latex
from crossalign.evaluation.reproduction import grid, sources
from crossalign.evaluation.reproduction.published import published_encoder, published_table
from crossalign.evaluation.reproduction.report import HEADER, counts, markdown, rows_of
from crossalign.evaluation.reproduction.verdict import CHANGED_SHARE, sigma, verdict
from crossalign.methods.registry import METHODS

SCRIPT = Path(sys.executable).with_name("crossalign")
COMMAND = (
    *("reproduce", "--tables", "1", "--encoder", "builtin", "--encoder", "builtin:lite9", "--store", "store"),
    *("--datasets", "oxford_pet,dtd,food101,cub", "--methods", "clip,wca", "--limit", "2"),
    *("--descriptions", "texts"),
)


# The published figures.


@pytest.mark.parametrize(
    ("table", "dataset", "encoder", "method", "top1"),
    [
        (1, "imagenet", "ViT-B-32", "clip", 62.05),
        (1, "imagenet", "ViT-L-14", "wca", 77.32),
        (1, "cub", "ViT-B-16", "clip-d", 57.08),
        (1, "oxford_pet", "ViT-L-14", "waffle", 91.55),
        (1, "dtd", "ViT-B-32", "wca", 49.39),
        (1, "food101", "ViT-B-16", "cupl", 88.98),
        (1, "places365", "ViT-L-14", "clip-e", 40.55),
        (2, "imagenetv2", "ViT-B-16", "wca", 64.71),
        (2, "imagenet-a", "ViT-B-16", "wca", 56.13),
    ],
)
def test_published_figures_are_the_papers(table, dataset, encoder, method, top1):
    assert published_table(table).top1[dataset, encoder, method] == top1


def test_published_tables_are_whole_and_of_what_the_package_knows():
    assert len(published_table(1).top1) == 6 * 3 * 6
    assert len(published_table(2).top1) == 4
    for number in (1, 2):
        table = published_table(number)
        assert set(table.methods) <= set(METHODS)
        for name in table.images:
            assert load_config(name).name == name
    top1 = published_table(1).top1
    for dataset, encoder, method in top1:
        assert top1[dataset, encoder, method] <= top1[dataset, encoder, "wca"]  # as the paper says


@pytest.mark.parametrize(
    ("spec", "known"),
    [
        ("open_clip:ViT-B-32/openai", "ViT-B-32"),
        ("open_clip:ViT-L-14-quickgelu/openai", "ViT-L-14"),
        ("open_clip:ViT-B-16-quickgelu//weights/ViT-B-16.pt", "ViT-B-16"),
        ("open_clip:ViT-B-16//weights/ViT-B-16.pt", "ViT-B-16"),  # loads only if it has OpenAI's digest
        ("open_clip:ViT-B-16/openai@/weights/mine.pt", "ViT-B-16"),
        ("open_clip:ViT-B-16/dfn2b@/weights/ViT-L-14.pt", None),
        ("open_clip:ViT-B-16-quickgelu//weights/mine.pt", None),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", None),
        ("open_clip:RN50/openai", None),
        ("builtin:lite0", None),
    ],
)
def test_only_openais_weights_are_the_papers_encoders(spec, known):
    assert published_encoder(spec) == known


# The noise between two runs.


def row(method="clip", top1=50.0, n=1000, **others):
    return {"method": method, "top1": top1, "n": n, **others}


def test_sigma_of_crops_covers_what_fresh_crops_do():
    """Simulate laboratories: each cuts its own crops, re-draws them R times and averages, as the released program does."""
    random = np.random.default_rng(0)
    pictures, crops, runs = 600, 60, 20
    margin = random.standard_normal(pictures)[:, None] / 2
    accuracies, spreads = [], []
    for _ in range(100):
        scores = margin + 2 * random.standard_normal((pictures, crops))
        draws = np.stack([np.bincount(random.integers(crops, size=crops), minlength=crops) for _ in range(runs)])
        of_run = 100 * (scores @ draws.T > 0).mean(0)
        accuracies.append(of_run.mean())
        spreads.append(of_run.std(ddof=1))
    between = np.std(accuracies) * math.sqrt(2)
    told = sigma(row("wca", std=float(np.mean(spreads)), runs=[0] * runs, n=10**12), 50, 10**12)
    assert between <= told <= 2.2 * between


def test_sigma_of_a_subset_is_what_subsets_do():
    random = np.random.default_rng(0)
    right = np.arange(2000) < 1300
    subsets = [100 * random.permutation(right)[:500].mean() for _ in range(1500)]
    arithmetic = 100**2 * CHANGED_SHARE / 500
    told = math.sqrt(sigma(row(n=500), 65.0, 2000) ** 2 - arithmetic)
    assert told == pytest.approx(np.std(subsets), rel=0.08)


def test_sigma_of_the_whole_set_is_tolerance_and_rounding_only():
    # Of 5000 pictures 10 turn this way or that: sqrt(10) pictures of 5000 are 0.063 points.
    assert sigma(row(n=5000), 50, 5000) == pytest.approx(math.hypot(100 * math.sqrt(10) / 5000, 0.01 / math.sqrt(12)))


@pytest.mark.parametrize("method", ["waffle", "wca"])
def test_without_its_spread_a_random_method_has_no_verdict(method):
    assert sigma(row(method), 50, 1000) is None
    assert verdict(99.0, 50.0, None) == "noise unknown"


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.001, 10))
def test_a_verdict_turns_at_two_sigma(measured, published, one):
    said = verdict(measured, published, one)
    assert (said == "within 2 sigma") == (abs(measured - published) <= 2 * one)
    assert said in ("within 2 sigma", "above" if measured > published else "below")
    assert verdict(measured, None, None) == "not published"


# The command, on generated trees.


def describe(folder, config):
    """Write descriptions in a subfolder, as cupl/dtd.json."""
    folder.mkdir(parents=True, exist_ok=True)
    names = trees.class_list(config).names
    (folder / f"{config}.json").write_text(json.dumps({n: [f"A {n} is seen here.", f"This is {n}."] for n in names}))


def start(folder, *more, **options):
    return subprocess.Popen(
        [SCRIPT, *COMMAND, *more], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    trees.dtd(home / "data/dtd")  # in a folder of its name
    trees.oxford_pet(home / "data")  # as torchvision leaves it
    (home / "data/food101").mkdir()  # there, but broken
    describe(home / "texts/cupl", "dtd")
    describe(home / "texts/cupl", "oxford_pet")
    return home


@pytest.fixture(scope="module")
def killed(home):
    """Kill the command when its first cell is written."""
    process = start(home, "--output", "out", start_new_session=True)
    end = time.monotonic() + 120
    while not list((home / "out").glob("*.json")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    os.killpg(process.pid, 9)
    _, stderr = process.communicate()
    assert process.returncode == -9, stderr
    return {file.name: file.read_bytes() for file in (home / "out").iterdir() if not file.name.startswith(".")}


@pytest.fixture(scope="module")
def resumed(home, killed):
    process = start(home, "--output", "out")
    return *process.communicate(), process.returncode


@pytest.fixture(scope="module")
def unbroken(home):
    """The same in one go, from the pictures on, of the datasets that can run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        asked = [word.replace(",food101,cub", "") for word in COMMAND if word != "builtin:lite9"]
        asked.pop(asked.index("--store") - 1)  # the second --encoder
        asked[asked.index("store")] = "another store"
        return CliRunner().invoke(main, [*asked, "--output", "fresh"])


@pytest.mark.slow
def test_a_killed_grid_goes_on_and_finds_the_same(home, killed, resumed, unbroken):
    assert list(killed) == ["oxford_pet--builtin-lite0.json"]
    stderr = resumed[1]
    assert "oxford_pet with builtin:lite0: read from out/oxford_pet--builtin-lite0.json" in stderr
    assert "dtd with builtin:lite0: 2 images, 47 classes" in stderr
    assert (home / "out/oxford_pet--builtin-lite0.json").read_bytes() == killed["oxford_pet--builtin-lite0.json"]
    assert unbroken.exit_code == 0, unbroken.output
    assert "## Not measured" not in unbroken.output
    for name in ("oxford_pet", "dtd"):
        content, fresh = (
            json.loads(grid.results_file(home / out, name, "builtin:lite0").read_text()) for out in ("out", "fresh")
        )
        for key in ("results", "views", "scales", "seed", "made_of"):
            assert content[key] == fresh[key], (name, key)


@pytest.mark.slow
def test_the_command_prints_tables_and_ends_with_what_is_missing(home, resumed):
    stdout, stderr, code = resumed
    assert code == 1, stderr  # food101 is there and failed
    assert "Traceback" not in stderr
    assert stdout == (home / "out/reproduction.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in stdout.splitlines() if "| builtin:lite0" in line]
    assert [row[:4] for row in rows] == [
        [dataset, "builtin:lite0", method, ""] for dataset in ("oxford_pet", "dtd") for method in ("clip", "wca")
    ]
    assert [row[5:] for row in rows[2:]] == [["", "", "not published", "2 of 1880"]] * 2
    assert "4 not published." in stdout
    assert "published accuracies (Li et al., ICML 2024, arXiv 2406.02915)" in stdout
    assert f"command: crossalign {' '.join(COMMAND)} --output out" in stdout
    assert "descriptions: oxford_pet: texts/cupl/oxford_pet.json; dtd: texts/cupl/dtd.json" in stdout
    last = stdout.split("## Not measured")[1].strip().splitlines()
    for line, start in zip(last, ("- food101: ", "- cub (Caltech-UCSD Birds", "- encoder builtin:lite9: "), strict=True):
        assert line.startswith(start)
    assert "it is published at https://www.vision.caltech.edu" in last[1]


@pytest.mark.slow
def test_results_files_are_those_of_evaluate(home, resumed):
    done = CliRunner().invoke(main, ["table", str(home / "out/dtd--builtin-lite0.json")])
    assert done.exit_code == 0, done.output
    assert done.output.count("| builtin:lite0 |") == 2


@pytest.mark.slow
def test_latex_needs_booktabs_only(home, resumed):
    text = (home / "out/reproduction.tex").read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert body.count("\\begin{tabular}") == body.count("\\end{tabular}") == 1
    known = {
        *("begin", "end", "centering", "footnotesize", "caption", "toprule", "midrule", "bottomrule", "par", "noindent")
    }
    assert set(re.findall(r"\\([a-zA-Z]+)", body)) <= known | {"textbackslash", "textasciitilde", "textasciicircum"}
    assert not re.search(r"(?<!\\)[_%#$^~]", body)
    assert "oxford\\_pet" in body
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", body):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    for line in body[body.index("\\toprule") : body.index("\\bottomrule")].splitlines():
        assert line.startswith("\\") or (line.count(" & ") == len(HEADER) - 1 and line.endswith("\\\\")), line


def test_latex_specials_are_escaped():
    assert escape_latex(r"a_b 50% {x} \y ~^ --seed") == (
        r"a\_b 50\% \{x\} \textbackslash{}y \textasciitilde{}\textasciicircum{} -{}-seed"
    )


# What published rows look like: a real results file, told to be of the paper's encoder.


@pytest.fixture
def of_the_papers_encoder(home, resumed):
    content = json.loads((home / "out/oxford_pet--builtin-lite0.json").read_text())
    content["encoder"]["name"] = "open_clip:ViT-B-32/openai"
    content["descriptions"] = ["bundled:oxford_pet"]
    return grid.GridCell(
        published_table(1), load_config("oxford_pet"), "open_clip:ViT-B-32/openai", ("clip", "wca")
    ), content


@pytest.mark.slow
def test_published_stands_beside_measured(of_the_papers_encoder):
    cell, content = of_the_papers_encoder
    clip, wca = content["results"]
    clip |= {"top1": 85.04, "n": 3669}
    wca |= {"top1": 80.0, "n": 3669, "std": 0.1, "runs": [80.0] * 20}
    rows = rows_of(cell, content)
    assert [(r.published, r.measured, r.verdict) for r in rows] == [
        (85.04, 85.04, "within 2 sigma"),
        (89.89, 80.0, "below"),
    ]
    assert rows[1].texts()[3:] == ["89.89", "80.00", "-9.89", f"{2 * rows[1].sigma:.2f}", "below *", "3669"]
    text = markdown(grid.Outcome(done=[(cell, content)]), "crossalign reproduce")
    assert "\n1 within 2 sigma, 1 below.\n\n\\* measured with the descriptions that ship with crossalign" in text
    content["descriptions"] = ["cupl/oxford_pet.json"]
    assert rows_of(cell, content)[1].texts()[7] == "below"


def test_another_datasets_column_is_not_taken(of_the_papers_encoder):
    cell, content = of_the_papers_encoder
    content["dataset"]["name"] = "imagenetv2"
    rows = rows_of(replace(cell, table=published_table(2)), content)
    assert [r.published for r in rows] == [None, None]
    assert counts(rows) == "2 not published."


# Whether a results file is read or made anew.


@pytest.fixture(scope="module")
def made(home, resumed):
    """All that the cell of dtd is made of; of the encoder only its identity counts."""
    config = load_config("dtd")
    settings = grid.Settings(home / "data", home / "out", (home / "texts",), limit=2)
    content = json.loads(grid.results_file(settings.output, "dtd", "builtin:lite0").read_text())
    return {
        "config": config,
        "dataset": sources.find_dataset(config, settings.data_root).limit(2),
        "encoder": SimpleNamespace(name="builtin:lite0", fingerprint=content["encoder"]["fingerprint"]),
        "descriptions": sources.find_descriptions(config, settings.descriptions),
        "settings": settings,
    }


def kept(made, methods=("clip", "wca"), **changes):
    file = grid.results_file(made["settings"].output, "dtd", "builtin:lite0")
    return grid._read_if_same(file, grid._made_of(**(made | changes)), methods)


def test_the_same_is_read_and_methods_are_picked(made):
    content, reason = kept(made)
    assert reason == ""
    assert [r["method"] for r in content["results"]] == ["clip", "wca"]
    content, _ = kept(made, ("wca",))
    assert [r["method"] for r in content["results"]] == ["wca"]
    assert kept(made, ("wca", "cupl")) == (None, "lacks cupl")


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("config", {"views": 3}, "views"),
        ("config", {"sampled_views": 1}, "sampled_views"),
        ("config", {"crop_scale": (0.5, 0.9)}, "crop_scale"),
        ("config", {"runs": 4}, "runs"),
        ("config", {"image_scale": 3.0}, "image_scale"),
        ("config", {"text_scale": 3.0}, "text_scale"),
        ("config", {"templates": ("a {}.",)}, "templates"),
        ("settings", {"seed": 1}, "seed"),
        ("settings", {"allow_missing": True}, "allow_missing"),
        ("dataset", {"labels": (0, 0)}, "dataset"),
        ("dataset", {"class_names": ("x",) * 47}, "class_names"),
    ],
)
def test_of_another_making_is_made_anew(made, part, change, reason):
    changed = replace(made[part], **change)
    assert kept(made, **{part: changed}) == (None, f"differs in {reason}")


def test_other_weights_are_made_anew(made):
    assert kept(made, encoder=SimpleNamespace(name="builtin:lite0", fingerprint="0"))[1] == "differs in encoder"


def test_other_descriptions_or_fewer_pictures_are_made_anew(made):
    assert kept(made, descriptions=sources.find_descriptions(made["config"], ()))[1] == "differs in descriptions"
    assert kept(made, dataset=made["dataset"].limit(1))[1] == "differs in dataset"


@pytest.mark.parametrize(
    ("content", "reason"), [("{", "cannot be read"), (None, "does not say which inputs it was measured with")]
)
def test_a_spoilt_or_foreign_file_is_made_anew(made, tmp_path, content, reason):
    file = tmp_path / "cell.json"
    foreign = json.loads(grid.results_file(made["settings"].output, "dtd", "builtin:lite0").read_text())
    del foreign["made_of"]
    file.write_text(json.dumps(foreign) if content is None else content)
    assert grid._read_if_same(file, grid._made_of(**made), ("clip",)) == (None, reason)


# Datasets and descriptions.


@pytest.mark.parametrize("layout", ["oxford_pet", "dtd", "food101", "cub", "imagenet", "imagenetv2", "imagenet_sketch"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.filterwarnings("ignore:2 class names of imagenet.* repeat others:UserWarning")
def test_a_tree_is_found_in_its_own_folder_or_in_the_root(layout, own, tmp_path):
    config = load_config(layout.replace("imagenet_", "imagenet-"))
    pictures = getattr(trees, layout)(tmp_path / config.name if own else tmp_path)
    dataset = sources.find_dataset(config, tmp_path)
    assert len(dataset.paths) == len(pictures)


@pytest.mark.filterwarnings("ignore:2 class names of imagenet repeat others:UserWarning")
def test_anothers_folder_of_a_like_name_is_not_taken(tmp_path):
    trees.wnid_folders(tmp_path, "val")
    assert sources.find_dataset(load_config("places365"), tmp_path) is None
    assert len(sources.find_dataset(load_config("imagenet"), tmp_path).paths) == 3


def test_published_names_find_the_bundled_descriptions(tmp_path):
    config = load_config("oxford_pet")
    trees.oxford_pet(tmp_path)
    dataset = sources.find_dataset(config, tmp_path)
    assert "german shorthaired" in dataset.class_names
    (bundled,) = sources.find_descriptions(config, ())
    assert all(bundled.match(dataset.class_names, dataset.aliases))


def test_a_shifted_imagenet_takes_imagenets_descriptions_or_its_own(tmp_path):
    config = load_config("imagenetv2")
    describe(tmp_path / "cupl", "imagenet")
    (given,) = sources.find_descriptions(config, [tmp_path])
    assert given.source == str(tmp_path / "cupl/imagenet.json")
    (tmp_path / "imagenetv2.json").write_text('{"tench": ["a fish"]}')
    assert sources.find_descriptions(config, [tmp_path])[0].source == str(tmp_path / "imagenetv2.json")


@pytest.mark.parametrize("name", [name for number in (1, 2) for name in published_table(number).images])
def test_a_missing_dataset_names_a_place_and_a_command_that_is_understood(name, tmp_path):
    config = load_config(name)
    sentence = sources.how_to_get(config, tmp_path)
    assert config.url in sentence
    if "`" in sentence:
        command, *options = sentence.split("`")[1].split()[1:]
        main.get_command(None, command).make_context(command, options).close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tables", "3"], "table '3' is unknown; --tables takes 1, 2 or 1,2"),
        (["--datasets", "caltech101"], "dataset 'caltech101' is not in the tables that --tables names"),
        (["--datasets", "imagenetv2", "--tables", "1"], "dataset 'imagenetv2' is not in the tables that --tables names"),
        (["--datasets", "nothing"], "dataset 'nothing' is unknown"),
        (["--methods", "clap"], "unknown method clap"),
        (["--descriptions", "none"], "descriptions 'none' do not exist"),
        (
            ["--descriptions", "file.json"],
            "descriptions 'file.json' are for none of the datasets asked; name the file cub.json",
        ),
        (["--output", "file.json"], "output 'file.json' is a file"),
        (["--datasets", "dtd,cub"], "nothing could run:\n- cub (Caltech-UCSD Birds 200-2011"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file.json").write_text("{}")
    done = CliRunner().invoke(main, ["reproduce", *arguments])
    assert done.exit_code == 2
    assert message in re.sub(r"cub\.json or .*", "cub.json", done.output)
    assert not Path("reproduction").exists()


def test_encoders_that_cannot_be_loaded_are_one_sentence_each(home):
    cells = grid.plan([published_table(1)], [load_config("dtd")], ["builtin:lite9", "clip"])
    outcome = grid.run_grid(cells, grid.Settings(home / "data", home / "none"))
    assert [line.split(":")[0] for line in outcome.missing] == ["encoder builtin", "encoder clip"]
    assert (outcome.done, outcome.failed) == ([], [])


def test_without_encoders_the_plan_is_the_papers_grid():
    cells = grid.plan([published_table(1), published_table(2)], [load_config(name) for name in ("dtd", "imagenet-a")])
    assert [(cell.config.name, cell.encoder, len(cell.methods)) for cell in cells] == [
        ("dtd", "open_clip:ViT-B-32/openai", 6),
        ("dtd", "open_clip:ViT-B-16/openai", 6),
        ("dtd", "open_clip:ViT-L-14/openai", 6),
        ("imagenet-a", "open_clip:ViT-B-16/openai", 1),
    ]
    assert {(cell.config.released_views, cell.config.sampled_views, cell.config.runs) for cell in cells} == {(100, 60, 20)}
