"""Published beside measured: as rows, Markdown and LaTeX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from crossalign.evaluation.reproduction.grid import Cell, Outcome
from crossalign.evaluation.reproduction.published import SOURCE, PublishedTable, published_encoder
from crossalign.evaluation.reproduction.verdict import NOT_PUBLISHED, sigma, verdict
from crossalign.methods.registry import pick_methods

HEADER = ["dataset", "encoder", "method", "published", "measured", "difference", "2 sigma", "verdict", "pictures"]
PUBLISHED_NOTE = (
    f"The column `published` holds the figures that were published ({SOURCE}); nothing in it was measured here. "
    "Top-1 accuracy in percent; difference and 2 sigma in points."
)
SIGMA_NOTE = (
    "Sigma is the noise between two runs on the same pictures with the same weights: rounding, arithmetic, random crops "
    "(rather too much than too little), and the choice of pictures where not all of the official ones were measured. Which "
    "pictures are in the official set is no part of it."
)
BUNDLED_NOTE = (
    "* measured with the descriptions that ship with crossalign, which are not those of the published figures: the verdict "
    "is then about other sentences too."
)


@dataclass(frozen=True)
class Row:
    """One method's line; accuracies in percent.

    Attributes:
        dataset, encoder, method: what was measured.
        published: None if it isn't among the published figures.
        measured: top-1.
        sigma: of their difference, in points; None if unknown.
        verdict: in words.
        bundled: whether the descriptions were the package's.
        n: pictures measured.
        pictures: of the official test split.
    """

    dataset: str
    encoder: str
    method: str
    published: float | None
    measured: float
    sigma: float | None
    verdict: str
    bundled: bool
    n: int
    pictures: int

    def texts(self) -> list[str]:
        """Lay the row out under HEADER."""
        return [
            self.dataset,
            self.encoder,
            self.method,
            "" if self.published is None else f"{self.published:.2f}",
            f"{self.measured:.2f}",
            "" if self.published is None else f"{self.measured - self.published:+.2f}",
            "" if self.sigma is None else f"{2 * self.sigma:.2f}",
            self.verdict + (" *" if self.bundled and self.published is not None else ""),
            str(self.n) if self.n == self.pictures else f"{self.n} of {self.pictures}",
        ]


def rows_of(cell: Cell, content: Mapping[str, Any]) -> list[Row]:
    """Put a cell's results beside the published figures."""
    dataset, encoder = content["dataset"]["name"], content["encoder"]["name"]
    pictures = cell.table.pictures[dataset]
    bundled = any(source.startswith("bundled:") for source in content["descriptions"])
    rows = []
    for row in content["results"]:
        method = row["method"]
        known = cell.table.top1.get((dataset, published_encoder(encoder) or "", method))
        noise = None if known is None else sigma(row, known, pictures)
        said = verdict(row["top1"], known, noise)
        starred = bundled and pick_methods([method])[0].needs_descriptions
        rows.append(Row(dataset, encoder, method, known, row["top1"], noise, said, starred, row["n"], pictures))
    return rows


def markdown(outcome: Outcome, command: str) -> str:
    """Write the tables with their notes and provenance for people."""
    parts = ["# Published and measured", PUBLISHED_NOTE, SIGMA_NOTE]
    rows: list[Row] = []
    for table, of_table in _by_table(outcome):
        rows += of_table
        shown = tabulate([row.texts() for row in of_table], HEADER, tablefmt="github", disable_numparse=True)
        parts += [f"## {table.title}", shown]
    parts += [counts(rows)] + [_escape_star(BUNDLED_NOTE)] * _starred(rows)
    parts += ["## Provenance", "\n".join(f"- {line}" for line in provenance(outcome, command))]
    if lacking := not_measured(outcome):
        parts += ["## Not measured", "\n".join(f"- {sentence}" for sentence in lacking)]
    return "\n\n".join(parts) + "\n"


def latex(outcome: Outcome, command: str) -> str:
    r"""Write the same as tables to \input; they need the package booktabs and no other."""
    parts = [r"% Needs \usepackage{booktabs}."]
    rows: list[Row] = []
    for table, of_table in _by_table(outcome):
        rows += of_table
        inner = tabulate([row.texts() for row in of_table], HEADER, tablefmt="latex_booktabs", disable_numparse=True)
        caption = escape_latex(f"Published and measured: {table.title.split('. ')[1]}.")
        parts.append(f"\\begin{{table}}\n\\centering\\footnotesize\n\\caption{{{caption}}}\n{inner}\n\\end{{table}}")
    notes = [PUBLISHED_NOTE.replace("`", ""), SIGMA_NOTE, counts(rows)] + [BUNDLED_NOTE] * _starred(rows)
    lines = [*notes, *provenance(outcome, command), *(f"not measured: {lacking}" for lacking in not_measured(outcome))]
    parts += [f"\\par\\noindent {escape_latex(line)}" for line in lines]
    return "\n\n".join(parts) + "\n"


def counts(rows: Sequence[Row]) -> str:
    """Count the verdicts: "5 within 2 sigma, 1 above"."""
    found = Counter(row.verdict for row in rows)
    order = sorted(found, key=lambda said: (said == NOT_PUBLISHED, -found[said]))
    return ", ".join(f"{found[said]} {said}" for said in order) + "."


def provenance(outcome: Outcome, command: str) -> list[str]:
    """Say what the figures were made with, a line each."""
    contents = [content for _, content in outcome.done]
    encoders = dict.fromkeys(f"{c['encoder']['name']} (weights {c['encoder']['fingerprint']})" for c in contents)
    views = dict.fromkeys(
        f"{row['method']}: {row['saw']['views']}"
        + (f", {c['views']['sampled']} resampled in each of {len(row['runs'])} runs" if "runs" in row else "")
        for c in contents
        for row in c["results"]
    )
    scales = dict.fromkeys(f"image {c['scales']['image']}, text {c['scales']['text']}" for c in contents)
    texts = dict.fromkeys(f"{c['dataset']['name']}: {' and '.join(c['descriptions'])}" for c in contents)
    data = dict.fromkeys(f"{c['dataset']['name']} {c['dataset']['fingerprint']}" for c in contents)
    versions = contents[0]["versions"]
    return [
        f"crossalign {versions['crossalign']}, torch {versions['torch']}, open_clip {versions['open_clip_torch']}",
        f"encoders: {'; '.join(encoders)}",
        f"views: {'; '.join(views)}; scales: {'; '.join(scales)}",
        f"descriptions: {'; '.join(texts)}",
        f"datasets: {'; '.join(data)}; class names: {contents[0]['made_of']['names']}",
        f"seed: {contents[0]['seed']}; form of the score: {contents[0]['results'][0]['form']}",
        f"command: {command}",
    ]


def not_measured(outcome: Outcome) -> list[str]:
    """Say what did not run, a line each: first what is there and failed, then what is missing."""
    return [" ".join(sentence.split()) for sentence in (*outcome.failed, *outcome.missing)]


def escape_latex(text: str) -> str:
    """Make plain text safe to set with LaTeX."""
    # Two hyphens in a row would be set as a dash, and an option such as --seed could not be copied.
    return text.translate(_LATEX).replace("--", "-{}-")


_LATEX = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\ensuremath{<}",
        ">": r"\ensuremath{>}",
    }
)


def _by_table(outcome: Outcome) -> list[tuple[PublishedTable, list[Row]]]:
    tables = {cell.table.number: cell.table for cell, _ in outcome.done}
    return [
        (table, [row for cell, content in outcome.done if cell.table is table for row in rows_of(cell, content)])
        for table in tables.values()
    ]


def _starred(rows: Sequence[Row]) -> int:
    return int(any(row.bundled and row.published is not None for row in rows))


def _escape_star(note: str) -> str:
    return note.replace("* ", "\\* ", 1)
