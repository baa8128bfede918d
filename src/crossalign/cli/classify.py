"""`crossalign classify`: labels for one's own pictures."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _common as common

if TYPE_CHECKING:
    from crossalign.classifier import Classification, Classifier
    from crossalign.report import ReportedPicture

FEW = 16
"""Pictures below which another runtime would take longer to start than it saves."""


@click.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--labels", help='Class names, comma separated: "cat,dog,cup of coffee".')
@click.option("--labels-file", type=click.Path(), help="Class names, one a line.")
@click.option(
    "--descriptions", type=click.Path(), help="JSON {class: [text]}, or a bundled name [default: hand-written templates]."
)
@click.option("--method", default="wca", show_default=True, help="See `crossalign methods`.")
@click.option("--encoder", default="builtin", show_default=True, help="See `crossalign encoders`.")
@click.option("--domain", default="", help='What kind of thing all labels are, such as "pet".')
@click.option(
    "--views",
    type=common.count_or_adaptive,
    metavar="COUNT|adaptive",
    help="Local views a picture, or adaptive: as many as its answer takes [default: 60].",
)
@click.option(
    "--max-views", type=click.IntRange(1), help="The most views that a picture gets with --views adaptive [default: 60]."
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, max_open=True),
    help="With --views adaptive: how likely an answer is to be that of all the views [default: 0.99].",
)
@click.option("--top-k", default=3, show_default=True, type=click.IntRange(1), help="Labels shown a picture.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one row a picture and label.")
@click.option("--report", type=click.Path(), help="Write an HTML page of pictures, labels and reasons there.")
@common.form_option
@common.seed_option
@common.workers_option
@common.device_option
@common.runtime_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    paths: tuple[str, ...],
    labels: str | None,
    labels_file: str | None,
    top_k: int,
    as_json: bool,
    as_csv: bool,
    report: str | None,
    **settings: Any,
) -> None:
    """Label pictures: files, folders, patterns, or - for a list on standard input.

    A picture that cannot be read gets its reason in the output and the others go on; the exit code is then 1, and 0 if all
    went well.

    \b
    Examples:
      crossalign classify cat.jpg --labels "cat,dog,cup of coffee"
      crossalign classify holiday/ --labels-file labels.txt --csv > labels.csv
      crossalign classify holiday/ --labels-file labels.txt --report report.html
      crossalign classify holiday/ --labels-file labels.txt --views adaptive     # about a third of the work
      find . -name "*.jpg" | crossalign classify - --labels "beach,forest,city" --json
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other; give one of them")
    for option in ("max_views", "confidence"):
        if settings[option] is None:
            del settings[option]
        elif settings["views"] != "adaptive":
            raise click.UsageError(f"--{option.replace('_', '-')} belongs to --views adaptive; add that or leave it out")
    names = common.read_labels(labels, labels_file)
    pictures = common.find_pictures(paths)
    page = common.check_output(report) if report else None

    from crossalign.classifier import Classifier

    engine = common.taken(settings)
    if len(pictures) < FEW and engine["runtime"] == "auto" and engine["precision"] in (None, "f32"):
        engine["runtime"] = "torch"
    encoder = common.load_encoder(settings.pop("encoder"), engine)
    classify = Classifier(names, encoder=encoder, **settings)
    if page is not None:
        from crossalign.explanation import check_explainable

        check_explainable(classify.method)
    rows: list[ReportedPicture] | None = None if page is None else []
    failed = 0
    with common.progress_bar(len(pictures), "pictures") as bar:

        def counted() -> Iterator[Classification]:
            nonlocal failed
            for result in _found(classify, pictures, top_k, rows):
                failed += result.error is not None
                yield result
                bar.update(1)

        (_print_json if as_json else _print_csv if as_csv else _print_lines)(counted())
    if page is not None and rows is not None:
        _write_report(page, classify, rows)
    if failed:
        click.echo(f"{failed} of {len(pictures)} pictures could not be read", err=True)
        ctx.exit(1)


def _found(
    classify: Classifier, pictures: Sequence[str], top_k: int, rows: list[ReportedPicture] | None
) -> Iterator[Classification]:
    """Classify pictures, and keep what the report shows of each if there is to be one."""
    from crossalign.errors import InputError

    for image, features in classify.encode(pictures):
        found = classify.result(image, features, top_k)
        if rows is not None:
            from crossalign.explanation import explain
            from crossalign.report import reported_picture

            why = None if isinstance(features, InputError) else explain(classify, image, 2, features=features)
            rows.append(reported_picture(image, found, why))
        yield found


def _write_report(page: Path, classify: Classifier, rows: Sequence[ReportedPicture]) -> None:
    from crossalign.files import write_whole
    from crossalign.report import pictures_report

    write_whole(page, pictures_report(classify, rows).encode("utf-8", "backslashreplace"))
    click.echo(f"report: {page}", err=True)


def _print_json(results: Iterable[Classification]) -> None:
    lead = "["
    try:
        for result in results:
            print(f"{lead}\n{json.dumps(asdict(result), ensure_ascii=False)}", end="", flush=True)
            lead = ","
    finally:  # A run that is stopped leaves a list that can be read.
        print("\n]" if lead == "," else "[]")


def _print_csv(results: Iterable[Classification]) -> None:
    from crossalign.classifier import CSV_HEADER

    plain, quoted = (csv.writer(sys.stdout, lineterminator="\n", quoting=q) for q in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    plain.writerow(CSV_HEADER)
    for result in results:
        # Some versions of the csv module see that a carriage return needs quotes only if lines end in one.
        (quoted if "\r" in str(result.image) else plain).writerows(result.rows())
        sys.stdout.flush()


def _print_lines(results: Iterable[Classification]) -> None:
    for result in results:
        found = ", ".join(f"{p.label} {p.score:.3f} ({100 * p.probability:.1f} %)" for p in result.predictions)
        print(f"{result.image}: {result.error or found}", flush=True)
