"""Short names of encoders, so that nobody has to know open_clip's architectures and tags by heart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ShortName:
    """What a short name stands for.

    Attributes:
        spec: of an encoder; results and errors name it.
        parameters: of the model.
        licence: of the weights.
    """

    spec: str
    parameters: int
    licence: str

    @property
    def download_bytes(self) -> int:
        """Size of the weights on the hub, which are in float32; a tokenizer of the hub comes on top."""
        return 4 * self.parameters


SHORT_NAMES = {
    # github.com/openai/CLIP, LICENSE.
    "clip": ShortName("open_clip:ViT-B-16/openai", 149_620_737, "MIT"),
    "clip-large": ShortName("open_clip:ViT-L-14/openai", 427_616_513, "MIT"),
    # huggingface.co/timm/ViT-B-16-SigLIP2-512, licence of the model card, also of the other sizes.
    "siglip2": ShortName("open_clip:ViT-B-16-SigLIP2/webli", 375_187_970, "Apache-2.0"),
    # github.com/facebookresearch/MetaCLIP, LICENSE. The smallest MetaCLIP 2 that open_clip knows.
    "metaclip2": ShortName(
        "open_clip:ViT-H-14-worldwide/metaclip2_worldwide", 1_858_783_745, "CC-BY-NC-4.0, not for commercial use"
    ),
    # github.com/apple/ml-mobileclip, LICENSE_MODELS.
    "mobileclip2": ShortName(
        "open_clip:MobileCLIP2-S2/dfndr2b", 99_243_329, "Apple Machine Learning Research Model, research only"
    ),
    # github.com/facebookresearch/perception_models, apps/pe/README.md, "Model License".
    "pe-core": ShortName("open_clip:PE-Core-B-16/meta", 447_660_545, "Apache-2.0"),
}
"""Short name to what it stands for. Each is the family's base size, or the nearest that open_clip has."""


def full_spec(spec: str) -> str:
    """Give the spec that a short name stands for, and any other spec as it is."""
    short = SHORT_NAMES.get(spec)
    return spec if short is None else short.spec
