"""Calibrated answers: a logit scale and a threshold, fitted on labelled images, for one set of labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from crossalign.classifier.scorer import LabelScorer
from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.store.files import write_atomically
from crossalign.store.shards import digest_of

SCHEMA = 1


@dataclass(frozen=True)
class Calibration:
    """What turns the scores of one classifier into probabilities, and which of its answers are sure.

    Attributes:
        logit_scale: probabilities are softmax(logit_scale * score).
        threshold: the least probability of an answer.
        wanted: precision for which the threshold was chosen: right answers among those that reach it.
        precision: what it was on the images that it was chosen on.
        interval: 95 % Wilson interval of the precision, from 0 to 1.
        answered: share of the images whose best label reaches the threshold.
        images: number of labelled images.
        made_with: names and digests of what the scores depend on.
    """

    logit_scale: float
    threshold: float
    wanted: float
    precision: float
    interval: tuple[float, float]
    answered: float
    images: int
    made_with: Mapping[str, str]

    def __str__(self) -> str:
        """Say what was chosen."""
        low, high = self.interval
        return (
            f"threshold {self.threshold:.3f}: {100 * self.precision:.1f} % of the answers are right (95 % interval "
            f"{100 * low:.1f} to {100 * high:.1f}; wanted {100 * self.wanted:g} %), {100 * self.answered:.1f} % of "
            f"{self.images} images are answered"
        )


@dataclass(frozen=True)
class Calibrations:
    """The content of a calibration file: one calibration for each way to know the labels that was measured.

    Attributes:
        entries: by texts, by examples, or by both.
    """

    entries: tuple[Calibration, ...]

    def write(self, file: Path) -> None:
        """Write them as JSON.

        Raises:
            InputError: the file cannot be written.
        """
        content = {"schema": SCHEMA, "calibrations": [asdict(entry) for entry in self.entries]}
        write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())

    def pick(self, encoder: Encoder, scorer: LabelScorer) -> Calibration:
        """Give the one that was made with the same encoder, method, labels, descriptions and examples.

        Raises:
            InputError: there is none; names what differs in the nearest.
        """
        now = made_with(encoder, scorer)
        differing = [[name for name, value in now.items() if entry.made_with.get(name) != value] for entry in self.entries]
        nearest = min(range(len(differing)), key=lambda number: len(differing[number]))
        if not differing[nearest]:
            return self.entries[nearest]
        name = differing[nearest][0]
        before = str(self.entries[nearest].made_with.get(name))
        shown = f" ({before}, now {now[name]})" if name in ("encoder", "method", "form") else ""
        raise InputError(
            f"the calibration was made with another {name}{shown}; use what it was made with, or calibrate again "
            "with `crossalign evaluate --calibration-file`"
        )


def made_with(encoder: Encoder, scorer: LabelScorer) -> dict[str, str]:
    """Names and digests of all that scores depend on, but for the number of views."""
    texts: dict[str, Sequence[str]] = {}
    if scorer.texts is not None:
        ends = scorer.texts.counts.cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        texts = {label: scorer.texts.texts[start:end] for label, start, end in zip(scorer.labels, starts, ends, strict=True)}
    return {
        "encoder": encoder.name,
        "encoder's weights": encoder.fingerprint,
        "method": scorer.method.name,
        "form": scorer.config.form,
        "set of labels": digest_of({"labels": sorted(scorer.labels), "others": sorted(_others(scorer))}),
        "set of descriptions": digest_of(texts),
        "set of examples": scorer.examples.digest if scorer.examples else "",
    }


def read_calibrations(file: str | Path) -> Calibrations:
    """Read what `Calibrations.write` wrote.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        entries = tuple(Calibration(**entry | {"interval": tuple(entry["interval"])}) for entry in content["calibrations"])
        valid = content["schema"] == SCHEMA and len(entries) > 0 and all(map(_is_valid, entries))
    except OSError as error:
        raise InputError(f"calibration {str(file)!r} cannot be read ({error.strerror}); check the path") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise InputError(
            f"{str(file)!r} is no calibration file of this version; make one with `crossalign evaluate --calibration-file`"
        )
    return Calibrations(entries)


def _is_valid(entry: Calibration) -> bool:
    numbers = (entry.logit_scale, entry.threshold)
    return all(0 <= number < float("inf") for number in numbers) and isinstance(entry.made_with, Mapping)


def _others(scorer: LabelScorer) -> tuple[str, ...]:
    return scorer.labels[len(scorer.labels) - scorer.others :]
