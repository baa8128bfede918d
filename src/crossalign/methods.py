"""A method is one row: which prompts, whether local views, whether weighted; the equations are alignment.py's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crossalign import alignment, prompts
from crossalign.alignment import Form
from crossalign.errors import InputError
from crossalign.prompts import PromptInputs


@dataclass(frozen=True)
class Method:
    """One way to classify without training.

    Attributes:
        name: as on the command line.
        summary: one line for people.
        source: the paper.
        prompts: key of `prompts.SOURCES`.
        cross: align weighted local views with weighted descriptions; else the whole image with their plain mean.
    """

    name: str
    summary: str
    source: str
    prompts: str
    cross: bool = False

    @property
    def needs_descriptions(self) -> bool:
        """Whether its prompts are made of descriptions of the classes."""
        return self.prompts in prompts.NEED_DESCRIPTIONS


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("clip", 'one prompt a class, "a photo of a {name}."', "Radford et al., ICML 2021", "photo"),
        Method("clip-e", "mean of the dataset's hand-written templates", "Radford et al., ICML 2021", "templates"),
        Method("clip-d", 'mean of "{name}, which has ..."', "Menon and Vondrick, ICLR 2023", "descriptor_sentences"),
        Method("waffle", "random words and characters for descriptors", "Roth et al., ICCV 2023", "waffle"),
        Method("cupl", "mean of sentences that describe the class", "Pratt et al., ICCV 2023", "sentences"),
        Method("wca", "weighted local views x weighted sentences", "Li et al., ICML 2024", "sentences", cross=True),
    )
}


def pick_methods(names: Sequence[str]) -> list[Method]:
    """Look methods up by name; "all" is all of them.

    Raises:
        InputError: names the unknown ones.
    """
    if "all" in names:
        return list(METHODS.values())
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise InputError(f"unknown method {', '.join(unknown)}; known are {', '.join(METHODS)}")
    return [METHODS[name] for name in dict.fromkeys(names)]


@dataclass(frozen=True)
class TextBank:
    """A method's side of the texts.

    Attributes:
        texts: K sentences, class after class.
        features: (K, D).
        counts: (C,) sentences a class.
        weights: (K,) that sum to one in each class.
        pooled: (C, D), their weighted sums.
    """

    texts: tuple[str, ...]
    features: Tensor
    counts: Tensor
    weights: Tensor
    pooled: Tensor


def text_bank(
    method: Method, inputs: PromptInputs, encode: Callable[[Sequence[str]], Tensor], text_scale: float
) -> TextBank:
    """Build a method's prompts, encode, weigh and pool them."""
    by_class = prompts.SOURCES[method.prompts](inputs)
    texts = [text for of_class in by_class for text in of_class]
    counts = torch.tensor([len(of_class) for of_class in by_class])
    features = encode(texts)
    if method.cross:
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
) -> Tensor:
    """Score all classes: whole (N, D) and views (N, M, D) to (N, C), or (N, R, C) for a cross method with draws (R, M)."""
    if not method.cross:
        return alignment.scores(whole, bank.pooled, form)
    weights = alignment.view_weights(views, whole, image_scale, draws)
    return alignment.scores(alignment.pool_views(views, weights), bank.pooled, form)
