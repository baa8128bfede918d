"""The values of the options of `crossalign evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossalign.cli import _cluster as clusters
from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring

if TYPE_CHECKING:
    from crossalign.evaluation.protocols import Protocol
    from crossalign.methods.alignment import Form
    from crossalign.text.descriptions import Style


@dataclass(frozen=True)
class Options:
    """The values of the command's options."""

    dataset_options: measuring.DatasetOptions
    encoder_options: common.EncoderOptions
    cluster: clusters.ClusterOptions
    methods: str | None
    protocol: Protocol
    views: int | None
    budget: str | None
    prompts: str | None
    runs: int | None
    fresh_seeds: int
    calibration: bool
    examples: str | None
    calibration_file: str | None
    answer_precision: float
    transductive: bool
    crop_scale: str | None
    descriptions: tuple[str, ...]
    description_style: Style | None
    allow_missing: bool
    output: str | None
    report: str | None
    form: Form
    seed: int
    num_workers: int
    store: str | None
