"""What strangers' files and words must not bring about, and calls that no module may make."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from conftest import PHOTOS
from crossalign.cli import main
from crossalign.datasets import load_dataset
from crossalign.datasets.configs import load_config
from crossalign.encoders import load_encoder
from crossalign.errors import InputError
from crossalign.evaluation.results import Evaluation, MethodResult
from crossalign.images.crops import Preprocessing
from crossalign.images.decoding import read_image
from crossalign.reports.html import methods_report
from forbidden_calls import forbidden_calls
from systems import needs_posix

ROOT = Path(__file__).parents[1]
SOURCES = [*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
SCRIPT = Path(sys.executable).with_name("crossalign")
SECRET = "correct-horse-4711"


def test_no_module_runs_what_it_reads():
    assert len(SOURCES) > 60
    assert {str(path.relative_to(ROOT)): found for path in SOURCES if (found := forbidden_calls(path.read_text()))} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    from pickle import loads as read",
        "eval('1')",
        "run = exec",
        "import builtins\nbuiltins.exec('')",
        "import os\nos.system('ls')",
        "import os as o\no.execvp('ls', [])",
        "from os import popen as p\np('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess as s\ns.Popen('ls', shell=wanted)",
        "import subprocess\nsubprocess.getoutput('ls')",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
        "from yaml import unsafe_load\nunsafe_load(text)",
        "import torch\ntorch.load(file)",
        "import torch\ntorch.load(file, weights_only=False)",
        "import torch\ntorch.load(file, weights_only=trusted)",
        "from torch import load as read\nread(file)",
        "import torch\nread = torch.load",
        "import torch\ntorch.jit.load(file)",
        "import open_clip\nopen_clip.create_model(arch, weights_only=False)",
        "import numpy as np\nnp.load(file, allow_pickle=True)",
        "import tarfile\ntarfile.open(file).extractall(folder)",
        "import tarfile\ntarfile.open(file).extractall(folder, filter='fully_trusted')",
        "import jinja2\njinja2.Environment()",
        "from jinja2 import Environment\nEnvironment(autoescape=False)",
        "from markupsafe import Markup as M\nM(name)",
        "import transformers\ntransformers.AutoModel.from_pretrained(name, trust_remote_code=True)",
        "import httpx\nhttpx.get(url, verify=False)",
        "import tempfile\ntempfile.mktemp()",
    ],
)
def test_a_planted_call_is_found(planted):
    assert forbidden_calls(f'"""A module."""\n{planted}\n')


def test_harmless_calls_pass():
    harmless = (
        "import re, subprocess, yaml, numpy as np, torch\nmodel.eval()\nre.compile('a')\nsubprocess.run(['ls'])\n"
        "yaml.safe_load('a')\nnp.load(file)\ntorch.load(file, map_location='cpu', weights_only=True)\nself.load(file)\n"
        "archive.extractall(folder, filter='data')\n"
    )
    assert forbidden_calls(harmless) == []


def test_no_template_switches_escaping_off():
    templates = sorted((ROOT / "src").rglob("*.html"))
    assert len(templates) >= 3
    for template in templates:
        assert not re.search(r"\|\s*safe\b|autoescape|Markup|=\{\{", template.read_text()), template


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def checkpoints(folder, mark):
    """Write checkpoints that carry a payload, in each form that open_clip reads."""
    torch.save({"state_dict": {"weight": torch.zeros(2), "more": Payload(mark)}}, folder / "packed.pt")
    torch.save(Payload(mark), folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "plain.bin").write_bytes(pickle.dumps(Payload(mark)))
    (folder / "named.safetensors").write_bytes(pickle.dumps(Payload(mark)))
    np.save(folder / "objects.npy", np.array([Payload(mark)], dtype=object), allow_pickle=True)
    # torch's careful reader fails on it with a TypeError, upon which open_clip reads the file again by torch's default.
    odd = b"\x80\x02ccollections\nOrderedDict\n)RNb0" + pickle.dumps(Payload(mark), 2)[2:]
    (folder / "odd.bin").write_bytes(odd)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("name", ["packed.pt", "old.pt", "plain.bin", "named.safetensors", "objects.npy", "odd.bin"])
def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch, name):
    folder, mark = tmp_path / "weights", tmp_path / "ran"
    folder.mkdir()
    file = next(path for path in checkpoints(folder, mark) if path.name == name)
    for environment in ("0", "1"):
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", environment)
        with pytest.raises(InputError, match=r"holds more than weights|is damaged or truncated|is no file of weights"):
            load_encoder(f"open_clip:ViT-S-32-alt/{file}", "cpu")
        assert not mark.exists()
        assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == environment
        assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    # The payload itself is live: whoever trusts the file runs it.
    trusting = {".npy": lambda: np.load(file, allow_pickle=True), ".pt": lambda: torch.load(file, weights_only=False)}
    trusting.get(file.suffix, lambda: pickle.loads(file.read_bytes()))()
    assert mark.is_dir()


def test_a_checkpoint_of_the_hub_runs_no_code(tmp_path, monkeypatch):
    from huggingface_hub import constants

    repository, mark = tmp_path / "models--timm--resnet50_clip.openai", tmp_path / "ran"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    torch.save({"state_dict": {"more": Payload(mark)}}, snapshot / "open_clip_pytorch_model.bin")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="Weights only load failed"):
        load_encoder("open_clip:RN50/openai", "cpu")
    assert not mark.exists()


def test_a_config_makes_no_objects(tmp_path):
    bomb = "".join(f"f{n}: &f{n} [{', '.join([f'*f{n - 1}'] * 10)}]\n" for n in range(1, 12))
    for text, words in {
        f"title: !!python/object/apply:os.mkdir [{tmp_path / 'ran'}]": "is no YAML",
        "title: 2001-99-99": "is no YAML",
        f"title: {'[' * 1000}": "is no YAML",
        f"f0: &f0 [x, x]\n{bomb}title: *f11": "has an alias",
    }.items():
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(InputError, match=words):
            load_config(str(tmp_path / "c.yaml"))
    assert not (tmp_path / "ran").exists()


@needs_posix
def test_a_picture_starts_no_program(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\n: > {tmp_path / 'ran'}\nexit 1\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    picture = tmp_path / "cat.jpg"
    picture.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match=r"cat\.jpg' cannot be read .it is PostScript, which is run"):
        read_image(picture)
    assert not (tmp_path / "ran").exists()
    with pytest.raises((OSError, subprocess.SubprocessError)), Image.open(picture) as image:
        image.load()
    assert (tmp_path / "ran").exists()


def test_links_in_a_dataset_lead_to_images_alone(tmp_path):
    (tmp_path / "tree" / "cat").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "other.png").symlink_to(PHOTOS / "coffee.png")
    (tmp_path / "tree" / "cat" / "linked.png").symlink_to(PHOTOS / "chelsea.png")
    (tmp_path / "tree" / "cat" / "deeper").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "tree" / "cup").symlink_to(tmp_path / "elsewhere")
    found = load_dataset(load_config("folder"), tmp_path / "tree").paths
    assert [str(path.relative_to(tmp_path / "tree")) for path in found] == [
        "cat/deeper/other.png",
        "cat/linked.png",
        "cup/other.png",
    ]


def test_names_in_a_report_on_methods_are_text():
    evil = "<script>alert(1)</script>"
    dataset = SimpleNamespace(
        name=evil, root=Path(evil), paths=(Path("a"), Path("b")), labels=(0, 1), class_names=(evil, "b"), fingerprint=evil
    )
    pixels = Preprocessing((8, 8), (0.5,) * 3, (0.5,) * 3)
    encoder = SimpleNamespace(name=evil, width=4, logit_scale=1.0, fingerprint=evil, device="cpu", preprocessing=pixels)
    done = Evaluation(dataset, encoder, load_config("folder"), 0, (evil,))
    done.results = [MethodResult("clip", "released", np.array([[0], [1]]))]
    page = methods_report(done)
    assert page.count("&lt;script&gt;alert(1)") >= 3
    assert evil not in page


def test_no_option_takes_a_secret():
    context = click.Context(main)
    options = {
        option.name: name
        for name in main.list_commands(context)
        for option in main.get_command(context, name).params
        if re.search("key|token|secret|pass|auth", option.name)
    }
    # Both take the name of an environment variable.
    assert options == {"api_key_env": "describe", "auth": "serve"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve", "--auth", "anna:WORD", "--labels-file", "nowhere.txt"], "nowhere.txt"),
        (["serve", "--model", "some-llm", "--base-url", f"http://anna:p@{SECRET}@h/v1?a", "--labels", "x"], "--labels"),
        (["serve", "--model", "some-llm", "--base-url", f"http://anna:p@{SECRET}@h/v1?a"], "plain http address"),
    ],
)
def test_secrets_are_not_told(tmp_path, words, told):
    keys = {"WORD": SECRET, "OPENAI_API_KEY": f"sk-{SECRET}"}
    command = [SCRIPT, "--log-file", tmp_path / "run.log", *words]
    done = subprocess.run(command, env=os.environ | keys, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    log = (tmp_path / "run.log").read_text()
    assert "serve" in log
    assert not any(SECRET in text for text in (done.stdout, done.stderr, log))


def test_openvino_and_nncf_tell_nobody(tmp_path):
    code = """
import sys

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen"):
        # Python's own search for a C library asks the linker.
        assert event == "subprocess.Popen" and "ldconfig" in str(args[0]), (event, args)

sys.addaudithook(watch)
from pathlib import Path

import torch
from crossalign.encoders import _openvino
from crossalign.encoders._tower import Tower
from crossalign.images.crops import Preprocessing

layers = torch.nn.Conv2d(3, 8, 3, 4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(512, 8)
tower = Tower(torch.nn.Sequential(*layers).eval().requires_grad_(False), Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))
views = torch.zeros((4, 3, 32, 32), dtype=torch.uint8)
_openvino.load(tower, "int8", _openvino.file_of(Path("towers"), "0"), views)(views)
assert "nncf" in sys.modules and "openvino" in sys.modules
assert not [name for name in sys.modules if name.split(".")[0] == "openvino_telemetry"]
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "towers" / "int8-0.xml").exists()
    assert not any("intel" in path.name for path in home.rglob("*"))


def test_links_between_the_pages_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / "SECURITY.md").read_text()):
        assert (ROOT / target).exists(), target
