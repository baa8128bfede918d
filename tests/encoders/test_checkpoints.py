"""Weights are read from all forms of files, and what is no file of weights says what it is."""

import os
import zipfile
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from crossalign import encoders
from crossalign.encoders._checkpoints import read_weights
from crossalign.errors import InputError

load_encoder = partial(encoders.load_encoder, runtime="torch", precision="f32")
ARCH = "ViT-S-32-alt"
"""Small, and without published weights: its config decides."""


@pytest.fixture(scope="module")
def small():
    with pytest.warns(UserWarning, match="untrained"):
        encoder = load_encoder(f"open_clip:{ARCH}/random", "cpu")
    return encoder, encoder.model.state_dict()


class Plain(torch.nn.Module):
    """Parameters and buffers by the names of another module, as in the archives that OpenAI publishes."""

    def __init__(self, model):
        super().__init__()
        for name, part in model.named_children():
            self.add_module(name, part)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in model.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, image):
        return self.visual(image)


def torchscript(model, file):
    torch.jit.trace(Plain(model), torch.zeros(1, 3, 224, 224), check_trace=False).save(str(file))


FORMS = {
    "plain.pt": lambda model, file: torch.save(model.state_dict(), file),
    "old.pt": lambda model, file: torch.save(model.state_dict(), file, _use_new_zipfile_serialization=False),
    "plain.bin": lambda model, file: torch.save({"state_dict": model.state_dict()}, file),
    "module.pt": lambda model, file: torch.save(
        {"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, file
    ),
    "prefixed.ckpt": lambda model, file: torch.save(
        {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "pytorch-lightning_version": "2"}, file
    ),
    "compiled.pt": lambda model, file: torch.save(
        {"model": {f"module._orig_mod.{k}": v for k, v in model.state_dict().items()}}, file
    ),
    "vector.safetensors": lambda model, file: save_file(
        {k: v.reshape(1) if k == "logit_scale" else v.clone() for k, v in model.state_dict().items()}, file
    ),
    "torchscript.pt": torchscript,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.slow
def test_weights_are_read_in_every_form(small, tmp_path, form):
    encoder, state = small
    FORMS[form](encoder.model, tmp_path / form)
    loaded = load_encoder(f"open_clip:{ARCH}/{tmp_path / form}", "cpu")
    assert loaded.fingerprint == encoder.fingerprint
    assert loaded.weights == f"file {tmp_path / form}, with the configuration of {ARCH}, which has no published weights"
    assert loaded.model.state_dict().keys() == state.keys()


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*torch.jit:FutureWarning", "ignore::DeprecationWarning")
def test_archives_are_read_as_torch_reads_them_without_their_code(tmp_path):
    class Odd(torch.nn.Module):
        """All that an archive may hold: several dtypes, views of one storage, empty tensors, lists, modules in modules."""

        def __init__(self):
            super().__init__()
            both = torch.arange(12.0)
            self.first = torch.nn.Parameter(both[:4].view(2, 2).t())
            self.second = torch.nn.Parameter(both[4:])
            self.low = torch.nn.Parameter(torch.randn(3).half())
            self.register_buffer("empty", torch.empty(0, 4))
            self.register_buffer("count", torch.tensor(7))
            self.sizes, self.words = [1, 2], {"a": 1}
            self.parts = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))

        def forward(self, x):
            return self.parts(x @ self.first)

    scripted = torch.jit.script(Odd())
    scripted.save(str(tmp_path / "odd.pt"))
    expected, read = scripted.state_dict(), read_weights(tmp_path / "odd.pt")
    assert read.keys() == expected.keys()
    for name, value in expected.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


def test_no_code_of_an_archive_is_run(tmp_path):
    """torch.jit.load would run the module's __setstate__."""
    source, target = tmp_path / "plain.pt", tmp_path / "evil.pt"
    torch.save({"logit_scale": torch.zeros(1)}, source)
    evil = b"cposix\nsystem\n(X\x0a\x00\x00\x00touch hurttR."
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        after.writestr("evil/data.pkl", evil)
        after.writestr("evil/constants.pkl", before.read("plain/data.pkl"))
    with pytest.raises(
        InputError, match=r"holds more than weights \(posix.system\), which is not loaded, since it could run code"
    ):
        read_weights(target)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("hurt",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "evil.pt",
            {"state_dict": {}, "x": Evil()},
            r"holds more than weights \(posix.mkdir\).*torch.save\(model.state_dict\(\), FILE\)",
        ),
        ("numbers.pt", {"epoch": 1, "lr": 0.1}, "holds no weights by name; give a state dict"),
        ("list.pt", [torch.zeros(1)], "holds no weights by name"),
        (
            "pointer.bin",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 605143316\n",
            "is a Git LFS pointer, not",
        ),
        ("page.pt", b"<!DOCTYPE html><html>", "is no file of weights; give one of torch"),
        ("empty.pt", b"", "is no file of weights"),
    ],
)
def test_files_that_are_no_weights_say_what_they_are(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(InputError, match=message) as caught:
        load_encoder(f"open_clip:{ARCH}/{file}", "cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "hurt").exists()


@pytest.mark.parametrize("form", ["plain.pt", "old.pt", "vector.safetensors"])
def test_cut_files_are_damaged(tmp_path, form):
    model = torch.nn.Linear(30, 30)
    model.logit_scale = torch.nn.Parameter(torch.zeros(()))
    FORMS[form](model, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    assert len(read_weights(tmp_path / "whole")) == 3
    for share in (0.3, 0.9):
        (tmp_path / "cut").write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=r"bytes\) is damaged or truncated .*; download or copy it again"):
            read_weights(tmp_path / "cut")


@pytest.mark.slow
def test_weights_of_other_programs_and_architectures_are_named(small, tmp_path):
    _, state = small
    cases = {
        "transformers": (
            {"logit_scale": torch.zeros(()), "text_model.embeddings.position_embedding.weight": torch.zeros(7, 4)},
            "is of the transformers library; give its folder as transformers:DIR",
        ),
        "shape": (
            state | {"visual.conv1.weight": torch.zeros(384, 3, 16, 16)},
            rf"is of another architecture than {ARCH}: visual.conv1.weight has shape \(384, 3, 16, 16\), but \(384, 3, 32,",
        ),
        "grid": (
            # open_clip would stretch the positions of another resolution without a word.
            state | {"visual.positional_embedding": torch.zeros(197, 384)},
            r"visual.positional_embedding has shape \(197, 384\), but \(50, 384\) is needed",
        ),
        "less": (
            {name: value for name, value in state.items() if name != "text_projection"},
            rf"is not of architecture {ARCH}: it lacks 1 of {len(state)} weights, such as text_projection; name",
        ),
        "more": (state | {"visual.extra": torch.zeros(1)}, "it has 1 that are unknown there, such as visual.extra"),
    }
    for name, (weights, message) in cases.items():
        file = tmp_path / f"{name}.safetensors"
        save_file({key: value.clone() for key, value in weights.items()}, file)
        with pytest.raises(InputError, match=message):
            load_encoder(f"open_clip:{ARCH}/{file}", "cpu")
