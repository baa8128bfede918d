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

    def scores(self, features: Tensor, visual: Tensor) -> Tensor:
        """Score all labels.

        Args:
            features: (N, 1 + M, D) features in the joint space, the global view first.
            visual: (N, 1 + M, E) features in the encoder's visual space, of unit length.

        Returns:
            (N, C) scores: cosines, or weighted means of the cosines of texts and examples.
        """
        parts = []
        if self.texts is not None and self.share > 0:
            by_texts = class_scores(self.method, self.texts, features[:, 0], features[:, 1:], self.config)
            parts.append(self.share * by_texts)
        if self.examples is not None and self.share < 1:
            views = visual[:, 1:] if self.method.uses_views else visual[:, 1:1]
            parts.append((1 - self.share) * self.examples.scores(visual[:, 0], views))
        return torch.stack(parts).sum(0)

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

    def by_texts(self, features: Tensor) -> Side | None:
        """What the texts say of an image, view by view; None if they have no share in the score.

        Args:
            features: (1 + M, D) features in the joint space. The method's score must be a `WeightedMean`.
        """
        if self.texts is None or self.share == 0:
            return None
        score = self.method.score
        assert isinstance(score, WeightedMean)
        x0, views = self._seen(features)
        released = self.config.form == "released"
        classes = F.normalize(self.texts.pooled, dim=-1) if released else self.texts.pooled
        return Side(self.share, views[0], score.weights(x0, views, self.config)[0], classes, released)

    def by_examples(self, visual: Tensor) -> Side | None:
        """What the examples say of an image, view by view; None if they have no share in the score.

        Args:
            visual: (1 + M, E) features in the visual space.
        """
        if self.examples is None or self.share == 1:
            return None
        x0, views = self._seen(visual)
        weights = alignment.view_weights(views, x0, self.examples.image_scale)[0]
        return Side(1 - self.share, views[0], weights, self.examples.embeddings, True)

    def settled(self, features: Tensor, visual: Tensor, rounds: Rounds) -> bool:
        """Tell whether the best label after n views will be the best after all of them; see `features.adaptive`.

        Args:
            features, visual: (1 + n, D) and (1 + n, E) as for `by_texts` and `by_examples`.
            rounds: the number of views per round.
        """
        sides = [side for side in (self.by_texts(features), self.by_examples(visual)) if side]
        similarity = torch.stack([side.share * (side.views.double() @ side.classes.double().T) for side in sides]).sum(0)
        weights = torch.stack([side.share * side.weights for side in sides]).sum(0)
        return bool(settled(similarity[None], weights[None], rounds))

    def _seen(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Give the global view (1, D), and the views that are scored (1, M, D): it alone if local views are not."""
        x0, views = features[None, 0], features[None, 1:]
        return x0, views if self.method.uses_views else x0[:, None]


@dataclass(frozen=True)
class Side:
    """Texts or examples: what the views of an image are compared with.

    Attributes:
        share: of this side in the score.
        views: (M, D) features of the views, or of the global view alone.
        weights: (M,) that sum to one.
        classes: (C, D) class embeddings.
        cosine: whether the weighted mean of the views is normalised before it is compared.
    """

    share: float
    views: Tensor
    weights: Tensor
    classes: Tensor
    cosine: bool

    @property
    def norm(self) -> float:
        """What the weighted mean of the views is divided by."""
        return (self.weights @ self.views.float()).norm().item() if self.cosine else 1.0
