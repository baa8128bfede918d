"""`crossalign classify`: labels for one's own pictures."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _cluster as clusters
from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.cli._help import GroupedCommand
from crossalign.errors import InputError
from crossalign.images.finding import is_packed

if TYPE_CHECKING:
    from crossalign.classifier import Classification, Classifier
    from crossalign.reports.html import ReportedImage


@click.command(cls=GroupedCommand)
@click.argument("paths", nargs=-1, required=True)
@click.option("--labels", help='Class names, comma separated: "cat,dog,cup of coffee".')
@click.option("--labels-file", type=click.Path(), help="Class names, one a line.")
@click.option(
    "--descriptions", type=click.Path(), help="JSON {class: [text]}, or a bundled name [default: hand-written templates]."
)
@measuring.description_style_option
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
@click.option(
    "--output", type=click.Path(), help="Write .csv, .jsonl or .parquet there; the same command goes on after a stop."
)
@click.option("--report", type=click.Path(), help="Write an HTML page of pictures, labels and reasons there.")
@common.form_option
@common.seed_option
@common.workers_option
@common.encoder_options
@clusters.executor_options
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
    output: str | None,
    report: str | None,
    encoder_options: common.EncoderOptions,
    cluster: clusters.ClusterOptions,
    **settings: Any,
) -> None:
    """Label pictures: files, folders, patterns, or - for a list on standard input.

    A picture that cannot be read gets its reason in the output and the others go on; the exit code is then 1, and 0 if all
    went well.

    With --output labels are kept in a hidden file beside it as they come, and the file appears once all are there. However
    a run ended, the same command goes on with it, and the file is the same to the byte.

    With --executor ray a Ray cluster labels, and PATHS may also be tars or Parquet tables of pictures, on any file system
    (s3://bucket/prefix); the output is a folder of Parquet files, and the same command goes on there, too.

    \b
    Examples:
      crossalign classify cat.jpg --labels "cat,dog,cup of coffee"
      crossalign classify holiday/ --labels-file labels.txt --csv > labels.csv
      crossalign classify archive/ --labels-file labels.txt --output labels.parquet    # goes on where it was stopped
      crossalign classify holiday/ --labels-file labels.txt --report report.html
      crossalign classify holiday/ --labels-file labels.txt --views adaptive     # about a third of the work
      find . -name "*.jpg" | crossalign classify - --labels "beach,forest,city" --json
      crossalign classify s3://photos/2024 --labels-file labels.txt --executor ray --output s3://photos/2024-labels.parquet
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other; give one of them")
    if output is not None and (as_json or as_csv or report is not None):
        raise click.UsageError("--output excludes --json, --csv and --report; give one of them, or run the command twice")
    for option in ("max_views", "confidence"):
        if settings[option] is None:
            del settings[option]
        elif settings["views"] != "adaptive":
            raise click.UsageError(f"--{option.replace('_', '-')} belongs to --views adaptive; add that or leave it out")
    settings["descriptions"] = measuring.styled_descriptions(settings["descriptions"], settings.pop("description_style"))
    cluster.check()
    names = common.read_labels(labels, labels_file)
    if cluster.ray:
        if output is None or not output.lower().partition("?")[0].endswith(".parquet"):
            raise InputError(
                f"output is {output!r}, but a cluster writes a folder of Parquet files; give --output F.parquet"
            )
        total, failed = _label_on_cluster(names, paths, output, top_k, cluster, encoder_options, settings)
    else:
        total, failed = _label_here(
            names, paths, output, report, _printer(as_json, as_csv), top_k, encoder_options, settings
        )
    if output is not None:
        click.echo(f"labels: {output}", err=True)
    if failed:
        click.echo(f"{failed} of {total} pictures could not be read", err=True)
        ctx.exit(1)


def _label_here(
    names: Sequence[str],
    paths: Sequence[str],
    output: str | None,
    report: str | None,
    show: Callable[[Iterable[Classification]], None],
    top_k: int,
    encoder_options: common.EncoderOptions,
    settings: dict[str, Any],
) -> tuple[int, int]:
    """Label pictures in this process; give how many there are, and how many could not be read."""
    pictures = common.find_images(paths)
    if packed := next((path for path in pictures if is_packed(path)), None):
        raise InputError(
            f"{packed!r} is a tar or table of images, which --executor ray reads; add that and --output FOLDER.parquet, "
            "or unpack it"
        )
    page = common.check_output(report) if report else None

    from crossalign.classifier import Classifier
    from crossalign.cli._labelling import check_labels_file, label_into

    file = None if output is None else check_labels_file(output)
    encoder = common.load_encoder(settings.pop("encoder"), encoder_options)
    classify = Classifier(names, encoder=encoder, **settings, **common.for_many_labels(names))
    if page is not None:
        from crossalign.explanation import check_explainable

        check_explainable(classify.method)
    if file is not None:
        return len(pictures), label_into(file, classify, pictures, top_k)
    rows: list[ReportedImage] | None = None if page is None else []
    failed = _print(_found(classify, pictures, top_k, rows), len(pictures), show)
    if page is not None and rows is not None:
        _write_report(page, classify, rows)
    return len(pictures), failed


def _label_on_cluster(
    names: Sequence[str],
    paths: Sequence[str],
    output: str,
    top_k: int,
    cluster: clusters.ClusterOptions,
    encoder_options: common.EncoderOptions,
    settings: dict[str, Any],
) -> tuple[int, int]:
    """Label pictures on a Ray cluster; give how many there are, and how many could not be read."""
    from crossalign.classifier import Classifier
    from crossalign.distributed.labels import label_images

    # What is no list, pattern or folder of this machine's may be an address that only workers reach.
    files = [file for path in paths for file in (common.find_images([path]) if _is_many(path) else [path])]
    encoder = common.load_encoder(settings.pop("encoder"), cluster.for_driver(encoder_options))
    classify = Classifier(names, encoder=encoder, **settings, **common.for_many_labels(names))
    with clusters.joined(cluster, encoder, encoder_options, settings["num_workers"]) as workers:
        return label_images(workers, classify, files, output, top_k, common.progress_bar)


def _is_many(path: str) -> bool:
    return path == "-" or ("://" not in path and glob.has_magic(path) and not Path(path).exists())


def _found(
    classify: Classifier, pictures: Sequence[str], top_k: int, rows: list[ReportedImage] | None
) -> Iterator[Classification]:
    """Classify pictures, and keep what the report shows of each if there is to be one."""
    for image, features in classify.encode(pictures):
        found = classify.result(image, features, top_k)
        if rows is not None:
            from crossalign.explanation import explain
            from crossalign.reports.html import reported_image

            why = None if isinstance(features, InputError) else explain(classify, image, 2, features=features)
            rows.append(reported_image(image, found, why))
        yield found


def _print(results: Iterable[Classification], total: int, show: Callable[[Iterable[Classification]], None]) -> int:
    """Show results with a progress bar, and count those without a label."""
    failed = 0
    with common.progress_bar(total, "pictures") as bar:

        def counted() -> Iterator[Classification]:
            nonlocal failed
            for result in results:
                failed += result.error is not None
                yield result
                bar.update(1)

        show(counted())
    return failed


def _write_report(page: Path, classify: Classifier, rows: Sequence[ReportedImage]) -> None:
    from crossalign.reports.html import images_report
    from crossalign.store.files import write_atomically

    write_atomically(page, images_report(classify, rows).encode("utf-8", "backslashreplace"))
    click.echo(f"report: {page}", err=True)


def _printer(as_json: bool, as_csv: bool) -> Callable[[Iterable[Classification]], None]:
    return _print_json if as_json else _print_csv if as_csv else _print_lines


def _print_json(results: Iterable[Classification]) -> None:
    from crossalign.reports.formats import json_text

    lead = "["
    try:
        for result in results:
            print(f"{lead}\n{json_text(result)}", end="", flush=True)
            lead = ","
    finally:  # A run that is stopped leaves a list that can be read.
        print("\n]" if lead == "," else "[]")


def _print_csv(results: Iterable[Classification]) -> None:
    from crossalign.reports.formats import csv_texts

    for text in csv_texts(results):
        print(text, end="", flush=True)


def _print_lines(results: Iterable[Classification]) -> None:
    for result in results:
        found = ", ".join(f"{p.label} {p.score:.3f} ({100 * p.probability:.1f} %)" for p in result.predictions)
        print(f"{result.image}: {result.error or found}", flush=True)
