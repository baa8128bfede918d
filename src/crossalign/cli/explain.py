"""`crossalign explain`: why a picture gets its label, in words, numbers and a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.explanation import ClassEvidence, Explanation

MOST_REASONS = 5


@click.command()
@click.argument("image")
@click.option("--labels", help='Class names, comma separated: "cat,dog,cup of coffee".')
@click.option("--labels-file", type=click.Path(), help="Class names, one a line.")
@click.option(
    "--descriptions", type=click.Path(), help="JSON {class: [text]}, or a bundled name [default: hand-written templates]."
)
@measuring.description_style_option
@click.option("--method", default="wca", show_default=True, help="See `crossalign methods`.")
@click.option("--against", help='A second method to compare with, such as "clip-d".')
@click.option("--encoder", default="builtin", show_default=True, help="See `crossalign encoders`.")
@click.option("--domain", default="", help='What kind of thing all labels are, such as "pet".')
@click.option("--views", type=click.IntRange(1), help="Local views of the picture [default: 60].")
@click.option("--top-k", default=3, show_default=True, type=click.IntRange(2), help="Labels explained.")
@click.option("-o", "--output", type=click.Path(), help="The figure: a .png, .svg or .pdf file.")
@click.option("--matrix", is_flag=True, help="Draw the similarity of all views and descriptions too, as OUTPUT-matrix.")
@click.option(
    "--dpi",
    default=150,
    show_default=True,
    type=click.IntRange(30, 600),
    help="Dots an inch, of photos in .svg and .pdf too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all numbers as JSON.")
@common.form_option
@common.seed_option
@common.device_option
def command(
    image: str,
    labels: str | None,
    labels_file: str | None,
    method: str,
    against: str | None,
    top_k: int,
    output: str | None,
    matrix: bool,
    dpi: int,
    as_json: bool,
    **settings: Any,
) -> None:
    """Say why a picture gets its label: the best labels, the descriptions that speak for the first, and a figure.

    The figure shows the picture, where the evidence lies, the views that speak most, and how similar the picture is to
    each description, under one method or two. A class with many descriptions shows its strongest twelve.

    \b
    Examples:
      crossalign explain cat.jpg --labels "cat,dog,cup of coffee"
      crossalign explain cat.jpg --labels "cat,dog" --descriptions mine.json --against clip-d -o cat.pdf
      crossalign explain cat.jpg --labels "cat,dog" --views 24 -o cat.png --matrix
    """
    if matrix and output is None:
        raise click.UsageError("--matrix draws beside the figure; name that with -o FILE")
    files = _files(output, matrix)
    names = common.read_labels(labels, labels_file)
    settings |= common.for_many_labels(names)
    if method == against:
        raise InputError(f"the method {method!r} was given twice; name another one with --against, or leave that out")

    settings["descriptions"] = measuring.styled_descriptions(settings["descriptions"], settings.pop("description_style"))

    from crossalign.classifier import Classifier
    from crossalign.encoders import load_encoder
    from crossalign.explanation import explain, explain_both

    encoder = load_encoder(settings.pop("encoder"), settings["device"])
    classify = Classifier(names, method=method, encoder=encoder, **settings)
    rival = None
    if against is None:
        explanation = explain(classify, image, top_k)
    else:
        explanation, rival = explain_both(
            classify, Classifier(names, method=against, encoder=encoder, **settings), image, top_k
        )
    _print(image, explanation, rival, top_k, as_json)
    _draw(files, image, explanation, rival, dpi)


def _files(output: str | None, matrix: bool) -> list[Path]:
    """Name the files to write, after making sure that they can be."""
    if output is None:
        return []
    file = common.check_output(output)
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"output {output!r} has the ending {file.suffix!r}; name a .png, .svg or .pdf file")
    return [file, file.with_stem(f"{file.stem}-matrix")] if matrix else [file]


def _draw(files: list[Path], image: str, explanation: Explanation, rival: Explanation | None, dpi: int) -> None:
    if not files:
        return
    from crossalign.reports.figures import explanation_figure, figure_bytes, matrix_figure
    from crossalign.store.files import write_atomically

    figures = [explanation_figure(image, explanation, rival)]
    if len(files) > 1:
        figures.append(matrix_figure(image, explanation))
    for file, figure in zip(files, figures, strict=True):
        write_atomically(file, figure_bytes(figure, file.suffix.lower()[1:], dpi))
        click.echo(f"wrote {file}", err=True)


def _print(image: str, explanation: Explanation, rival: Explanation | None, top_k: int, as_json: bool) -> None:
    if as_json:
        against = None if rival is None else rival.to_dict()
        click.echo(common.to_json({"image": image, "explanation": explanation.to_dict(), "against": against}))
        return
    click.echo(image)
    methods = [explanation] if rival is None else [explanation, rival]
    for one in methods:
        found = ", ".join(f"{c.label} {c.score:.3f} ({100 * c.probability:.1f} %)" for c in one.classes[:top_k])
        click.echo(f"{one.method}: {found}")
    for one in methods:
        _print_reasons(one.method, one.classes[0])


def _print_reasons(method: str, found: ClassEvidence) -> None:
    reasons = sorted(found.reasons, key=lambda reason: -reason.contribution)
    click.echo(f"\nWhat adds most to the score {found.score:.3f} of {found.label!r} ({method}):")
    for reason in reasons[:MOST_REASONS]:
        click.echo(f"  {reason.contribution:.3f}  {reason.text}")
    if len(reasons) > MOST_REASONS:
        rest = sum(reason.contribution for reason in reasons[MOST_REASONS:])
        click.echo(f"  {rest:.3f}  {len(reasons) - MOST_REASONS} others together")
