"""The answer for one image."""

from __future__ import annotations

from dataclasses import dataclass

from crossalign.classifier.scorer import Prediction, Reason

CSV_HEADER = ("image", "rank", "label", "score", "probability", "error", "reason")
"""Of what `Classification.rows` gives."""


@dataclass(frozen=True)
class Classification:
    """The answer for one image.

    Attributes:
        image: the path of the image, or None if it came as pixels.
        label: the best label; None if there was an error, or for the reason below.
        reason: why an image that was read has no label: "unsure" if no probability reaches the threshold, "other" if a
            class of `other` is the best; else None.
        predictions: best first; empty if there was an error.
        error: why the image cannot be read, or None.
        views: how many local views were encoded, or None if there was an error.
    """

    image: str | None
    label: str | None
    reason: Reason | None
    predictions: tuple[Prediction, ...]
    error: str | None = None
    views: int | None = None

    def rows(self) -> list[tuple[object, ...]]:
        """Lay it out as a table's rows: one per prediction; a single one without a label if there is none."""
        if self.error:
            return [(self.image, "", "", "", "", self.error, "")]
        if self.reason:
            return [(self.image, "", "", "", "", "", self.reason)]
        return [
            (self.image, rank, prediction.label, f"{prediction.score:.6f}", f"{prediction.probability:.6f}", "", "")
            for rank, prediction in enumerate(self.predictions, start=1)
        ]
