"""Models of the transformers library, small and random, saved to disk: features as the library gives them, and refusals."""

import json
import subprocess
import sys
from functools import partial

import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import normalize

from conftest import PHOTOS
from crossalign import encoders
from crossalign.encoders import describe
from crossalign.encoders._runtime import example_views
from crossalign.errors import InputError
from crossalign.images.decoding import read_image

load_encoder = partial(encoders.load_encoder, runtime="torch", precision="f32")

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
WORDS = ["a", "photo", "of", "the", "cat", "dog", "cup", "coffee", "with", "long", "ears", "and"]
TEXTS = ["a photo of a cat", "a dog", "a photo of the cup of coffee with long ears", "a dog"]
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": 32,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": len(SPECIAL) + len(WORDS),
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}


def tokenizer(**options):
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=16, **(names | options))


def clip(kind="CLIP", **text):
    config = getattr(transformers, f"{kind}Config")(vision_config=VISION, text_config=TEXT | text, projection_dim=24)
    return getattr(transformers, f"{kind}Model")(config)


def siglip():
    model = transformers.SiglipModel(
        transformers.SiglipConfig(vision_config=VISION, text_config=TEXT | {"projection_size": 32})
    )
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-10.0)
    return model


def align():
    vision = {
        "image_size": 32,
        "hidden_dim": 64,
        "in_channels": [32],
        "out_channels": [64],
        "kernel_sizes": [3],
        "strides": [1],
    }
    vision |= {
        "num_block_repeats": [1],
        "expand_ratios": [1],
        "depth_coefficient": 1.0,
        "width_coefficient": 1.0,
        "depthwise_padding": [],
    }
    config = transformers.AlignConfig(
        vision_config=vision, text_config=TEXT | {"max_position_embeddings": 64}, projection_dim=64
    )
    return transformers.AlignModel(config)


SMALL_CLIP = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
SQUARE = {"size": {"height": 32, "width": 32}}
FAMILIES = {
    "clip": (clip, transformers.CLIPImageProcessor(**SMALL_CLIP)),
    "metaclip2": (lambda: clip("MetaClip2"), transformers.CLIPImageProcessor(**SMALL_CLIP)),
    "chinese-clip": (lambda: clip("ChineseCLIP"), transformers.ChineseCLIPImageProcessor(**SMALL_CLIP)),
    "siglip": (siglip, transformers.SiglipImageProcessor(**SQUARE)),
    "align": (
        align,
        transformers.EfficientNetImageProcessor(
            size={"height": 40, "width": 40},
            crop_size={"height": 32, "width": 32},
            do_center_crop=True,
            rescale_factor=1 / 127.5,
            rescale_offset=True,
            do_normalize=False,
            include_top=False,
            resample=2,
        ),
    ),
}
UNMASKED = {"siglip": {"model_input_names": ["input_ids"]}}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of small models by family, made when they are asked for."""
    made = {}

    def folder(family):
        if family not in made:
            build, processor = FAMILIES[family]
            path = tmp_path_factory.mktemp(family)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = build()
                # Random layers as they are made give all texts nearly the same feature.
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        torch.nn.init.normal_(parameter, std=0.3)
            for part in (model.eval(), tokenizer(**UNMASKED.get(family, {})), processor):
                part.save_pretrained(path)
            made[family] = path
        return made[family]

    return folder


def library(folder):
    parts = (transformers.AutoModel, transformers.AutoTokenizer, transformers.AutoImageProcessor)
    return [part.from_pretrained(folder) for part in parts]


def features(outputs):
    return normalize(outputs if isinstance(outputs, torch.Tensor) else outputs.pooler_output, dim=-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_librarys(folders, family):
    encoder = load_encoder(f"transformers:{folders(family)}", "cpu")
    model, words, processor = library(folders(family))
    padding = {"padding": "max_length", "max_length": 16} if family == "siglip" else {"padding": True}
    batch = words(TEXTS, return_tensors="pt", **padding)
    with torch.inference_mode():
        texts = features(model.eval().get_text_features(**batch))
        ours = encoder.encode_texts(TEXTS)
        assert ours.shape == (4, encoder.width)
        assert (ours * texts).sum(1).min() > 0.9999
        # The texts differ, so that equal features mean something.
        assert (texts[0] * texts[1]).sum() < 0.99
        for photo in ("chelsea.png", "rocket.jpg", "coffee.png"):
            image = Image.open(PHOTOS / photo).convert("RGB")
            theirs = processor(images=image, return_tensors="pt").pixel_values
            pixels = encoder.preprocessing.fit(read_image(PHOTOS / photo))[None]
            same_pixels = theirs * torch.tensor(encoder.preprocessing.std).view(3, 1, 1)
            same_pixels = same_pixels + torch.tensor(encoder.preprocessing.mean).view(3, 1, 1)
            expected = features(model.get_image_features(pixel_values=theirs))
            assert (encoder.encode_images(same_pixels) * expected).sum() > 0.9999
            assert (encoder.encode_images(pixels) * expected).sum() > 0.999


def test_pixels_are_those_of_the_pil_processor(folders):
    """What the published numbers were computed with: PIL's resize, within rounding."""
    for family, name in (("clip", "CLIP"), ("siglip", "Siglip")):
        encoder = load_encoder(f"transformers:{folders(family)}", "cpu")
        slow = getattr(transformers, f"{name}ImageProcessorPil", getattr(transformers, f"{name}ImageProcessor"))
        processor = slow.from_pretrained(folders(family))
        image = Image.open(PHOTOS / "chelsea.png").convert("RGB")
        theirs = torch.as_tensor(processor(images=image, return_tensors="pt").pixel_values)
        ours = encoder.preprocessing.normalise(encoder.preprocessing.fit(read_image(PHOTOS / "chelsea.png"))[None])
        assert (ours - theirs).abs().mean() < 0.03


def test_logits_are_scaled_and_shifted_as_trained(folders):
    encoder = load_encoder(f"transformers:{folders('siglip')}", "cpu")
    model, words, _ = library(folders("siglip"))
    assert encoder.logit_scale == pytest.approx(float(model.logit_scale.exp()))
    assert encoder.logit_bias == pytest.approx(-10.0)
    pixels = example_views(encoder.preprocessing, 2)
    ids = words(TEXTS, return_tensors="pt", padding="max_length", max_length=16).input_ids
    with torch.inference_mode():
        expected = model.eval()(input_ids=ids, pixel_values=encoder.preprocessing.normalise(pixels)).logits_per_image
    logits = encoder.logit_scale * encoder.encode_images(pixels) @ encoder.encode_texts(TEXTS).T + encoder.logit_bias
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-4)
    assert load_encoder(f"transformers:{folders('align')}", "cpu").logit_scale == pytest.approx(1 / 1.0)


def test_a_text_does_not_depend_on_its_neighbours(folders):
    for family in FAMILIES:
        encoder = load_encoder(f"transformers:{folders(family)}", "cpu")
        alone = encoder.encode_texts(TEXTS[1:2])
        torch.testing.assert_close(encoder.encode_texts(TEXTS)[1:2], alone, atol=1e-5, rtol=0)


def test_truncated_texts_are_counted(folders):
    for family in ("clip", "siglip", "align"):
        encoder = load_encoder(f"transformers:{folders(family)}", "cpu")
        exactly, longer = " ".join(["cat"] * 14), " ".join(["cat"] * 15)
        with pytest.warns(UserWarning, match="1 of 3 distinct prompts.* 16 tokens of transformers:.* were truncated"):
            encoder.encode_texts(["a dog", exactly, longer])


def test_the_description_says_what_is_computed(folders):
    described = describe(load_encoder(f"transformers:{folders('clip')}", "cpu"))
    assert described["activation"] == "QuickGELUActivation"
    assert described["context"] == 16
    assert described["width"] == 24
    assert described["logit_bias"] is None
    assert described["weights"] == f"folder {folders('clip')}"
    assert described["preprocessing"]["resize"] == "shortest"


def test_the_fingerprint_tells_weights_activation_and_tokenizer_apart(folders, tmp_path):
    def changed(name, change):
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))
        return load_encoder(f"transformers:{folder}", "cpu").fingerprint

    folder = copied(folders("clip"), tmp_path)
    prints = [load_encoder(f"transformers:{folder}", "cpu").fingerprint]
    assert prints[0] == load_encoder(f"transformers:{folders('clip')}", "cpu").fingerprint
    prints.append(changed("config.json", lambda c: c["vision_config"].update(hidden_act="gelu")))
    prints.append(changed("preprocessor_config.json", lambda c: c.update(resample=2)))
    swap = {"cat": len(SPECIAL) + WORDS.index("dog"), "dog": len(SPECIAL) + WORDS.index("cat")}
    prints.append(changed("tokenizer.json", lambda c: c["model"]["vocab"].update(swap)))
    assert len(set(prints)) == 4


def copied(folder, to):
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def refused(folder):
    with pytest.raises(InputError) as caught:
        load_encoder(f"transformers:{folder}", "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pickles_are_not_read(folders, tmp_path):
    folder = copied(folders("clip"), tmp_path)
    torch.save(library(folder)[0].state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors; other weights are not loaded, since a pickle can run code" in refused(folder)


def test_code_beside_a_model_is_not_run(folders, tmp_path):
    folder = copied(folders("clip"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "cannot be loaded" in refused(folder)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_missing_are_not_made_up(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copied(folders("clip"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "are not those of a CLIPModel: 1 are missing, such as visual_projection.weight" in refused(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_resize": False}, r"cannot be computed here: it does not resize \(do_resize of its CLIPImageProcessor"),
        ({"resample": 1}, "its filter 1 is not nearest, bilinear or bicubic"),
        ({"do_center_crop": False}, r"its images are of no fixed size \(\{'shortest_edge': 32\}\)"),
        ({"crop_size": {"height": 48, "width": 48}}, r"it crops \(48, 48\) out of \(32, 32\)"),
        ({"image_processor_type": "Siglip2ImageProcessor", "patch_size": 16}, r"pixel_attention_mask.*\(NaFlex\)"),
    ],
)
def test_preprocessing_that_cannot_be_computed_is_refused(folders, tmp_path, settings, message):
    folder = copied(folders("clip"), tmp_path)
    content = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(content | settings))
    with pytest.raises(InputError, match=message):
        load_encoder(f"transformers:{folder}", "cpu")


def test_other_models_are_refused(folders, tmp_path):
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    assert "is a BertModel, which encodes no images and texts; give a dual encoder" in refused(tmp_path)


def test_what_is_not_there_is_one_sentence(folders, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "names a folder that does not exist" in refused(tmp_path / "nothing")
    assert "download google/none where there is a network, or point HF_HOME" in refused("google/none")
    folder = copied(folders("clip"), tmp_path)
    for name in ("tokenizer.json", "preprocessor_config.json", "config.json"):
        (folder / name).unlink()
        assert "cannot be loaded" in refused(folder)


@pytest.mark.slow
def test_without_the_library_the_sentence_names_the_extra():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from crossalign.encoders import load_encoder\n"
        "from crossalign.errors import InputError\n"
        "for spec in ('transformers:google/siglip-base-patch16-224', 'open_clip:ViT-B-16-SigLIP/random'):\n"
        "    try: load_encoder(spec, 'cpu')\n"
        "    except InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("needs transformers; run `pip install 'crossalign[transformers]'`") == 2


@pytest.mark.slow
def test_openvino_computes_the_same(folders):
    encoder = load_encoder(f"transformers:{folders('clip')}", "cpu")
    fast = load_encoder(f"transformers:{folders('clip')}", "cpu", runtime="openvino")
    pixels = example_views(encoder.preprocessing, 4)
    assert (encoder.encode_images(pixels) * fast.encode_images(pixels)).sum(1).min() > 0.9999
