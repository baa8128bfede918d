"""`crossalign explain`: why an image gets its label, in words, numbers and a figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.cli._descriptions import descriptions_options, say_descriptions
from crossalign.cli._help import GroupedCommand
from crossalign.errors import InputError, need_package

if TYPE_CHECKING:
    from crossalign.classifier.examples import ExampleImages
    from crossalign.explanation import ClassEvidence, Explanation
    from crossalign.methods.alignment import Form
    from crossalign.text.descriptions import Style

MOST_REASONS = 5


@dataclass(frozen=True)
class Options:
    """The values of the command's arguments and options."""

    image: str
    labels: str | None
    labels_file: str | None
    examples: str | None
    descriptions: str | None
    description_style: Style | None
    allow_missing: bool
    domain: str
    method: str
    against: str | None
    encoder: str
    views: int | None
    form: Form
    seed: int
    top_k: int
    output: str | None
    matrix: bool
    dpi: int
    as_json: bool
    device: str


@click.command(cls=GroupedCommand)
@click.argument("image")
@common.label_options
@descriptions_options
@click.option("--domain", default="", help='Kind of thing that all labels are, such as "pet".')
@click.option("--method", default="wca", show_default=True, help="See `crossalign methods`.")
@click.option("--against", help='A second method to compare with, such as "clip-d".')
@click.option("--encoder", default="builtin", show_default=True, help="See `crossalign encoders`.")
@click.option("--views", type=click.IntRange(1), help="Local views of the image [default: 60].")
@common.form_option
@common.seed_option
@click.option("--top-k", default=3, show_default=True, type=click.IntRange(2), help="Number of labels that are explained.")
@click.option("-o", "--output", type=click.Path(), help="Write the figure to FILE.png, .svg or .pdf.")
@click.option(
    "--matrix", is_flag=True, help="Write a second figure, OUTPUT-matrix, with the similarity of all views and descriptions."
)
@click.option(
    "--dpi",
    default=150,
    show_default=True,
    type=click.IntRange(30, 600),
    help="Dots per inch of the figure, and of the photos in .svg and .pdf files.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all numbers as JSON.")
@common.device_option
def command(**values: Any) -> None:
    """Explain why an image gets its label, in words, numbers and a figure.

    Prints the best labels, and the descriptions that add most to the score of the first. The figure shows the image, a map
    of where the evidence lies, the views that count most, and the similarity of the image to each description, for one
    method or two. If a class has many descriptions, the strongest twelve are shown.

    \b
    Examples:
      crossalign explain cat.jpg --labels "cat,dog,cup of coffee"
      crossalign explain cat.jpg --labels "cat,dog" --descriptions mine.json --against clip-d -o cat.pdf
      crossalign explain cat.jpg --labels "cat,dog" --views 24 -o cat.png --matrix
      crossalign explain cat.jpg --examples sorted/ -o cat.png
    """
    options = Options(**values)
    if options.matrix and options.output is None:
        raise click.UsageError("--matrix writes a file beside the figure; name the figure with -o FILE")
    files = _files(options.output, options.matrix)
    names = common.read_known_labels(options.labels, options.labels_file, options.examples)
    if options.method == options.against:
        raise InputError(f"the method {options.method!r} was given twice; name another with --against, or omit --against")
    explanation, rival, examples = _explain(options, names)
    _print(explanation, rival, options)
    _draw(files, explanation, rival, examples, options)


def _explain(options: Options, names: list[str] | None) -> tuple[Explanation, Explanation | None, ExampleImages | None]:
    """Explain the image under --method, and under --against if that is given."""
    descriptions = measuring.styled_descriptions(options.descriptions, options.description_style)

    from crossalign.classifier import Classifier
    from crossalign.datasets.configs import load_config
    from crossalign.encoders import load_encoder
    from crossalign.explanation import explain, explain_both

    store = common.open_store(None)
    encoder = load_encoder(options.encoder, options.device)

    def classifier(method: str) -> Classifier:
        return Classifier(
            names,
            descriptions,
            encoder,
            method,
            examples=options.examples,
            allow_missing=options.allow_missing,
            domain=options.domain,
            views=options.views or load_config("folder").views,
            seed=options.seed,
            form=options.form,
            store=store,
            progress=common.progress_bar,
        )

    classify = classifier(options.method)
    if options.against is None:
        say_descriptions(options.descriptions, classify)
        return explain(classify, options.image, options.top_k), None, classify.examples
    rival = classifier(options.against)
    say_descriptions(options.descriptions, classify, rival)
    return *explain_both(classify, rival, options.image, options.top_k), classify.examples


def _files(output: str | None, matrix: bool) -> list[Path]:
    """Name the files to write, and check that they can be written."""
    if output is None:
        return []
    need_package("matplotlib", "figures", "a figure")
    file = common.check_output(output)
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"output {output!r} has the ending {file.suffix!r}; name a .png, .svg or .pdf file")
    return [file, file.with_stem(f"{file.stem}-matrix")] if matrix else [file]


def _draw(
    files: list[Path],
    explanation: Explanation,
    rival: Explanation | None,
    examples: ExampleImages | None,
    options: Options,
) -> None:
    if not files:
        return
    from crossalign.reports.figures import explanation_figure, figure_bytes, matrix_figure
    from crossalign.store.files import write_atomically

    figures = [explanation_figure(options.image, explanation, rival, examples)]
    if options.matrix:
        figures.append(matrix_figure(options.image, explanation))
    for file, figure in zip(files, figures, strict=True):
        write_atomically(file, figure_bytes(figure, file.suffix.lower()[1:], options.dpi))
        click.echo(f"wrote {file}", err=True)


def _print(explanation: Explanation, rival: Explanation | None, options: Options) -> None:
    if options.as_json:
        against = None if rival is None else rival.to_dict()
        click.echo(common.to_json({"image": options.image, "explanation": explanation.to_dict(), "against": against}))
        return
    click.echo(options.image)
    explanations = [explanation] if rival is None else [explanation, rival]
    for shown in explanations:
        labels = ", ".join(f"{c.label} {c.score:.3f} ({100 * c.probability:.1f} %)" for c in shown.classes[: options.top_k])
        click.echo(f"{shown.method}: {labels}")
    for shown in explanations:
        _print_reasons(shown.method, shown.classes[0])


def _print_reasons(method: str, evidence: ClassEvidence) -> None:
    reasons = sorted(evidence.reasons, key=lambda reason: -reason.contribution)
    click.echo(f"\nWhat adds most to the score {evidence.score:.3f} of {evidence.label!r} ({method}):")
    for reason in reasons[:MOST_REASONS]:
        click.echo(f"  {reason.contribution:.3f}  {reason.text}")
    if len(reasons) > MOST_REASONS:
        rest = sum(reason.contribution for reason in reasons[MOST_REASONS:])
        click.echo(f"  {rest:.3f}  {len(reasons) - MOST_REASONS} others together")
