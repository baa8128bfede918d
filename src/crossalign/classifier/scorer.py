"""`LabelScorer`: from the features of an image's views to scores, probabilities and the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.features.adaptive import Rounds, settled
from crossalign.methods import alignment
from crossalign.methods.examples import ExampleClasses
from crossalign.methods.method import Method, ScoreConfig, TextFeatures, WeightedMean
from crossalign.methods.scoring import class_scores

Reason = Literal["unsure", "other"]
"""Why an image that was read has no label: no probability reaches the threshold, or a class of `other` is the best."""


@dataclass(frozen=True)
class Prediction:
    """A label with the score of its class and its probability among the labels."""

    label: str
    score: float
    probability: float


@dataclass(frozen=True)
class LabelScorer:
    """The labels, what is known of them, and how an image is compared with it. It holds no encoder.

    Attributes:
        labels: C class names; the last `others` of them compete, but are never an answer.
        method: what compares images with texts; its score decides the texts' side.
        config: scales, form and logit scale of the score.
        texts: the labels' texts, encoded and weighted; None if the labels are known by examples alone.
        examples: the labels' example images; None if they are known by texts alone.
        others: how many of the labels are not wanted.
        threshold: the least probability of an answer; below it the image has no label.
        logit_bias: makes probabilities independent of each other, sigmoid(logit_scale * score + logit_bias); None makes
            them sum to one over the labels.
    """

    labels: tuple[str, ...]
    method: Method
    config: ScoreConfig
    texts: TextFeatures | None
    examples: ExampleClasses | None = None
    others: int = 0
    threshold: float = 0.0
    logit_bias: float | None = None

    @property
    def share(self) -> float:
        """Share of the texts in the score, 0 to 1; the rest is that of the examples."""
        if self.examples is None:
            return 1.0
        return 0.0 if self.texts is None else self.examples.mixture.share

    def scores(self, features: Tensor, visual: Tensor | None = None) -> Tensor:
        """Score all labels.

        Args:
            features: (N, 1 + M, D) features in the joint space, the global view first.
            visual: (N, 1 + M, E) features in the encoder's visual space, of unit length; by default the joint space is it.

        Returns:
            (N, C) scores: cosines, or weighted means of the cosines of texts and examples.
        """
        by_texts = None
        if self.texts is not None:
            by_texts = class_scores(self.method, self.texts, features[:, 0], features[:, 1:], self.config)
        if self.examples is None:
            assert by_texts is not None
            return by_texts
        visual = features if visual is None else visual
        views = visual[:, 1:] if self.method.uses_views else visual[:, 1:1]
        by_examples = self.examples.scores(visual[:, 0], views)
        return by_examples if by_texts is None else self.share * by_texts + (1 - self.share) * by_examples

    def probabilities(self, scores: Tensor) -> Tensor:
        """Turn scores (..., C) into probabilities (..., C)."""
        logits = scores * self.config.logit_scale
        return logits.softmax(-1) if self.logit_bias is None else (logits + self.logit_bias).sigmoid()

    def answer(self, scores: Tensor, top_k: int = 3) -> tuple[tuple[Prediction, ...], Reason | None]:
        """Turn the scores of an image (C,) into its best predictions, and the reason if none of them is the answer.

        With independent probabilities the predictions are all labels that reach the threshold.
        """
        probabilities = self.probabilities(scores)
        order = scores.argsort(descending=True, stable=True).tolist()
        wanted = [index for index in order if index < len(self.labels) - self.others]
        reaching = [index for index in wanted if probabilities[index] >= self.threshold]
        reason: Reason | None = "other" if order[0] not in wanted else None if reaching else "unsure"
        shown = wanted[:top_k] if self.logit_bias is None else reaching
        return tuple(Prediction(self.labels[i], scores[i].item(), probabilities[i].item()) for i in shown), reason

    def settled(self, features: Tensor, visual: Tensor | None, rounds: Rounds) -> bool:
        """Tell whether the best label after n views will be the best after all of them; see `features.adaptive`.

        Args:
            features, visual: (1 + n, D) and (1 + n, E) as for `scores`.
            rounds: the number of views per round.
        """
        similarity, weights, parts = [], [], []
        if self.texts is not None:
            score = self.method.score
            assert isinstance(score, WeightedMean)  # as `check_adaptive` has it
            classes = self.texts.pooled
            classes = F.normalize(classes, dim=-1) if self.config.form == "released" else classes
            similarity.append(features[None, 1:].double() @ classes.double().T)
            weights.append(score.weights(features[None, 0], features[None, 1:], self.config))
            parts.append(self.share)
        if self.examples is not None:
            visual = features if visual is None else visual
            similarity.append(visual[None, 1:].double() @ self.examples.embeddings.double().T)
            weights.append(alignment.view_weights(visual[None, 1:], visual[None, 0], self.examples.image_scale))
            parts.append(1 - self.share)
        mixed = sum(part * values for part, values in zip(parts, similarity, strict=True))
        assert isinstance(mixed, Tensor)
        mean_weights = torch.stack([part * values for part, values in zip(parts, weights, strict=True)]).sum(0)
        return bool(settled(mixed, mean_weights, rounds))
