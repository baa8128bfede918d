"""Weights that texts get for each image: AutoCLIP, the soft matching of ABS, and CGBC.

Letters as in alignment.py; L texts of the class that has most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from crossalign.errors import InputError
from crossalign.methods.alignment import class_sums, similarity_matrix
from crossalign.methods.method import ScoreConfig, TextFeatures
from crossalign.methods.optimal_transport import ByClass

ABS_TEMPERATURE = 0.03
"""Of the softmax over all descriptions in ABS (Cai et al., ICML 2025)."""
AUTOCLIP_BETA = 0.85
"""Entropy of AutoCLIP's template weights, as a share of the greatest one (Metzen et al., TMLR 2024)."""
AUTOCLIP_LONGEST = 1e7
"""AutoCLIP's program looks for its step between zero and this."""
AUTOCLIP_TOLERANCE = 1e-2
"""Its bisection stops at this absolute plus this relative error of the step."""
CGBC_THRESHOLD = 2.5
"""Median absolute deviations beyond which a concept is an outlier in CGBC (lambda of its program)."""
CGBC_SLOPE = 0.1, 4.0
"""Least and greatest slope of CGBC's weights."""


def soft_matching(
    texts: TextFeatures, x0: Tensor, views: Tensor, config: ScoreConfig, options: Mapping[str, float]
) -> Tensor:
    """Let each view choose among all texts: the mean over views of softmax(S / temperature) S, summed by class.

    Source: the scoring of ABS, Cai et al., "From Local Details to Global Context: Advancing Vision-Language Models with
    Attention-Based Selection", ICML 2025, arXiv 2505.13233. The views of ABS follow the attention of a model; these do not,
    so the row is not called ABS. Its program sums over views and leaves the temperature in S: M / temperature times this
    score.

    A `Score` that sees "views"; option temperature.
    """
    similarity = similarity_matrix(views, texts.features)
    matched = (similarity / options["temperature"]).softmax(-1).mul_(similarity).mean(1)
    return class_sums(matched.T.contiguous(), texts.counts).T


def autoclip(texts: TextFeatures, x0: Tensor, views: Tensor, config: ScoreConfig, options: Mapping[str, float]) -> Tensor:
    """Score classes with templates that are weighted for each image.

    A `Score` that sees the "image"; option beta. The texts are (C * L, D), class after class, the same L templates in each.

    Raises:
        InputError: the classes have different numbers of prompts, or one prompt each.
    """
    counts = texts.counts
    if (counts != counts[0]).any():
        raise InputError(
            f"autoclip weights templates, the same for all classes, but classes have {int(counts.min())} to "
            f"{int(counts.max())} prompts; take prompts of equal number, such as many-templates"
        )
    if counts[0] == 1:
        raise InputError("autoclip weights templates, but each class has one prompt; take more, such as many-templates")
    cosines = (x0 @ texts.features.T).view(len(x0), len(counts), -1)
    return (cosines * template_weights(cosines, options["beta"])[:, None]).sum(2)


def template_weights(cosines: Tensor, beta: float = AUTOCLIP_BETA) -> Tensor:
    """Weight templates by one step along the gradient of the log-sum-exp of the class scores.

    Source: AutoCLIP, Metzen et al., "AutoCLIP: Auto-tuning Zero-Shot Classifiers for Vision-Language Models", TMLR 2024,
    arXiv 2309.16414. With e_cl the image's cosine with template l of class c, weights w = softmax(rho) and scores
    s_c = sum_l w_l e_cl, the step from rho = 0 is

        g_l = (1 / L) sum_c softmax(s)_c (e_cl - s_c),     rho = alpha g,

    and alpha > 0 is such that the entropy of the weights is beta log L. The cosines enter the log-sum-exp without a scale.
    alpha is computed by bisection to the tolerance of the authors' program, so the entropy is met to about a hundredth of
    alpha.

    Args:
        cosines: (N, C, L).
        beta: share of the greatest entropy.

    Returns:
        (N, L) weights that sum to one. Templates that are all alike, where the program fails, get equal weights.
    """
    means = cosines.mean(2)
    gradient = (means.softmax(1)[:, :, None] * (cosines - means[:, :, None])).sum(1).double() / cosines.shape[2]
    target = beta * math.log(cosines.shape[2])
    low, alpha = torch.zeros_like(gradient[:, :1]), torch.zeros_like(gradient[:, :1])
    running, width = torch.ones_like(alpha, dtype=torch.bool), AUTOCLIP_LONGEST
    while running.any():
        width /= 2
        alpha = torch.where(running, low + width, alpha)
        weights = (alpha * gradient).softmax(1)
        entropy = -(weights * (weights + 1e-10).log()).sum(1, keepdim=True)
        low = torch.where(entropy > target, alpha, low)
        running = running & (width >= AUTOCLIP_TOLERANCE * (1 + alpha))
    return (alpha * gradient).softmax(1).to(cosines.dtype)


def cgbc(texts: TextFeatures, x0: Tensor, views: Tensor, config: ScoreConfig, options: Mapping[str, float]) -> Tensor:
    """Score each class by a robust mean over its concepts; see `concept_scores`.

    A `Score` that sees the "image"; option lambda_threshold.
    """
    layout = ByClass.of(texts.counts)
    similarity = (x0 @ texts.features.T)[:, layout.rows]
    scores, _ = concept_scores(config.logit_scale * similarity, layout.present, options["lambda_threshold"])
    return scores / config.logit_scale


def concept_scores(logits: Tensor, present: Tensor, threshold: float = CGBC_THRESHOLD) -> tuple[Tensor, Tensor]:
    """Take a mean over concepts that is robust against outliers below the median.

    Source: CGBC, CVPR 2026, arXiv 2603.07911, and its program. With the median of s over the concepts of a class, the median
    absolute deviation MAD (plus 1e-6) and the share rho of concepts further than threshold * MAD from the median,

        kappa = log((1 - rho) / rho) held between 0.1 and 4,     w = 1 / (1 + exp(-kappa (s - median) / MAD)),

    and the score is sum w s / sum w. Both medians of an even number are the lower of the middle two.

    Args:
        logits: (N, C, L) s, on the logit scale.
        present: (C, L) false for padding.
        threshold: in units of MAD.

    Returns:
        (N, C) scores on the logit scale, and (N, C) shares of outliers.
    """
    counts = present.sum(1)

    def median(values: Tensor) -> Tensor:
        ordered = values.masked_fill(~present, torch.inf).sort(2).values
        return ordered.gather(2, ((counts - 1) // 2)[None, :, None].expand(len(values), -1, 1))

    centre = median(logits)
    distance = (logits - centre).abs()
    deviation = median(distance) + 1e-6
    outliers = ((distance > threshold * deviation) & present).sum(2) / counts
    slope = ((1 - outliers) / outliers).log().clamp(*CGBC_SLOPE)[:, :, None]
    weights = (slope * (logits - centre) / deviation).sigmoid() * present
    return (weights * logits).sum(2) / weights.sum(2), outliers
