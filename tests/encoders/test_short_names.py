"""Short names of encoders stand for models that open_clip has, of the size that is shown."""

import open_clip
import pytest
import torch

from crossalign.encoders import SHORT_NAMES, load_encoder
from crossalign.encoders._short_names import full_spec
from crossalign.errors import InputError


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_a_short_name_is_a_published_model_of_the_size_that_is_shown(name):
    short = SHORT_NAMES[name]
    backend, _, spec = short.spec.partition(":")
    arch, tag = spec.split("/")
    assert backend == "open_clip"
    assert (arch, tag) in open_clip.list_pretrained()
    with torch.device("meta"):
        model = open_clip.factory.create_model(arch, pretrained_text=False, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == short.parameters
    assert short.download_bytes == 4 * short.parameters


def test_other_specs_are_left_as_they_are():
    assert full_spec("clip") == "open_clip:ViT-B-16/openai"
    for spec in ("builtin", "builtin:lite1", "open_clip:ViT-B-32/random", "clip:", "CLIP", ""):
        assert full_spec(spec) == spec


def test_an_error_names_the_full_spec(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"^open_clip:MobileCLIP2-S2/dfndr2b cannot be loaded"):
        load_encoder("mobileclip2", "cpu")


def test_what_is_no_short_name_is_told_which_there_are():
    with pytest.raises(InputError, match=r"names no known backend; known are builtin, .*, and the short names clip, "):
        load_encoder("clip3", "cpu")
    with pytest.raises(InputError, match="'clip:ViT-B-16' names no known backend"):
        load_encoder("clip:ViT-B-16", "cpu")
