"""Explanations: the contribution of each view and each description to the score of a class, and a map of them."""

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
    """The contribution of one description, summed over its phrasings.

    Attributes:
        text: the shortest phrasing.
        contribution: contribution to the score of the class.
        weight: sum of the text weights of its phrasings.
        rows: indices of its phrasings in the class's descriptions.
    """

    text: str
    contribution: float
    weight: float
    rows: tuple[int, ...]


@dataclass(frozen=True)
class ClassEvidence:
    """The score of one class, by its M views and N_c descriptions.

    Attributes:
        label: the class name.
        score: the score that `Classifier` gives.
        probability: the probability among all labels.
        descriptions: N_c sentences.
        similarity: (M, N_c) cosines between views and descriptions.
        text_weights: (N_c,) weights that sum to one.
        contributions: (M, N_c), w_m v_n S[m, n]; for the form "released" divided by the norms of both pooled features. They
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
        """Contribution of each description: (N_c,)."""
        return self.contributions.sum(0)  # type: ignore[no-any-return]

    @property
    def by_view(self) -> Array:
        """Contribution of each view: (M,)."""
        return self.contributions.sum(1)  # type: ignore[no-any-return]

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """The descriptions in order, with the phrasings of one description summed; they sum to the score too."""
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(self.descriptions):
            rows.setdefault(_descriptor(self.label, text), []).append(row)
        return tuple(
            Reason(
                min((self.descriptions[row] for row in phrasings), key=len),
                float(self.by_description[phrasings].sum()),
                float(self.text_weights[phrasings].sum()),
                tuple(phrasings),
            )
            for phrasings in rows.values()
        )


@dataclass(frozen=True)
class Explanation:
    """Why an image got its label under one method.

    Attributes:
        method, form: method and form of the score.
        size: (width, height) of the image in pixels, after its EXIF rotation.
        boxes: (M, 4) left, top, right and bottom of each view in pixels; one box, the whole image, for a method that
            uses the global view alone.
        view_weights: (M,) weights that sum to one.
        classes: the evidence for each of the best labels, best first.
    """

    method: str
    form: str
    size: tuple[int, int]
    boxes: Array
    view_weights: Array
    classes: tuple[ClassEvidence, ...]

    @property
    def margin(self) -> float:
        """The best score minus the second best."""
        return self.classes[0].score - self.classes[1].score

    def evidence(self, label: str) -> ClassEvidence:
        """Return the evidence for a label.

        Raises:
            KeyError: the label is not among the explained ones.
        """
        return {evidence.label: evidence for evidence in self.classes}[label]

    def similarities(self, label: str) -> Array:
        """Similarity of the image with each description of a class: (N_c,) cosines, averaged over views by their weights."""
        return self.view_weights @ self.evidence(label).similarity

    def heat_map(self, label_index: int = 0, against: int | None = 1, shape: tuple[int, int] | None = None) -> Array:
        """Map of the evidence: the average contribution of the views that cover each place of the image.

        A view covers its box with bilinear weights: 1 at the centre, 0 at the edges. Each place gets the weighted mean of
        the contributions of its views, so places under many views do not get higher values. The mean includes one more
        view, with weight 1 everywhere and the average contribution, so that the edge of a single box counts less than many
        views that agree. The map is smooth, and zero where there is no view.

        Args:
            label_index: the class, counted from the best.
            against: the class whose contributions are subtracted, by default the second best; None subtracts nothing.
            shape: (h, w) of the map; by default one value per pixel.

        Returns:
            (h, w) values in units of the score.
        """
        values = self.classes[label_index].by_view
        if against is not None:
            values = values - self.classes[against].by_view
        height, width = shape or self.size[::-1]
        left, top, right, bottom = self.boxes.T
        across = _triangles(left, right, self.size[0], width)
        down = _triangles(top, bottom, self.size[1], height)
        coverage = down.T @ across
        total = (down * values[:, None]).T @ across
        return np.where(coverage > 0, (total + values.mean()) / (coverage + 1), 0)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as JSON values."""
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
    """Return the score of a method if it is a sum over views and descriptions.

    Raises:
        InputError: it is not.
    """
    if not isinstance(method.score, WeightedMean):
        explainable = ", ".join(other.name for other in METHODS.values() if other.explainable)
        raise InputError(
            f"method {method.name} cannot be explained, because its score is not a sum over views and descriptions; "
            f"choose one of {explainable}"
        )
    return method.score


def explain(
    classify: Classifier, image: ImageLike, top_k: int = 3, *, also: Sequence[str] = (), features: Tensor | None = None
) -> Explanation:
    """Explain the scores of an image.

    Args:
        classify: the classifier that gives the scores.
        image: a path, a PIL image or an array.
        top_k: number of best labels to explain, at least two.
        also: further labels to explain, whatever their rank.
        features: (1 + M, D) features of the image's views in the order of `Classifier.cut`, if they are known already.

    Raises:
        InputError: the image cannot be read, `top_k` is below two, or the method's score is not a sum over views and
            descriptions.
    """
    if top_k < 2:
        raise InputError(f"top_k is {top_k}, but an explanation compares the best label with the second; give 2 or more")
    score = check_explainable(classify.method)
    pixels = read_image(image)
    height, width = pixels.shape[1:]
    if features is None:
        (features,) = encode_views(classify.encoder, [classify.cut(pixels)])
    ranked = classify.rank(classify.score(features[None])[0], len(classify.labels))
    explained = [p for rank, p in enumerate(ranked) if rank < top_k or p.label in also]
    x0, views = features[None, 0], features[None, 1:]
    boxes = classify.recipe.boxes(height, width)[: len(features) - 1]
    if not classify.method.uses_views:
        views, boxes = x0[:, None], np.array([[0, 0, width, height]])
    form, weights = classify.score_config.form, score.weights(x0, views, classify.score_config)
    norm = alignment.pool_views(views, weights).norm().item() if form == "released" else 1.0
    return Explanation(
        classify.method.name,
        form,
        (width, height),
        boxes,
        weights[0].numpy(),
        tuple(_evidence(classify, prediction, views, weights[0].numpy() / norm) for prediction in explained),
    )


def explain_both(
    classify: Classifier, rival: Classifier, image: ImageLike, top_k: int = 3
) -> tuple[Explanation, Explanation]:
    """Explain an image under two methods, each for its own best labels and for the best label of the other.

    Args:
        classify, rival: classifiers with the same encoder, labels, crop scale and seed, so that both use the same views.
        image: a path, a PIL image or an array.
        top_k: number of best labels to explain for each, at least two.

    Raises:
        InputError: as `explain`.
    """
    pixels = read_image(image)
    image = pixels.permute(1, 2, 0).numpy()
    most_views = max(classify, rival, key=lambda classifier: classifier.recipe.count)
    (features,) = encode_views(classify.encoder, [most_views.cut(pixels)])
    # With the same seed, a smaller number of views is the beginning of a larger one.
    own_features, rival_features = (features[: 1 + classifier.recipe.count] for classifier in (classify, rival))
    own_best = explain(classify, image, 2, features=own_features).classes[0].label
    rival_best = explain(rival, image, 2, features=rival_features).classes[0].label
    return (
        explain(classify, image, top_k, also=[rival_best], features=own_features),
        explain(rival, image, top_k, also=[own_best], features=rival_features),
    )


def _evidence(classify: Classifier, prediction: Prediction, views: Tensor, view_weights: Array) -> ClassEvidence:
    """Split the score of one class; for the form "released", `view_weights` are divided by the norm of the pooled views."""
    texts, index = classify.texts, classify.labels.index(prediction.label)
    start = int(texts.counts[:index].sum())
    rows = slice(start, start + int(texts.counts[index]))
    norm = texts.pooled[index].norm().item() if classify.score_config.form == "released" else 1.0
    similarity = alignment.similarity_matrix(views, texts.features[rows])[0].numpy()
    text_weights = texts.weights[rows].numpy()
    contributions = view_weights[:, None] * text_weights / norm * similarity
    return ClassEvidence(
        prediction.label,
        prediction.score,
        prediction.probability,
        texts.texts[rows],
        similarity,
        text_weights,
        contributions,
    )


def _descriptor(label: str, text: str) -> str:
    """The descriptor in a sentence that `prompts.sentences` made of one; the sentence itself if it has none."""
    head = rf"(?:a photo of |a close-up photo of )?(?:an? )?{re.escape(label)}(?:, a type of .*?)?"
    phrasing = re.fullmatch(rf"{head}, (which .*?)\.?", text)
    return phrasing[1] if phrasing else text


def _triangles(start: Array, end: Array, length: int, cells: int) -> Array:
    """Mean of a triangle of height one over each interval: (M,) starts and ends in pixels to (M, cells)."""
    # linspace rounds differently, and a cell beside a box could get a value.
    edges = np.arange(cells + 1) * length / cells
    centre, half = (start + end)[:, None] / 2, (end - start)[:, None] / 2
    # Exact area of the triangle up to each edge, so that a box smaller than a cell counts too.
    t = ((edges - centre) / half).clip(-1, 1)
    areas = half * (t - t * np.abs(t) / 2)
    return np.diff(areas, axis=1) * cells / length  # type: ignore[no-any-return]
