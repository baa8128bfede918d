"""From features to scores: a method's prompts are encoded and pooled, and its score is computed chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from crossalign.methods import alignment
from crossalign.methods.method import Method, ScoreConfig, TextFeatures, WeightedMean
from crossalign.text import prompts
from crossalign.text.prompts import PromptInputs

CHUNK = 2**24
"""Numbers in the similarity matrix of a chunk of images, 64 MiB; a few tensors of that size are alive at once."""
DEFAULTS = ScoreConfig()


def text_features_of(
    method: Method,
    inputs: PromptInputs,
    encode: Callable[[Sequence[str]], Tensor],
    config: ScoreConfig = DEFAULTS,
    *,
    budget: int | None = None,
) -> TextFeatures:
    """Build a method's prompts, encode, weight and pool them.

    Args:
        method: gives the kind of prompts and their weights.
        inputs: class names, templates and descriptions.
        encode: K texts to (K, D) features of unit length.
        config: its text_scale is that of weights by similarity; see `alignment.text_weights`.
        budget: the most prompts that each class keeps, or None for all; see `prompts.within_budget`.

    Raises:
        InputError: the prompts need descriptions and there are none.
    """
    by_class = prompts.SOURCES[method.prompts](inputs)
    if budget is not None:
        by_class = prompts.within_budget(by_class, budget, inputs.seed)
    texts = [text for class_texts in by_class for text in class_texts]
    counts = torch.tensor([len(class_texts) for class_texts in by_class])
    features = encode(texts)
    if method.text_weights == "similarity":
        anchors = encode([prompt for (prompt,) in prompts.photo(inputs)])
        weights = alignment.text_weights(features, anchors, counts, config.text_scale)
    else:
        weights = alignment.uniform_text_weights(counts)
    return TextFeatures(tuple(texts), features, counts, weights, alignment.pool_texts(features, weights, counts))


def class_scores(
    method: Method,
    texts: TextFeatures,
    x0: Tensor,
    views: Tensor,
    config: ScoreConfig = DEFAULTS,
    run_counts: Tensor | None = None,
) -> Tensor:
    """Score all classes.

    Args:
        method: gives the score.
        texts: its texts.
        x0: (N, D) features of the global views; for a transductive method, of all images of the set.
        views: (N, M, D) features of the local views; ignored by a method that does not use views.
        config: scales, form and logit scale.
        run_counts: (R, M), or (N, R, M) if images differ: how often each resampled run took each view.

    Returns:
        (N, C) scores; (N, R, C) if run counts are given and `method.resampled`. Other methods score all views once.

    Raises:
        InputError: the texts do not fit the method; see its scoring function.
    """
    score = method.score
    if isinstance(score, WeightedMean):
        return score(texts, x0, views, config, method.options, run_counts)
    if method.transductive:
        return score(texts, x0.float(), views[:, :0].float(), config, method.options)
    if not method.uses_views:
        views = views[:, :0]
    largest = (1 + views.shape[1]) * max(texts.padded, x0.shape[1], views.shape[1])
    chunk, parts = max(1, CHUNK // largest), []
    for some, local in zip(x0.float().split(chunk), views.float().split(chunk), strict=True):
        seen = torch.cat([some[:, None], local], dim=1) if method.sees == "views+image" else local
        parts.append(score(texts, some, seen, config, method.options))
    return torch.cat(parts)
