"""From features to scores as a method says: its texts encoded and pooled, its views weighed, both matched."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from crossalign.methods import alignment, entropy, optimal_transport, text_weighting, view_selection
from crossalign.methods.alignment import Form
from crossalign.methods.registry import Method, TextBank
from crossalign.text import prompts
from crossalign.text.prompts import PromptInputs

CHUNK = 2**24
"""Numbers in the largest tensor that a chunk of images makes, 64 MiB; a few of them are alive at once."""
LOGIT_SCALE = 100.0
"""CLIP's."""


def text_bank(
    method: Method,
    inputs: PromptInputs,
    encode: Callable[[Sequence[str]], Tensor],
    text_scale: float,
    *,
    budget: int | None = None,
) -> TextBank:
    """Build a method's prompts, encode, weigh and pool them; `budget` is the most prompts a class keeps."""
    by_class = prompts.SOURCES[method.prompts](inputs)
    if budget is not None:
        by_class = prompts.within_budget(by_class, budget, inputs.seed)
    texts = [text for of_class in by_class for text in of_class]
    counts = torch.tensor([len(of_class) for of_class in by_class])
    features = encode(texts)
    if method.texts == "likeness":
        anchors = encode([prompt for (prompt,) in prompts.photo(inputs)])
        weights = alignment.text_weights(features, anchors, counts, text_scale)
    else:
        weights = alignment.uniform_text_weights(counts)
    return TextBank(tuple(texts), features, counts, weights, alignment.pool_texts(features, weights, counts))


def class_scores(
    method: Method,
    bank: TextBank,
    whole: Tensor,
    views: Tensor,
    *,
    image_scale: float,
    form: Form = "released",
    draws: Tensor | None = None,
    logit_scale: float = LOGIT_SCALE,
) -> Tensor:
    """Score all classes.

    Args:
        method: whose scores.
        bank: its texts.
        whole: (N, D) features of the whole images.
        views: (N, M, D) features of their local views.
        image_scale: of view weights by likeness.
        form: of the matcher "mean"; in the form "released" "maximum" too takes cosines. The others have one form.
        draws: (R, M) how often each run drew each view.
        logit_scale: the class probabilities, of which entropies and agreement are taken, are softmax(logit_scale * score).

    Returns:
        (N, C) scores; (N, R, C) where draws are given and `method.draws_views`. Other methods use all views, once.

    Raises:
        InputError: the matcher "templates" was given another number of prompts for each class.
    """
    if not method.cross and method.matcher == "mean":
        return alignment.scores(whole, bank.pooled, form)
    if method.draws_views:
        weigh = alignment.uniform_view_weights(views, draws)
        if method.views == "likeness":
            weigh = alignment.view_weights(views, whole, image_scale, draws)
        return alignment.scores(alignment.pool_views(views, weigh), bank.pooled, form)
    step = max(1, CHUNK // _largest(method, bank, views))
    parts = []
    for some, local in zip(whole.split(step), views.split(step), strict=True):
        seen = torch.cat([some[:, None], local], dim=1) if method.whole_is_view else local
        parts.append(_match(method, bank, some, seen, image_scale, form, logit_scale))
    return torch.cat(parts)


def view_weights(
    method: Method, bank: TextBank, whole: Tensor, views: Tensor, *, image_scale: float, logit_scale: float = LOGIT_SCALE
) -> Tensor:
    """Weigh views as a method does.

    Args:
        method: one that looks at views.
        bank: its texts.
        whole: (N, D) features of the whole images.
        views: (N, V, D) features of the views, the whole image first where `method.whole_is_view`.
        image_scale: of weights by likeness.
        logit_scale: of class probabilities.

    Returns:
        (N, V) weights that sum to one.
    """
    if method.views == "likeness":
        return alignment.view_weights(views, whole, image_scale)
    if method.views == "confidence":
        return entropy.view_weights(views, bank.pooled, logit_scale, **method.given(temperature="image_temperature"))
    if method.views == "above-mean":
        return view_selection.mass_above_mean(views, whole)
    if method.views == "inlierness":
        options = method.given(neighbours="rho", affinity="lambda", entropy="lambda_y")
        return view_selection.mode_weights(views, bank.pooled, logit_scale, **options)
    return alignment.uniform_view_weights(views)


def _match(
    method: Method, bank: TextBank, whole: Tensor, views: Tensor, image_scale: float, form: Form, logit_scale: float
) -> Tensor:
    """Score a chunk of images: whole (n, D) and views (n, V, D) to (n, C)."""
    if callable(method.matcher):
        return method.matcher(bank, whole, views)
    if method.matcher == "templates":
        return text_weighting.tuned_template_scores(whole, bank.features, bank.counts, **method.given(beta="beta"))
    if method.matcher == "vote":
        return view_selection.vote(views, bank.pooled, logit_scale, **method.given(share="gamma"))
    if method.matcher == "soft":
        matched = text_weighting.soft_match(views, bank.features, **method.given(temperature="temperature"))
        return alignment.class_sums(matched.T.contiguous(), bank.counts).T
    if method.matcher == "maximum":
        return alignment.scores(views, bank.pooled, form).amax(1)
    weights = view_weights(method, bank, whole, views, image_scale=image_scale, logit_scale=logit_scale)
    pooled = alignment.pool_views(views, weights)
    if method.matcher == "mean":
        return alignment.scores(pooled, bank.pooled, form)
    layout = optimal_transport.ByClass.of(bank.counts)

    def text_weights(classes: Tensor, of_whole: Tensor, present: Tensor) -> Tensor:
        if method.texts == "confidence":
            base = logit_scale * alignment.scores(whole, bank.pooled, "paper")
            given = method.given(temperature="text_temperature")
            return entropy.text_weights(base, classes, logit_scale * of_whole, present, **given)
        return bank.weights[layout.rows[classes]] * present

    return optimal_transport.transport_scores(
        whole,
        views,
        weights,
        bank.features,
        layout,
        alignment.scores(pooled, bank.pooled, "paper"),
        text_weights,
        refined=optimal_transport.REFINED,
        **method.given(view_share="alpha", epsilon="epsilon"),
    )


def _largest(method: Method, bank: TextBank, views: Tensor) -> int:
    """Count the numbers in the largest tensor that an image needs."""
    count, classes, width = 1 + views.shape[1], len(bank.counts), views.shape[2]
    if callable(method.matcher):
        return count * max(len(bank.features), width)
    longest = min(optimal_transport.REFINED, classes) * int(bank.counts.max())
    return {
        "mean": count * max(classes, width, count),
        "maximum": count * classes,
        "transport": max(longest * max(count, width), count * classes),
        "soft": count * len(bank.features),
        "vote": count * classes,
        "templates": len(bank.features),
    }[method.matcher]
