"""Classes by example images: class embeddings in the encoder's visual space, and their mixture with the texts' scores.

A class embedding is the mean of the features of its examples; the feature of an example is the mean of its views by WCA's
view weights. All features and means have unit length, so a score is a cosine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.methods import alignment

SHARES = 21
"""Mixtures that are tried: 0, 0.05, ..., 1 of the texts' logits."""
LOGIT_SCALES = (1.0, 1000.0)
"""Bounds of a fitted logit scale."""
UNFITTED_SCALE = 20.0
"""The logit scale where no class has two examples, so that nothing can be fitted."""


@dataclass(frozen=True)
class Mixture:
    """How the scores of texts and of examples make one score: share * texts + (1 - share) * examples.

    Attributes:
        share: of the texts' cosines, 0 to 1.
        logit_scale: probabilities are softmax(logit_scale * score).
        tested: number of examples that were left out, one at a time, to choose the share; 0 if there was no choice.
        texts, examples, together: top-1 accuracy of the left-out examples by one side alone, and by the mixture; None where
            it was not measured.
    """

    share: float
    logit_scale: float
    tested: int = 0
    texts: float | None = None
    examples: float | None = None
    together: float | None = None

    def __str__(self) -> str:
        """Say what was chosen, and why."""
        parts = {"texts": self.texts, "examples": self.examples, "together": self.together}
        measured = ", ".join(f"{name} {100 * value:.1f} %" for name, value in parts.items() if value is not None)
        why = f"leave-one-out on {self.tested} examples: {measured}" if self.tested else "no class has two examples"
        return f"score = {self.share:.2f} texts + {1 - self.share:.2f} examples ({why})"


@dataclass(frozen=True)
class ExampleClasses:
    """Classes that are known by example images.

    Attributes:
        embeddings: (C, E) of unit length, in the encoder's visual space.
        image_scale: of the view weights of examples and of images.
        mixture: with the scores of the classes' texts.
        digest: of the example images and their views, whatever their order.
    """

    embeddings: Tensor
    image_scale: float
    mixture: Mixture
    digest: str

    def scores(self, x0: Tensor, views: Tensor) -> Tensor:
        """Score classes: (N, E) features of global views and (N, M, E) of local views to (N, C) cosines."""
        return pool(x0, views, self.image_scale) @ self.embeddings.T


def pool(x0: Tensor, views: Tensor, image_scale: float) -> Tensor:
    """Mean of the views of each image by WCA's view weights: (N, E) and (N, M, E) to (N, E) of unit length.

    Without local views it is the feature of the global view.
    """
    if not views.shape[1]:
        return F.normalize(x0.float(), dim=-1)
    return F.normalize(alignment.pool_views(views, alignment.view_weights(views, x0, image_scale)), dim=-1)


def class_embeddings(pooled: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean feature of each class: (n, E) features and (n,) labels to (C, E) of unit length."""
    return F.normalize(pooled.new_zeros((classes, pooled.shape[1])).index_add_(0, labels, pooled), dim=-1)


def leave_one_out(pooled: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Score each example by class embeddings made without it: (n, E) and (n,) to (n, C).

    An example that is the only one of its class has no score for it: nan.
    """
    sums = pooled.new_zeros((classes, pooled.shape[1])).index_add_(0, labels, pooled)
    scores = pooled @ F.normalize(sums, dim=-1).T
    own = (pooled * F.normalize(sums[labels] - pooled, dim=-1)).sum(-1)
    single = torch.bincount(labels, minlength=classes)[labels] == 1
    own[single] = torch.nan
    return scores.scatter(1, labels[:, None], own[:, None])


def choose_mixture(texts: Tensor | None, examples: Tensor, labels: Tensor) -> Mixture:
    """Choose the mixture that answers best for left-out examples.

    Each side's cosines are brought to one scale first, by the logit scale at which they are the best probabilities. Equal
    accuracies are told apart by the likelihood.

    Args:
        texts: (n, C) cosines with the classes' texts, or None for classes without texts.
        examples: (n, C) as `leave_one_out` gives them.
        labels: (n,) the true classes.
    """
    usable = ~examples.isnan().any(1)
    if not usable.any():
        return Mixture(0.0 if texts is None else 0.5, UNFITTED_SCALE)
    examples, labels = examples[usable].double(), labels[usable]
    example_scale = fit_logit_scale(examples, labels)
    alone = accuracy(examples, labels)
    if texts is None:
        return Mixture(0.0, example_scale, len(labels), examples=alone)
    texts = texts[usable].double()
    text_scale = fit_logit_scale(texts, labels)
    best: tuple[float, float] | None = None
    share = 0.0
    for part in torch.linspace(0, 1, SHARES, dtype=torch.double).tolist():
        logits = part * text_scale * texts + (1 - part) * example_scale * examples
        quality = (accuracy(logits, labels), -F.cross_entropy(logits, labels).item())
        if best is None or quality > best:
            best = quality
            share = part * text_scale / (part * text_scale + (1 - part) * example_scale)
    mixed = share * texts + (1 - share) * examples
    return Mixture(
        share, fit_logit_scale(mixed, labels), len(labels), accuracy(texts, labels), alone, accuracy(mixed, labels)
    )


def fit_logit_scale(scores: Tensor, labels: Tensor) -> float:
    """Find the scale s at which softmax(s * scores) gives the true classes the highest likelihood.

    The true class counts as (n + 1) / (n + 2) and the others share the rest, as in Platt, "Probabilistic Outputs for Support
    Vector Machines", 1999, so that few examples without an error do not make every answer certain.

    Args:
        scores: (n, C).
        labels: (n,) the true classes.
    """
    from scipy.optimize import minimize_scalar  # Importing it takes as long as labelling an image.

    scores = scores.double()

    targets = torch.full_like(scores, 1 / (len(labels) + 2) / max(1, scores.shape[1] - 1))
    targets[torch.arange(len(labels)), labels] = (len(labels) + 1) / (len(labels) + 2)

    def loss(log_scale: float) -> float:
        return F.cross_entropy(scores * torch.tensor(log_scale).double().exp(), targets).item()

    low, high = torch.tensor(LOGIT_SCALES).double().log().tolist()
    return float(torch.tensor(minimize_scalar(loss, bounds=(low, high), method="bounded").x).exp())


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of the rows (n, C) whose highest score is that of their class (n,)."""
    return (scores.argmax(1) == labels).double().mean().item()
