"""CARPRT: templates are weighted for each class, by how well the images fit that each template assigns to the class.

Source: "CARPRT: Class-Aware Zero-Shot Prompt Reweighting for Black-Box Vision-Language Models", ICLR 2026, and its program.
Letters as in transclip.py; P templates.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from crossalign.errors import InputError
from crossalign.methods.method import ScoreConfig, TextFeatures
from crossalign.methods.transclip import chunks

TEMPERATURE = 1.0
"""Of the softmax over templates, on the logit scale."""


def carprt(texts: TextFeatures, x0: Tensor, views: Tensor, config: ScoreConfig, options: Mapping[str, float]) -> Tensor:
    """Score classes by the similarity with the weighted sum of their templates, which is not normalised: (N, C).

    A `Score` that sees a "set"; option temperature. The texts are (C * P, D), class after class, the same P templates in
    each.

    Raises:
        InputError: the classes have different numbers of prompts.
    """
    if (texts.counts != texts.counts[0]).any():
        raise InputError(
            f"carprt weights templates, the same for all classes, but classes have {int(texts.counts.min())} to "
            f"{int(texts.counts.max())} prompts; take prompts of equal number, such as many-templates"
        )
    features = x0.float()
    templates = texts.features.float().view(len(texts.counts), -1, x0.shape[1])
    weights = template_weights(features, templates, config.logit_scale, options["temperature"])
    return features @ (weights[:, :, None] * templates).sum(1).T


def template_weights(features: Tensor, templates: Tensor, logit_scale: float, temperature: float = TEMPERATURE) -> Tensor:
    """Weight templates by the mean logit of the images that each assigns to the class.

    For template p and image i, the best class and its logit count: A_cp is the mean of the best logits of the images whose
        best
    class under p is c, or 0 if there is none, and the weights are softmax_p(A_cp / temperature). So a template that never
    predicts a class is left out of it, unless none does.

    Args:
        features: (N, D).
        templates: (C, P, D).
        logit_scale: of the logits.
        temperature: of the weights.

    Returns:
        (C, P) weights that sum to one for each class.
    """
    classes, count = templates.shape[:2]
    sums, images = features.new_zeros(count, classes), features.new_zeros(count, classes)
    for rows in chunks(len(features), classes):
        for template, of_class in enumerate(templates.unbind(1)):
            best = (logit_scale * features[rows] @ of_class.T).max(1)
            sums[template].index_add_(0, best.indices, best.values)
            images[template].index_add_(0, best.indices, torch.ones_like(best.values))
    return (sums / images.clamp(min=1) / temperature).softmax(0).T
