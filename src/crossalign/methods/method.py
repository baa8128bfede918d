"""What a method is: a row that names its texts, what it sees of an image, and the function that scores classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from crossalign.methods import alignment
from crossalign.methods.alignment import Form
from crossalign.text import prompts

Sees = Literal["image", "views", "views+image", "set"]


@dataclass(frozen=True)
class ScoreConfig:
    """Settings of a score that travel together.

    Attributes:
        image_scale: of WCA's view weights; the inverse temperature of their softmax is exp(image_scale).
        text_scale: of WCA's text weights, in the same way.
        form: of scores that are weighted means: "released", the cosine of both means, or "paper", the weighted double sum.
        logit_scale: class probabilities are softmax(logit_scale * similarity); CLIP learned 100.
    """

    image_scale: float = 4.0
    text_scale: float = 2.0
    form: Form = "released"
    logit_scale: float = 100.0


@dataclass(frozen=True)
class TextFeatures:
    """The encoded texts of all classes, for one method.

    Attributes:
        texts: K texts, class after class.
        features: (K, D) of unit length.
        counts: (C,) number of texts per class.
        weights: (K,) that sum to one in each class; uniform for a method that weights texts for each image.
        pooled: (C, D) class embeddings: the weighted sums of the features of each class, not normalised.
    """

    texts: tuple[str, ...]
    features: Tensor
    counts: Tensor
    weights: Tensor
    pooled: Tensor

    @property
    def padded(self) -> int:
        """Number of texts if every class had as many as the largest one."""
        return len(self.counts) * int(self.counts.max())


Score = Callable[[TextFeatures, Tensor, Tensor, ScoreConfig, Mapping[str, float]], Tensor]
"""(texts, x0 (N, D), views (N, V, D), config, options) -> (N, C) scores, higher is better.

All features are float32 of unit length. `views` holds what `Method.sees` says. A score that is on the scale of a cosine
gives probabilities that can be compared between methods.
"""

ViewWeights = Callable[[Tensor, Tensor, ScoreConfig, Tensor | None], Tensor]
"""(x0 (N, D), views (N, M, D), config, run_counts) -> (N, M) weights that sum to one.

With `run_counts`, (R, M) or (N, R, M): how often each resampled run took each view, it gives (N, R, M).
"""


@dataclass(frozen=True)
class WeightedMean:
    """Score classes by the similarity between a weighted mean of the views and the class embeddings.

    A `Score`. It is a sum over views and texts, so it can be explained; and since views enter through their weights alone,
    many resampled runs are scored at once.

    Attributes:
        view_weights: gives the weights of the views; None scores the global view alone.
    """

    view_weights: ViewWeights | None = None

    def weights(self, x0: Tensor, views: Tensor, config: ScoreConfig, run_counts: Tensor | None = None) -> Tensor:
        """Weight the views; shapes as in `ViewWeights`. Without `view_weights`, x_0 is the one view: (N, 1) ones."""
        if self.view_weights is None:
            return x0.new_ones(len(x0), 1, dtype=torch.float32)
        return self.view_weights(x0, views, config, run_counts)

    def __call__(
        self,
        texts: TextFeatures,
        x0: Tensor,
        views: Tensor,
        config: ScoreConfig,
        options: Mapping[str, float],
        run_counts: Tensor | None = None,
    ) -> Tensor:
        """Score classes: (N, C), or (N, R, C) if `run_counts` are given and there are view weights."""
        if self.view_weights is None:
            return alignment.scores(x0, texts.pooled, config.form)
        weights = self.weights(x0, views, config, run_counts)
        return alignment.scores(alignment.pool_views(views, weights), texts.pooled, config.form)


@dataclass(frozen=True)
class Released:
    """What the method's own program uses where that differs from the shared protocol.

    Attributes:
        views: key of the recipe of its views; empty if it sees the global view alone.
        prompts: key of `prompts.SOURCES`; empty if it is `Method.prompts`.
        options: values of `Method.options` that differ.
    """

    views: str = ""
    prompts: str = ""
    options: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Method:
    """One way to classify images without training.

    Attributes:
        name: on the command line and in results.
        summary: one line for users.
        source: the paper.
        prompts: key of `prompts.SOURCES`.
        score: gives the scores of all classes.
        sees: what `score` gets as `views`. "image": none, (N, 0, D); "views": the local views; "views+image": the global
            view, then the local views; "set": none, and `x0` holds all images of a dataset at once (a transductive method).
        text_weights: of the class embeddings `TextFeatures.pooled`: "uniform", or "similarity" to the prompt of the class
            (WCA).
        options: numbers that a user may change, as in "zero:gamma=0.1"; named as in the paper or its program.
        limits: for options that have them, the least and the greatest value. An option is above 0, except a switch, which is
            off by default.
        released: what the method's own program uses.
        own_views: its views are the method, so it exists under the released protocol only (BiFTA).
        even_prompts: the classes must have the same number of prompts, made of the same templates.
    """

    name: str
    summary: str
    source: str
    prompts: str
    score: Score
    sees: Sees = "image"
    text_weights: Literal["uniform", "similarity"] = "uniform"
    options: Mapping[str, float] = field(default_factory=dict, hash=False)
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    released: Released = Released()
    own_views: bool = False
    even_prompts: bool = False

    @property
    def needs_descriptions(self) -> bool:
        """Whether its prompts are made of descriptions of the classes."""
        return self.prompts in prompts.NEED_DESCRIPTIONS

    @property
    def uses_views(self) -> bool:
        """Whether it looks at local views."""
        return self.sees in ("views", "views+image")

    @property
    def transductive(self) -> bool:
        """Whether it scores all images of a set together; the others judge each image on its own."""
        return self.sees == "set"

    @property
    def single_image(self) -> bool:
        """Whether it classifies one image at a time, on views that the caller chooses."""
        return not self.transductive and not self.own_views

    @property
    def explainable(self) -> bool:
        """Whether the score of an image is a weighted sum over views, or the global view, and texts."""
        return self.single_image and isinstance(self.score, WeightedMean)

    @property
    def resampled(self) -> bool:
        """Whether each resampled run of views gets a score of its own; other methods score all views once."""
        return isinstance(self.score, WeightedMean) and self.score.view_weights is not None

    @property
    def passes(self) -> str:
        """Passes of the image encoder per image, M being the number of local views."""
        return "1 + M" if self.uses_views else "1"

    def as_released(self) -> Method:
        """Take the prompts and options of the method's own program; options that the user changed stay."""
        changed = [name for name, value in self.options.items() if f":{name}=" in self.name]
        options = {name: value for name, value in self.released.options.items() if name not in changed}
        return replace(self, prompts=self.released.prompts or self.prompts, options={**self.options, **options})
