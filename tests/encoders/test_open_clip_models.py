"""What a spec of open_clip builds: activation and preprocessing as trained, and models in folders and repositories."""

import json
import warnings
from functools import partial

import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip import factory
from safetensors.torch import save_file

from crossalign import encoders
from crossalign.encoders import _open_clip_models, describe
from crossalign.encoders._open_clip_models import Source, build, parse
from crossalign.errors import InputError

load_encoder = partial(encoders.load_encoder, runtime="torch", precision="f32")

ARCH = "ViT-S-32-alt"
"""Small, and without published weights: its config decides."""


@pytest.fixture
def no_weights(monkeypatch):
    """Published weights are neither fetched nor loaded; what is left is the model that they would go into."""
    monkeypatch.setattr(factory, "download_pretrained", lambda *_, **__: "stub")
    monkeypatch.setattr(factory, "load_checkpoint", lambda *_, **__: None)
    monkeypatch.setattr(_open_clip_models, "load_into", lambda *_: None)
    monkeypatch.setattr(_open_clip_models, "read_weights", lambda _: {})


@pytest.fixture
def built_with(monkeypatch, no_weights):
    """Architectures are not built either: gives what each was to be built with."""
    seen = []

    class Tower(torch.nn.Module):
        def __init__(self, size):
            super().__init__()
            self.image_size = size

    class Shell(torch.nn.Module):
        def __init__(self, embed_dim, vision_cfg, text_cfg, **config):
            super().__init__()
            seen.append({"size": vision_cfg.get("image_size", 224), "quick_gelu": config.get("quick_gelu", False)})
            self.visual = Tower(seen[-1]["size"])

    for name in ("CLIP", "CustomTextCLIP", "CoCa"):
        monkeypatch.setattr(factory, name, Shell)
    return seen


@pytest.mark.parametrize("form", ["{arch}/{tag}", "{arch}/{tag}@{file}"])
def test_all_published_weights_are_computed_as_they_were_trained(built_with, tmp_path, form):
    (tmp_path / "weights.pt").touch()
    tags = open_clip.list_pretrained()
    assert len(tags) >= 196
    for arch, tag in tags:
        model = build(parse(form.format(arch=arch, tag=tag, file=tmp_path / "weights.pt")))
        published, config = open_clip.get_pretrained_cfg(arch, tag), open_clip.get_model_config(arch)
        assert built_with[-1]["quick_gelu"] == bool(published.get("quick_gelu") or config.get("quick_gelu")), (arch, tag)
        pixels = model.visual.preprocess_cfg
        for setting in ("mean", "std", "interpolation", "resize_mode"):
            assert tuple(pixels[setting]) == tuple(published[setting]), (arch, tag, setting)
        assert pixels["size"] == built_with[-1]["size"] == config["vision_cfg"].get("image_size", 224)
    assert sum(built["quick_gelu"] for built in built_with) >= 55


@pytest.mark.parametrize(
    ("spec", "activation"),
    [
        ("ViT-B-32/openai", "QuickGELU"),
        ("ViT-B-32-quickgelu/metaclip_400m", "QuickGELU"),
        ("ViT-B-32/laion2b_s34b_b79k", "GELU"),
        ("RN50/openai", "QuickGELU, ReLU"),
        ("coca_ViT-B-32/laion2b_s13b_b90k", "GELU"),
    ],
)
@pytest.mark.slow
def test_built_models_have_the_activation(no_weights, recwarn, spec, activation):
    encoder = load_encoder(f"open_clip:{spec}", "cpu")
    assert encoder.activation == activation
    layers = {type(layer).__name__ for layer in encoder.model.modules()}
    assert ("QuickGELU" in layers, "GELU" in layers) == ("QuickGELU" in activation, activation == "GELU")
    assert not [w for w in recwarn if "QuickGELU" in str(w.message)]


def test_the_architecture_may_be_the_one_that_says_it():
    tag = "laion2b_s12b_b32k"
    assert not open_clip.get_pretrained_cfg("roberta-ViT-B-32", tag).get("quick_gelu")
    assert parse(f"roberta-ViT-B-32/{tag}").quick_gelu


def test_features_of_another_activation_have_another_fingerprint(tmp_path):
    prints = set()
    for quick in (False, True):
        folder = a_folder(tmp_path / str(quick), quick_gelu=quick)
        prints.add(load_encoder(f"open_clip:local-dir:{folder}", "cpu").fingerprint)
    assert len(prints) == 2


# Which tag a file is taken for.


def test_a_file_is_taken_for_what_all_tags_agree_on(built_with, tmp_path):
    file = tmp_path / "b16.safetensors"
    file.touch()
    model = build(parse(f"ViT-B-16-SigLIP/{file}"))
    assert model.visual.preprocess_cfg["mean"] == (0.5, 0.5, 0.5)
    assert model.visual.preprocess_cfg["resize_mode"] == "squash"
    assert parse(f"ViT-B-16-SigLIP/{file}").weights == (
        f"file {file}, with activation and preprocessing of ViT-B-16-SigLIP's published weights, which all agree"
    )


def test_a_file_that_could_be_several_things_needs_its_tag(tmp_path):
    file = tmp_path / "b32.pt"
    file.write_bytes(b"anything")
    with pytest.raises(InputError, match=r"open_clip:ViT-B-32/TAG@.*b32.pt, one of openai, laion400m_e31"):
        parse(f"ViT-B-32/{file}")
    assert parse(f"ViT-B-32/openai@{file}") == Source(
        f"ViT-B-32/openai@{file}", "ViT-B-32", "openai", file, f"file {file}, taken for ViT-B-32/openai"
    )


def test_openais_archives_are_known_by_their_digest(monkeypatch, tmp_path):
    digests = {"ViT-B-32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"}
    assert digests["ViT-B-32"] in open_clip.get_pretrained_cfg("ViT-B-32", "openai")["url"]
    (tmp_path / "mine.pt").write_bytes(b"stands for OpenAI's")
    monkeypatch.setattr(_open_clip_models, "_sha256", lambda _: digests["ViT-B-32"])
    source = parse(f"ViT-B-32/{tmp_path / 'mine.pt'}")
    assert (source.tag, source.quick_gelu) == ("openai", True)
    assert source.weights.endswith("known by its SHA-256 as ViT-B-32/openai")
    with pytest.raises(InputError, match=r"is ViT-B-32/openai; name it as open_clip:ViT-B-32/openai@.*mine.pt"):
        parse(f"ViT-L-14/{tmp_path / 'mine.pt'}")


def test_digests_are_sha256_of_the_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert _open_clip_models._sha256(tmp_path / "file") == known


def test_a_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "b32.pt").touch()
    for spec in (f"{ARCH}/~/b32.pt", "ViT-B-32/openai@~/b32.pt"):
        assert parse(spec).file == tmp_path / "b32.pt"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ViT-B-32/openai@nothing.pt", "weights file 'nothing.pt' is not there; check the path behind the @"),
        ("ViT-B-32/nothing.pt", "neither a file nor a tag of ViT-B-32 in open_clip; did you mean|it knows"),
        (f"{ARCH}/openai", f"neither a file nor a tag of {ARCH} in open_clip; it has no published weights"),
        (
            "ViT-B-32/laion2b@b.pt",
            "'laion2b@b.pt' is neither a file nor a tag of ViT-B-32 in open_clip; did you mean laion2b_",
        ),
        ("local-dir:nothing", "folder 'nothing' is not there"),
    ],
)
def test_specs_that_lead_nowhere(spec, message):
    with pytest.raises(InputError, match=message):
        parse(spec)


# Folders and hubs.

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


def a_folder(folder, **config):
    """A folder as open_clip's hub keeps models, of a tiny architecture with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = open_clip.CLIP(**TINY).state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": TINY | config, "preprocess_cfg": PIXELS}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_file({name: value.contiguous().clone() for name, value in state.items()}, folder / "open_clip_model.safetensors")
    return folder


def test_a_folders_config_decides_everything(tmp_path):
    folder = a_folder(tmp_path)
    encoder = load_encoder(f"open_clip:local-dir:{folder}", "cpu")
    described = describe(encoder)
    assert described["preprocessing"]["size"] == (64, 64)
    assert described["preprocessing"]["resize"] == "squash"
    assert described["preprocessing"]["mean"] == (0.5, 0.5, 0.5)
    assert described["weights"] == f"file {folder / 'open_clip_model.safetensors'}"
    assert encoder.width == 32
    assert encoder.logit_bias is None


def test_a_sigmoids_bias_is_kept(tmp_path):
    model = open_clip.CLIP(**TINY, init_logit_bias=-10.0)
    folder = a_folder(tmp_path)
    content = json.loads((folder / "open_clip_config.json").read_text())
    content["model_cfg"]["init_logit_bias"] = 0.0
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_file(
        {name: value.contiguous().clone() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    assert load_encoder(f"open_clip:local-dir:{folder}", "cpu").logit_bias == -10.0


def test_a_repository_is_read_from_the_hubs_cache(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--mine--tiny" / "snapshots" / "0123"
    a_folder(snapshot)
    (tmp_path / "models--mine--tiny" / "refs").mkdir()
    (tmp_path / "models--mine--tiny" / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    encoder = load_encoder("open_clip:hf-hub:mine/tiny", "cpu")
    assert encoder.weights == "hub repository mine/tiny"
    assert encoder.preprocessing.resize == "squash"
    with pytest.raises(
        InputError, match=r"open_clip:hf-hub:mine/none cannot be loaded \(.*\); check the name, download mine/none"
    ):
        load_encoder("open_clip:hf-hub:mine/none", "cpu")


def test_a_missing_tokenizer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = a_folder(tmp_path, text_cfg=TINY["text_cfg"] | {"hf_tokenizer_name": "mine/none"})
    with pytest.raises(InputError, match=r"^the tokenizer of open_clip:local-dir:.* cannot be loaded .*put its files"):
        load_encoder(f"open_clip:local-dir:{folder}", "cpu")
    monkeypatch.setattr(_open_clip_models, "build", lambda source: None)
    with (
        pytest.warns(UserWarning, match="untrained"),
        pytest.raises(InputError, match=r"^the tokenizer of .*SigLIP/random .*HF_HOME"),
    ):
        load_encoder("open_clip:ViT-B-16-SigLIP/random", "cpu")


def test_folders_that_lack_something_say_what(tmp_path):
    with pytest.raises(InputError, match=r"holds no open_clip_config.json, which says what model its weights are of$"):
        parse(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=rf"; as a model of transformers it is transformers:{tmp_path}$"):
        parse(f"local-dir:{tmp_path}")
    with pytest.raises(InputError, match=rf"is a folder; a model of transformers in a folder is transformers:{tmp_path}$"):
        parse(f"ViT-B-32/{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(
        InputError, match=rf"is a folder; a model of open_clip in a folder is open_clip:local-dir:{tmp_path}$"
    ):
        parse(f"ViT-B-32/{tmp_path}")
    with pytest.raises(InputError, match=r"holds no weights; put them there as open_clip_model.safetensors"):
        parse(f"local-dir:{tmp_path}")
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"holds several files of weights \(a.pt, b.pt\); call the right one"):
        parse(f"local-dir:{tmp_path}")
    (tmp_path / "a.pt").unlink()
    with pytest.raises(InputError, match=r"cannot be loaded \(.*\); check its open_clip_config.json"):
        load_encoder(f"open_clip:local-dir:{tmp_path}", "cpu")


# Texts that are longer than the context.


@pytest.mark.parametrize(("arch", "context"), [(ARCH, 77), ("coca_ViT-B-32", 76)])
@pytest.mark.slow
def test_truncated_texts_are_counted_once_for_every_kind_of_text_tower(arch, context):
    with pytest.warns(UserWarning, match="untrained"):
        encoder = load_encoder(f"open_clip:{arch}/random", "cpu")
    exactly, longer = " ".join(["cat"] * (context - 2)), " ".join(["cat"] * (context - 1))
    named = f"the {context} tokens of open_clip:{arch}/random"
    said = f"2 of 4 distinct prompts exceed {named} and were truncated; this is said once"
    with pytest.warns(UserWarning, match=said):
        encoder.encode_texts(["short", exactly, longer, longer + " dog", longer])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode_texts([longer + " cow"])


def a_hub_tokenizer(folder, **options):
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(
        models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2, "cat": 3, "<bos>": 4, "<cls>": 5}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", "bos_token": "<bos>", "cls_token": "<cls>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names, **options).save_pretrained(folder)


@pytest.mark.parametrize(
    ("mode", "side", "special"),
    [(None, "right", 1), (None, "left", 1), ("clips", "right", 3)],
    ids=["siglip", "left", "clips"],
)
def test_truncated_texts_are_counted_with_other_tokenizers(tmp_path, mode, side, special):
    text = TINY["text_cfg"] | {"hf_tokenizer_name": "here", "context_length": 16, "vocab_size": 6, "pool_type": "last"}
    text |= {"no_causal_mask": True, "tokenizer_mode": mode}
    config = TINY | {"text_cfg": text}
    folder = a_folder(tmp_path, text_cfg=text, custom_text=True)
    model = open_clip.CustomTextCLIP(**config)
    save_file(
        {name: value.contiguous().clone() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    a_hub_tokenizer(folder, padding_side=side)
    encoder = load_encoder(f"open_clip:local-dir:{folder}", "cpu")
    exactly, longer = " ".join(["cat"] * (16 - special)), " ".join(["cat"] * (17 - special))
    with pytest.warns(UserWarning, match=r"1 of 3 distinct prompts exceed the 16 tokens"):
        encoder.encode_texts(["cat", exactly, longer])
