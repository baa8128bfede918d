"""Explanations: the contribution of each view and each description to the score of a class, and a map of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from crossalign.classifier import Classifier
from crossalign.classifier.examples import ExampleImages
from crossalign.classifier.scorer import LabelScorer, Side
from crossalign.errors import InputError
from crossalign.images.decoding import ImageLike, read_image
from crossalign.methods.method import WeightedMean
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
class ExampleMatch:
    """The view of an example image that is nearest to a view of the image.

    Attributes:
        image: index of the example in `Classifier.examples`.
        view: index of its view; 0 is the global view.
        similarity: cosine between both views, in the encoder's visual space.
    """

    image: int
    view: int
    similarity: float


@dataclass(frozen=True)
class ClassEvidence:
    """The score of one class, by its M views and N_c descriptions; an example image counts as a description.

    Attributes:
        label: the class name.
        score: the score that `Classifier` gives.
        probability: the probability among all labels.
        descriptions: N_c sentences, then "example NAME" for each example image.
        similarity: (M, N_c) cosines between views and descriptions.
        text_weights: (N_c,) weights that sum to one.
        contributions: (M, N_c), w_m v_n S[m, n]; for the form "released" divided by the norms of both pooled features. They
            sum to the score. Texts and examples have their shares of it.
        matches: for each of the M views the nearest view of the class's examples; empty if there are none.
    """

    label: str
    score: float
    probability: float
    descriptions: tuple[str, ...]
    similarity: Array
    text_weights: Array
    contributions: Array
    matches: tuple[ExampleMatch, ...] = ()

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
                    "matches": [asdict(match) for match in c.matches],
                }
                for c in self.classes
            ],
        }


def check_explainable(scorer: LabelScorer) -> None:
    """Make sure that the score of labels is a sum over views and descriptions, or examples.

    Raises:
        InputError: it is not.
    """
    if scorer.texts is not None and not isinstance(scorer.method.score, WeightedMean):
        explainable = ", ".join(other.name for other in METHODS.values() if other.explainable)
        raise InputError(
            f"method {scorer.method.name} cannot be explained, because its score is not a sum over views and descriptions; "
            f"choose one of {explainable}"
        )


def explain(
    classify: Classifier,
    image: ImageLike,
    top_k: int = 3,
    *,
    also: Sequence[str] = (),
    features: Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> Explanation:
    """Explain the scores of an image.

    Args:
        classify: the classifier that gives the scores.
        image: a path, a PIL image or an array.
        top_k: number of best labels to explain, at least two.
        also: further labels to explain, whatever their rank.
        features: (1 + M, D) features of the image's views as `Classifier.encode` yields them, if they are known already.
        size: (width, height) of the image after its EXIF rotation, if it is known; else the image is decoded.

    Raises:
        InputError: the image cannot be read, `top_k` is below two, or the method's score is not a sum over views and
            descriptions.
    """
    if top_k < 2:
        raise InputError(f"top_k is {top_k}, but an explanation compares the best label with the second; give 2 or more")
    scorer = classify.scorer
    check_explainable(scorer)
    if features is None:
        features = _features(classify, image)
    if size is None:
        height, width = read_image(image).shape[1:]
        size = (width, height)
    scores = classify.scores(features)
    ranked = scores.argsort(descending=True, stable=True).tolist()
    explained = [index for rank, index in enumerate(ranked) if rank < top_k or scorer.labels[index] in also]
    joint, visual = classify.split(features)
    sides = scorer.by_texts(joint), scorer.by_examples(visual)
    boxes = np.array([[0, 0, *size]])
    if scorer.method.uses_views:
        boxes = replace(classify.views.recipe, count=len(features) - 1).boxes(*size[::-1])
    probabilities = scorer.probabilities(scores)
    return Explanation(
        scorer.method.name,
        scorer.config.form,
        size,
        boxes,
        sum(side.share * side.weights.numpy() for side in sides if side),  # type: ignore[arg-type]
        tuple(_evidence(classify, index, scores[index].item(), probabilities[index].item(), *sides) for index in explained),
    )


def explain_both(
    classify: Classifier, rival: Classifier, image: ImageLike, top_k: int = 3
) -> tuple[Explanation, Explanation]:
    """Explain an image under two methods, each for its own best labels and for the best label of the other.

    Args:
        classify, rival: classifiers with the same encoder, labels, crop scale and seed.
        image: a path, a PIL image or an array.
        top_k: number of best labels to explain for each, at least two.

    Raises:
        InputError: as `explain`.
    """
    own_features = _features(classify, image)
    same = rival.views == classify.views and rival.views.rounds is None
    both = [(classify, own_features), (rival, own_features if same else _features(rival, image))]
    height, width = read_image(image).shape[1:]
    best = [explain(classifier, image, 2, features=f, size=(width, height)).classes[0].label for classifier, f in both]
    own, other = (
        explain(classifier, image, top_k, also=[label], features=f, size=(width, height))
        for (classifier, f), label in zip(both, reversed(best), strict=True)
    )
    return own, other


def _features(classify: Classifier, image: ImageLike) -> Tensor:
    ((_, features),) = classify.encode([image])
    if isinstance(features, InputError):
        raise features
    return features


def _evidence(
    classify: Classifier, index: int, score: float, probability: float, by_texts: Side | None, by_examples: Side | None
) -> ClassEvidence:
    """Split the score of one class."""
    scorer = classify.scorer
    names: list[str] = []
    similarity, weights, contributions = [], [], []
    matches: tuple[ExampleMatch, ...] = ()
    if by_texts is not None and scorer.texts is not None:
        texts = scorer.texts
        start = int(texts.counts[:index].sum())
        rows = slice(start, start + int(texts.counts[index]))
        norm = texts.pooled[index].norm().item() if by_texts.cosine else 1.0
        names += texts.texts[rows]
        similarity.append((by_texts.views.float() @ texts.features[rows].T).numpy())
        weights.append(by_texts.share * texts.weights[rows].numpy())
        contributions.append(by_texts.weights.numpy()[:, None] / by_texts.norm * weights[-1] / norm * similarity[-1])
    if by_examples is not None and scorer.examples is not None and classify.examples is not None:
        examples = classify.examples
        own = examples.of_class(index)
        pooled = examples.pooled(own, scorer.examples.image_scale)
        names += [f"example {examples.name(number)}" for number in own]
        similarity.append((by_examples.views.float() @ pooled.T).numpy())
        weights.append(np.full(len(own), by_examples.share / len(own)))
        per_example = by_examples.share / pooled.sum(0).norm().item()
        contributions.append(by_examples.weights.numpy()[:, None] / by_examples.norm * per_example * similarity[-1])
        matches = _matches(by_examples.views, examples, own)
    return ClassEvidence(
        scorer.labels[index],
        score,
        probability,
        tuple(names),
        np.concatenate(similarity, 1),
        np.concatenate(weights),
        np.concatenate(contributions, 1),
        matches,
    )


def _matches(views: Tensor, examples: ExampleImages, own: Sequence[int]) -> tuple[ExampleMatch, ...]:
    """Find for each view of the image the nearest view among those of some examples."""
    features = examples.features[own].float()
    similarity = (views.float() @ features.flatten(0, 1).T).max(1)
    return tuple(
        ExampleMatch(own[place // features.shape[1]], place % features.shape[1], value)
        for value, place in zip(similarity.values.tolist(), similarity.indices.tolist(), strict=True)
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
