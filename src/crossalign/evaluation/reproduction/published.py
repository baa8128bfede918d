"""The published accuracies (Li et al., ICML 2024, arXiv 2406.02915), from the CSV files in this folder."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import PurePath

TABLES = {
    1: "Six datasets, three encoders, six methods",
    2: "ImageNet under distribution shift",
}
SOURCE = "Li et al., ICML 2024, arXiv 2406.02915"


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper.

    Attributes:
        number: 1 or 2.
        encoders: the columns, by open_clip's names of the architectures.
        methods: the rows.
        images: number of images of each dataset's official test split.
        top1: published top-1 accuracy in percent, by (dataset, encoder, method).
    """

    number: int
    encoders: tuple[str, ...]
    methods: tuple[str, ...]
    images: Mapping[str, int]
    top1: Mapping[tuple[str, str, str], float]

    @property
    def title(self) -> str:
        """Number and title of the table."""
        return f"Table {self.number}. {TABLES[self.number]}"


@lru_cache
def published_table(number: int) -> PublishedTable:
    """Read table 1 or 2."""
    text = (resources.files(__package__) / f"table{number}.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    encoders = tuple(column for column in rows[0] if column not in ("dataset", "images", "method"))
    return PublishedTable(
        number,
        encoders,
        tuple(dict.fromkeys(row["method"] for row in rows)),
        {row["dataset"]: int(row["images"]) for row in rows},
        {(row["dataset"], encoder, row["method"]): float(row[encoder]) for row in rows for encoder in encoders},
    )


def published_encoder(spec: str) -> str | None:
    """Say which of the paper's encoders a spec for `load_encoder` is: "open_clip:ViT-B-32/openai" is "ViT-B-32".

    A file counts as OpenAI's weights if the spec says so (ViT-B-32/openai@FILE), or if it has the name that OpenAI gave it,
    such as ViT-B-32.pt.
    """
    backend, _, rest = spec.partition(":")
    arch, _, weights = rest.partition("/")
    plain = arch.removesuffix("-quickgelu")
    if backend != "open_clip" or plain not in published_table(1).encoders:
        return None
    tag = weights.partition("@")[0].lower()
    return plain if tag == "openai" or PurePath(weights).name == f"{plain}.pt" else None
