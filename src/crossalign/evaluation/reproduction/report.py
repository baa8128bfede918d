"""Published and measured accuracies side by side, as Markdown and LaTeX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from crossalign.evaluation.latex import escape_latex, latex_table
from crossalign.evaluation.reproduction.grid import GridCell, Outcome
from crossalign.evaluation.reproduction.published import SOURCE, PublishedTable, published_encoder
from crossalign.evaluation.reproduction.verdict import NOT_PUBLISHED, sigma, verdict
from crossalign.methods.registry import pick_methods

HEADER = ["dataset", "encoder", "method", "published", "measured", "difference", "2 sigma", "verdict", "images"]
PUBLISHED_NOTE = (
    f"The column `published` holds the published accuracies ({SOURCE}); they were not measured here. "
    "Top-1 accuracy in percent; difference and 2 sigma in points."
)
SIGMA_NOTE = (
    "Sigma is the noise between two runs on the same images with the same weights: rounding, arithmetic, random crops "
    "(an overestimate), and the choice of images if only some of the official ones were measured. It does not include the "
    "choice of the official test images."
)
BUNDLED_NOTE = (
    "* measured with the descriptions that ship with crossalign. The published accuracies were measured with others, so a "
    "difference may come from the descriptions."
)


@dataclass(frozen=True)
class PublishedRow:
    """One row of the report; accuracies in percent.

    Attributes:
        dataset, encoder, method: what was measured.
        published: published top-1; None if the paper has none.
        measured: measured top-1.
        sigma: standard deviation of their difference, in points; None if unknown.
        verdict: one of the verdicts of `verdict.verdict`.
        bundled: whether the descriptions were those that ship with crossalign.
        n: number of images measured.
        images: number of images of the official test split.
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
    images: int

    def texts(self) -> list[str]:
        """Cells of the row, by HEADER."""
        return [
            self.dataset,
            self.encoder,
            self.method,
            "" if self.published is None else f"{self.published:.2f}",
            f"{self.measured:.2f}",
            "" if self.published is None else f"{self.measured - self.published:+.2f}",
            "" if self.sigma is None else f"{2 * self.sigma:.2f}",
            self.verdict + (" *" if self.bundled and self.published is not None else ""),
            str(self.n) if self.n == self.images else f"{self.n} of {self.images}",
        ]


def rows_of(cell: GridCell, content: Mapping[str, Any]) -> list[PublishedRow]:
    """Compare the results of a cell with the published accuracies."""
    dataset, encoder = content["dataset"]["name"], content["encoder"]["name"]
    images = cell.table.images[dataset]
    bundled = any(source.startswith("bundled:") for source in content["descriptions"])
    rows = []
    for row in content["results"]:
        method = row["method"]
        published = cell.table.top1.get((dataset, published_encoder(encoder) or "", method))
        noise = None if published is None else sigma(row, published, images)
        rows.append(
            PublishedRow(
                dataset=dataset,
                encoder=encoder,
                method=method,
                published=published,
                measured=row["top1"],
                sigma=noise,
                verdict=verdict(row["top1"], published, noise),
                bundled=bundled and pick_methods([method])[0].needs_descriptions,
                n=row["n"],
                images=images,
            )
        )
    return rows


def markdown(outcome: Outcome, command: str) -> str:
    """Format the tables with their notes and provenance as Markdown."""
    parts = ["# Published and measured", PUBLISHED_NOTE, SIGMA_NOTE]
    rows: list[PublishedRow] = []
    for table, table_rows in _by_table(outcome):
        rows += table_rows
        cells = tabulate([row.texts() for row in table_rows], HEADER, tablefmt="github", disable_numparse=True)
        parts += [f"## {table.title}", cells]
    parts += [counts(rows)] + [_escape_star(BUNDLED_NOTE)] * _starred(rows)
    parts += ["## Provenance", "\n".join(f"- {line}" for line in provenance(outcome, command))]
    if failures := not_measured(outcome):
        parts += ["## Not measured", "\n".join(f"- {sentence}" for sentence in failures)]
    return "\n\n".join(parts) + "\n"


def latex(outcome: Outcome, command: str) -> str:
    r"""Format the same as LaTeX to \input; it needs the package booktabs only."""
    parts = [r"% Needs \usepackage{booktabs}."]
    rows: list[PublishedRow] = []
    for table, table_rows in _by_table(outcome):
        rows += table_rows
        inner = latex_table(HEADER, [[escape_latex(cell) for cell in row.texts()] for row in table_rows])
        caption = escape_latex(f"Published and measured: {table.title.split('. ')[1]}.")
        parts.append(f"\\begin{{table}}\n\\centering\\footnotesize\n\\caption{{{caption}}}\n{inner}\n\\end{{table}}")
    notes = [PUBLISHED_NOTE.replace("`", ""), SIGMA_NOTE, counts(rows)] + [BUNDLED_NOTE] * _starred(rows)
    lines = [*notes, *provenance(outcome, command), *(f"not measured: {failure}" for failure in not_measured(outcome))]
    parts += [f"\\par\\noindent {escape_latex(line)}" for line in lines]
    return "\n\n".join(parts) + "\n"


def counts(rows: Sequence[PublishedRow]) -> str:
    """Count the verdicts: "5 within 2 sigma, 1 above"."""
    numbers = Counter(row.verdict for row in rows)
    order = sorted(numbers, key=lambda verdict: (verdict == NOT_PUBLISHED, -numbers[verdict]))
    return ", ".join(f"{numbers[verdict]} {verdict}" for verdict in order) + "."


def provenance(outcome: Outcome, command: str) -> list[str]:
    """Versions, encoders, views, texts, datasets and command behind the measured accuracies, one line each."""
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
    """One line for each dataset or encoder that was not measured: first those that failed, then those that are missing."""
    return [" ".join(sentence.split()) for sentence in (*outcome.failed, *outcome.missing)]


def _by_table(outcome: Outcome) -> list[tuple[PublishedTable, list[PublishedRow]]]:
    tables = {cell.table.number: cell.table for cell, _ in outcome.done}
    return [
        (table, [row for cell, content in outcome.done if cell.table is table for row in rows_of(cell, content)])
        for table in tables.values()
    ]


def _starred(rows: Sequence[PublishedRow]) -> int:
    return int(any(row.bundled and row.published is not None for row in rows))


def _escape_star(note: str) -> str:
    return note.replace("* ", "\\* ", 1)
