"""Why a picture got its label: what every view and every description adds to a class's score, and where it lies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from crossalign.classifier import Classifier, Prediction
from crossalign.errors import InputError
from crossalign.features.pipeline import encode_views
from crossalign.images.decoding import ImageLike, read_image
from crossalign.methods import alignment
from crossalign.methods.method import Method, WeightedMean
from crossalign.methods.registry import METHODS

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Reason:
    """What one description adds to a class's score, all its phrasings together.

    Attributes:
        text: its shortest phrasing.
        contribution: to the score.
        weight: its share of the text weights.
        rows: where its phrasings stand in the class's descriptions.
    """

    text: str
    contribution: float
    weight: float
    rows: tuple[int, ...]


@dataclass(frozen=True)
class ClassEvidence:
    """What speaks for one class: M views against its N_c descriptions.

    Attributes:
        label: the class name.
        score: as `Classifier` gives it.
        probability: among all labels.
        descriptions: N_c sentences.
        similarity: (M, N_c), cosines of views and descriptions.
        text_weights: (N_c,), sum to one.
        contributions: (M, N_c), w_m v_n S[m, n], for the form "released" over the norms of both pooled features; they
            sum to the score.
    """

    label: str
    score: float
    probability: float
    descriptions: tuple[str, ...]
    similarity: Array
    text_weights: Array
    contributions: Array

    @property
    def by_description(self) -> Array:
        """What each description adds to the score: (N_c,)."""
        return self.contributions.sum(0)  # type: ignore[no-any-return]

    @property
    def by_view(self) -> Array:
        """What each view adds to the score: (M,)."""
        return self.contributions.sum(1)  # type: ignore[no-any-return]

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """The descriptions in their order, phrasings of the same one taken together; they too sum to the score."""
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(self.descriptions):
            rows.setdefault(_gist(self.label, text), []).append(row)
        return tuple(
            Reason(
                min((self.descriptions[row] for row in of_one), key=len),
                float(self.by_description[of_one].sum()),
                float(self.text_weights[of_one].sum()),
                tuple(of_one),
            )
            for of_one in rows.values()
        )


@dataclass(frozen=True)
class Explanation:
    """Why a picture got its label under one method.

    Attributes:
        method, form: of the score.
        size: (width, height) of the picture as a person sees it, in pixels.
        boxes: (M, 4), a view's left, top, right and bottom in pixels; a method that sees the whole picture has it alone.
        view_weights: (M,), sum to one.
        classes: what speaks for each of the best labels, best first.
    """

    method: str
    form: str
    size: tuple[int, int]
    boxes: Array
    view_weights: Array
    classes: tuple[ClassEvidence, ...]

    @property
    def margin(self) -> float:
        """By how much the best score is above the runner-up's."""
        return self.classes[0].score - self.classes[1].score

    def evidence(self, label: str) -> ClassEvidence:
        """Find a class by its label.

        Raises:
            KeyError: it is not among the explained ones.
        """
        return {of_class.label: of_class for of_class in self.classes}[label]

    def similarities(self, label: str) -> Array:
        """The similarity of the picture with each description of a class: (N_c,) cosines, averaged by view weights."""
        return self.view_weights @ self.evidence(label).similarity

    def heat_map(self, label_index: int = 0, against: int | None = 1, shape: tuple[int, int] | None = None) -> Array:
        """Lay the evidence over the picture: what the views that see a place add to the score, on average.

        A view's contribution is laid over its box, bilinearly: in full at the centre, fading towards the edges. What
        lies on a place is divided by how much of the views lies there, so that a place seen often is not hotter for it.
        One view with the average contribution is thought to see the whole picture, so that the rim of a single box
        does not count as much as the agreement of many. The map is smooth, and zero where no view looks.

        Args:
            label_index: whose evidence, counted from the best.
            against: whose evidence is taken off, or None; by default the runner-up's.
            shape: (h, w) of the map; by default a value a pixel.

        Returns:
            (h, w) values in units of the score.
        """
        values = self.classes[label_index].by_view
        if against is not None:
            values = values - self.classes[against].by_view
        height, width = shape or self.size[::-1]
        left, top, right, bottom = self.boxes.T
        across = _tents(left, right, self.size[0], width)
        down = _tents(top, bottom, self.size[1], height)
        covered = down.T @ across
        laid = (down * values[:, None]).T @ across
        return np.where(covered > 0, (laid + values.mean()) / (covered + 1), 0)

    def to_dict(self) -> dict[str, Any]:
        """Lay it out for JSON."""
        return {
            "method": self.method,
            "form": self.form,
            "size": list(self.size),
            "margin": self.margin,
            "boxes": self.boxes.tolist(),
            "view_weights": self.view_weights.tolist(),
            "classes": [
                {
                    "label": c.label,
                    "score": c.score,
                    "probability": c.probability,
                    "descriptions": list(c.descriptions),
                    "text_weights": c.text_weights.tolist(),
                    "by_description": c.by_description.tolist(),
                    "by_view": c.by_view.tolist(),
                    "similarity": c.similarity.tolist(),
                    "contributions": c.contributions.tolist(),
                }
                for c in self.classes
            ],
        }


def check_explainable(method: Method) -> WeightedMean:
    """Return the score of a method, which must be a sum over views and descriptions.

    Raises:
        InputError: the method has another kind of score.
    """
    if not isinstance(method.score, WeightedMean):
        can = ", ".join(other.name for other in METHODS.values() if other.explainable)
        raise InputError(
            f"method {method.name} has no explanation, since its score is no sum over views and descriptions; "
            f"take one of {can}"
        )
    return method.score


def explain(
    classify: Classifier, image: ImageLike, top_k: int = 3, *, also: Sequence[str] = (), features: Tensor | None = None
) -> Explanation:
    """Take a picture's scores apart.

    Args:
        classify: whose scores.
        image: a path, a PIL image or an array.
        top_k: how many of the best labels are explained, at least two.
        also: labels that are explained whatever their rank.
        features: (1 + M, D) of the picture's views as `Classifier.cut` orders them, if they are known already.

    Raises:
        InputError: the picture cannot be read, there is no runner-up among `top_k` labels, or the method's score is no sum
            over views and descriptions.
    """
    if top_k < 2:
        raise InputError(f"top_k is {top_k}, but an explanation sets the best label against the next; take 2 or more")
    score = check_explainable(classify.method)
    pixels = read_image(image)
    height, width = pixels.shape[1:]
    if features is None:
        (features,) = encode_views(classify.encoder, [classify.cut(pixels)])
    ranked = classify.rank(classify.score(features[None])[0], len(classify.labels))
    chosen = [p for rank, p in enumerate(ranked) if rank < top_k or p.label in also]
    whole, views = features[None, 0], features[None, 1:]
    boxes = classify.recipe.boxes(height, width)[: len(features) - 1]
    if not classify.method.uses_views:
        views, boxes = whole[:, None], np.array([[0, 0, width, height]])
    form, weights = classify.score_config.form, score.weights(whole, views, classify.score_config)
    norm = alignment.pool_views(views, weights).norm().item() if form == "released" else 1.0
    return Explanation(
        classify.method.name,
        form,
        (width, height),
        boxes,
        weights[0].numpy(),
        tuple(_evidence(classify, found, views, weights[0].numpy() / norm) for found in chosen),
    )


def explain_both(
    classify: Classifier, rival: Classifier, image: ImageLike, top_k: int = 3
) -> tuple[Explanation, Explanation]:
    """Explain a picture under two methods, each for its own best labels and for the other's best.

    Args:
        classify, rival: with the same encoder, labels, crop scale and seed, so that both see the same views.
        image: a path, a PIL image or an array.
        top_k: how many of the best labels of each are explained, at least two.

    Raises:
        InputError: as `explain`.
    """
    pixels = read_image(image)
    image = pixels.permute(1, 2, 0).numpy()
    most = max(classify, rival, key=lambda one: one.recipe.count)
    (features,) = encode_views(classify.encoder, [most.cut(pixels)])
    # Of the same seed, fewer views are the first of more.
    seen = [features[: 1 + one.recipe.count] for one in (classify, rival)]
    best = [
        explain(one, image, 2, features=of_one).classes[0].label for one, of_one in zip((classify, rival), seen, strict=True)
    ]
    ours = explain(classify, image, top_k, also=best[1:], features=seen[0])
    return ours, explain(rival, image, top_k, also=best[:1], features=seen[1])


def _evidence(classify: Classifier, found: Prediction, views: Tensor, shares: Array) -> ClassEvidence:
    """Take one class's score apart; `shares` are the view weights, over the norm of the pooled views where need be."""
    texts, index = classify.texts, classify.labels.index(found.label)
    start = int(texts.counts[:index].sum())
    rows = slice(start, start + int(texts.counts[index]))
    norm = texts.pooled[index].norm().item() if classify.score_config.form == "released" else 1.0
    similarity = alignment.similarity_matrix(views, texts.features[rows])[0].numpy()
    text_weights = texts.weights[rows].numpy()
    contributions = shares[:, None] * text_weights / norm * similarity
    return ClassEvidence(
        found.label, found.score, found.probability, texts.texts[rows], similarity, text_weights, contributions
    )


def _gist(label: str, text: str) -> str:
    """Name what a sentence says, if it is one of the phrasings that `prompts.sentences` gives a descriptor."""
    head = rf"(?:a photo of |a close-up photo of )?(?:an? )?{re.escape(label)}(?:, a type of .*?)?"
    phrasing = re.fullmatch(rf"{head}, (which .*?)\.?", text)
    return phrasing[1] if phrasing else text


def _tents(start: Array, end: Array, length: int, cells: int) -> Array:
    """Raise over each interval a tent of height one: (M,) pixel edges to (M, cells), its mean height in each cell."""
    # Not linspace: its edges may miss a box's by a rounding, and colour a cell that the box does not touch.
    edges = np.arange(cells + 1) * length / cells
    centre, half = (start + end)[:, None] / 2, (end - start)[:, None] / 2
    # The tent's area up to each edge, exactly, so that no box slips between the centres of coarse cells.
    t = ((edges - centre) / half).clip(-1, 1)
    areas = half * (t - t * np.abs(t) / 2)
    return np.diff(areas, axis=1) * cells / length  # type: ignore[no-any-return]
