"""Example images of the labels: they are encoded once, and become class embeddings mixed with the labels' texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from crossalign.classifier.scorer import LabelScorer
from crossalign.datasets.examples import Examples, check_distinct, check_examples
from crossalign.encoders import Encoder
from crossalign.encoders._visual import joint_and_visual, visual_encoder
from crossalign.errors import InputError
from crossalign.features.image_cache import ImageCache, content_digest
from crossalign.features.pipeline import Progress
from crossalign.features.streaming import ViewPolicy, encode_stream
from crossalign.images.decoding import read_image
from crossalign.images.inputs import ImageLike, name_of
from crossalign.methods.examples import ExampleClasses, choose_mixture, class_embeddings, leave_one_out, pool
from crossalign.store.shards import Store, digest_of

EXAMPLE_VIEWS = 24
"""The most local views of an example. All examples are encoded before the first answer, so they get fewer than images."""


@dataclass(frozen=True)
class ExampleImages:
    """The encoded example images of all labels.

    Attributes:
        images: n images.
        classes: (n,) the index of each image's label.
        features: (n, 1 + M, E) features in the visual space, of unit length, the global view first.
        views: which views they are.
    """

    images: tuple[ImageLike, ...]
    classes: Tensor
    features: Tensor
    views: ViewPolicy

    def of_class(self, index: int) -> list[int]:
        """Indices of the images of a class."""
        return (self.classes == index).nonzero().flatten().tolist()

    def pooled(self, images: Sequence[int], image_scale: float) -> Tensor:
        """Weighted mean of the views of some images: (k, E) of unit length."""
        features = self.features[list(images)].float()
        return pool(features[:, 0], features[:, 1:], image_scale)

    def name(self, image: int) -> str:
        """What an explanation calls an image."""
        path = name_of(self.images[image])
        return Path(path).name if path else f"number {image + 1}"

    def view(self, image: int, view: int) -> Tensor:
        """Crop a view of an image: (3, h, w) uint8.

        Raises:
            InputError: the image is gone.
        """
        pixels = read_image(self.images[image])
        if view == 0:
            return pixels
        left, top, right, bottom = self.views.recipe.boxes(*pixels.shape[1:])[view - 1].tolist()
        return pixels[:, top:bottom, left:right]


def example_classes(
    scorer: LabelScorer,
    examples: Examples,
    encoder: Encoder,
    views: ViewPolicy,
    *,
    num_workers: int,
    store: Store | None,
    progress: Progress,
) -> tuple[LabelScorer, ExampleImages]:
    """Add example images to what is known of the labels.

    Args:
        scorer: the labels, with their texts or without.
        examples: for each label its example images.
        encoder: computes the features.
        views: the views of the images that will be classified; examples get as many, up to `EXAMPLE_VIEWS`.
        num_workers: threads that decode and crop.
        store: caches the features, if given.
        progress: shown while examples are encoded.

    Returns:
        The labels with class embeddings out of the examples, and the encoded examples.

    Raises:
        InputError: a label without examples, an example that cannot be read, or one image in two classes.
    """
    check_examples(examples, scorer.labels)
    images = [(image, index) for index, label in enumerate(scorer.labels) for image in examples[label]]
    digests: dict[int, str] = {id(image): content_digest(image) or "" for image, _ in images}
    check_distinct(_named(scorer, examples, digests))

    def decoded(image: ImageLike, pixels: Tensor) -> None:
        if not digests[id(image)]:  # It came as pixels, or from elsewhere.
            digests[id(image)] = content_digest(pixels.numpy().tobytes()) or ""

    policy = views.with_count(min(EXAMPLE_VIEWS, views.recipe.count))
    image_encoder = visual_encoder(encoder)
    rows = []
    stream = encode_stream(
        (image for image, _ in images),
        image_encoder,
        policy,
        lambda _: True,
        num_workers=num_workers,
        cache=ImageCache(store, image_encoder, policy.key) if store else None,
        decoded=decoded,
    )
    with progress(len(images), "examples encoded") as bar:
        for _, features in stream:
            if isinstance(features, InputError):
                raise InputError(f"an example cannot be used: {features}")
            rows.append(features)
            bar.update(1)
    joint, visual = joint_and_visual(image_encoder, torch.stack(rows))
    visual = visual.half()  # What is kept of them for explanations, so that these add up.
    classes = torch.tensor([index for _, index in images])
    scale, count = scorer.config.image_scale, len(scorer.labels)
    pooled = pool(visual[:, 0].float(), visual[:, 1:].float(), scale)
    by_texts = scorer.scores(joint, visual) if scorer.texts is not None else None
    mixture = choose_mixture(by_texts, leave_one_out(pooled, classes, count), classes)
    named = _named(scorer, examples, digests)
    check_distinct(named)
    contents = {label: sorted(digest for _, digest in of_label) for label, of_label in named.items()}
    digest = digest_of({"images": contents, "views": policy.key})
    known = ExampleClasses(class_embeddings(pooled, classes, count), scale, mixture, digest)
    config = replace(scorer.config, logit_scale=mixture.logit_scale)
    return (
        replace(scorer, examples=known, config=config),
        ExampleImages(tuple(image for image, _ in images), classes, visual, policy),
    )


def _named(scorer: LabelScorer, examples: Examples, digests: Mapping[int, str]) -> dict[str, list[tuple[str, str]]]:
    """For each label the name and digest of its images, which are known by their identity."""
    return {
        label: [
            (name_of(image) or f"number {number}", digests[id(image)])
            for number, image in enumerate(examples[label], start=1)
        ]
        for label in scorer.labels
    }
