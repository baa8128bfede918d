"""`crossalign classify`: labels for one's own images."""

from __future__ import annotations

import glob
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from crossalign.cli import _cluster as clusters
from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.cli._descriptions import descriptions_options, say_descriptions
from crossalign.cli._help import GroupedCommand
from crossalign.errors import InputError
from crossalign.images.finding import is_packed
from crossalign.text.labels import split_labels

if TYPE_CHECKING:
    from crossalign.classifier import Classification, Classifier
    from crossalign.encoders import Encoder
    from crossalign.methods.alignment import Form
    from crossalign.reports.html import ReportedImage
    from crossalign.reports.sorting import SortedFolders
    from crossalign.store.shards import Store
    from crossalign.text.descriptions import Style


@dataclass(frozen=True)
class Options:
    """The values of the command's arguments and options."""

    paths: tuple[str, ...]
    labels: str | None
    labels_file: str | None
    examples: str | None
    other: str | None
    descriptions: str | None
    description_style: Style | None
    allow_missing: bool
    domain: str
    method: str
    encoder: str
    views: int | Literal["adaptive"] | None
    max_views: int | None
    confidence: float | None
    form: Form
    seed: int
    top_k: int
    as_json: bool
    as_csv: bool
    output: str | None
    report: str | None
    sort_into: str | None
    copy: bool
    calibration_file: str | None
    multi_label: bool
    threshold: float | None
    store: str | None
    no_store: bool
    num_workers: int
    encoder_options: common.EncoderOptions
    cluster: clusters.ClusterOptions


@click.command(cls=GroupedCommand)
@click.argument("paths", nargs=-1, required=True)
@common.label_options
@click.option("--other", help="Further class names that compete, but are no answer: such an image gets no label.")
@descriptions_options
@click.option("--domain", default="", help='Kind of thing that all labels are, such as "pet".')
@click.option("--method", default="wca", show_default=True, help="See `crossalign methods`.")
@click.option("--encoder", default="builtin", show_default=True, help="See `crossalign encoders`.")
@click.option(
    "--views",
    type=common.count_or_adaptive,
    metavar="COUNT|adaptive",
    help="Local views per image. adaptive: as many as its answer takes [default: adaptive if the method can, otherwise 60].",
)
@click.option("--max-views", type=click.IntRange(1), help="The most adaptive views per image [default: 60].")
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, max_open=True),
    help="Of adaptive views: how likely an answer is to be that of all views [default: 0.99].",
)
@common.form_option
@common.seed_option
@click.option(
    "--calibration",
    "calibration_file",
    type=click.Path(),
    help="File of `crossalign evaluate --calibration-file`: probabilities are calibrated, and an image below the threshold "
    "gets no label (unsure).",
)
@click.option(
    "--multi-label", is_flag=True, help="Give each label its own probability; for encoders trained with a sigmoid (SigLIP)."
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Least probability of an answer [default: from --calibration; 0.5 with --multi-label; otherwise 0].",
)
@click.option("--top-k", default=3, show_default=True, type=click.IntRange(1), help="Labels shown per image.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one row per image and label.")
@click.option("--output", type=click.Path(), help="Write FILE.csv, .jsonl or .parquet, once all labels are there.")
@click.option("--report", type=click.Path(), help="Write an HTML page of images, labels and reasons.")
@click.option(
    "--sort-into",
    type=click.Path(),
    help="Hard link each image into DIR/LABEL, or DIR/unsure. Nothing is moved or overwritten; another run adds new images.",
)
@click.option("--copy", is_flag=True, help="With --sort-into: copy the images instead of linking them.")
@common.store_option
@click.option("--no-store", is_flag=True, help="Cache nothing of the images and labels; a stopped run starts anew.")
@common.workers_option
@common.encoder_options
@clusters.executor_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Label images: files, folders, patterns, or - for a list on standard input.

    An image that cannot be read gets its reason in the output, and the others go on; the exit code is then 1, and 0
    otherwise.

    Features of images are cached by the content of the file. If a run is stopped, the same command goes on where it was; and
    other labels, descriptions or methods for the same images take seconds.

    With --executor ray a Ray cluster labels, and PATHS may also be tars or Parquet tables of images, on any file system
    (s3://bucket/prefix). The output is a folder of Parquet files; there, too, the same command goes on after a stop.

    \b
    Examples:
      crossalign classify cat.jpg --labels "cat,dog,cup of coffee"
      crossalign classify holiday/ --labels-file labels.txt --csv > labels.csv
      crossalign classify archive/ --labels-file labels.txt --output labels.parquet
      crossalign classify holiday/ --labels-file labels.txt --report report.html
      crossalign classify new/ --examples sorted/                      # labels are the folders of sorted/
      crossalign classify holiday/ --labels "beach,city" --other "document,screenshot" --sort-into sorted/
      find . -name "*.jpg" | crossalign classify - --labels "beach,forest,city" --json
      crossalign classify s3://photos/2024 --labels-file labels.txt --executor ray --output s3://photos/2024-labels.parquet
    """
    options = Options(**values)
    _check(options)
    names = common.read_known_labels(options.labels, options.labels_file, options.examples)
    if options.cluster.ray:
        total, failed = _label_on_cluster(options, names)
    else:
        total, failed = _label_here(options, names)
    if options.output is not None:
        click.echo(f"labels: {options.output}", err=True)
    if failed:
        click.echo(f"{failed} of {total} images could not be read", err=True)
        ctx.exit(1)


def _check(options: Options) -> None:
    if options.as_json and options.as_csv:
        raise click.UsageError("--json and --csv exclude each other; give one of them")
    if options.output is not None and (options.as_json or options.as_csv or options.report is not None):
        raise click.UsageError("--output excludes --json, --csv and --report; give one of them, or run the command twice")
    for option, value in (("--max-views", options.max_views), ("--confidence", options.confidence)):
        if value is not None and options.views not in (None, "adaptive"):
            raise click.UsageError(f"{option} belongs to --views adaptive; omit it, or --views {options.views}")
    if options.copy and options.sort_into is None:
        raise click.UsageError("--copy belongs to --sort-into DIR; add that, or omit --copy")
    if options.sort_into is not None and options.cluster.ray:
        raise click.UsageError("--sort-into works on this machine only; omit it, or --executor ray")
    if options.no_store and options.store:
        raise click.UsageError("--store and --no-store exclude each other; give one of them")
    options.cluster.check()
    if options.cluster.ray and not (options.output or "").lower().partition("?")[0].endswith(".parquet"):
        raise InputError(
            f"output is {options.output!r}, but a cluster writes a folder of Parquet files; give --output F.parquet"
        )


def _classifier(options: Options, names: list[str] | None, encoder: Encoder, store: Store | None) -> Classifier:
    from crossalign.classifier import Classifier

    adaptive = {"max_views": options.max_views, "confidence": options.confidence}
    classify = Classifier(
        names,
        measuring.styled_descriptions(options.descriptions, options.description_style),
        encoder,
        options.method,
        examples=options.examples,
        other=split_labels(options.other, "--other") if options.other else (),
        allow_missing=options.allow_missing,
        domain=options.domain,
        views=options.views,
        form=options.form,
        seed=options.seed,
        calibration=options.calibration_file,
        multi_label=options.multi_label,
        threshold=options.threshold,
        num_workers=options.num_workers,
        store=store,
        progress=common.progress_bar,
        **{name: value for name, value in adaptive.items() if value is not None},  # type: ignore[arg-type]
    )
    say_descriptions(options.descriptions, classify)
    if classify.scorer.examples:
        click.echo(f"examples: {classify.scorer.examples.mixture}", err=True)
    return classify


def _label_here(options: Options, names: list[str] | None) -> tuple[int, int]:
    """Label images in this process; return how many there are, and how many could not be read."""
    _check_outside(options)
    images = common.find_images(options.paths)
    if packed := next((path for path in images if is_packed(path)), None):
        raise InputError(
            f"{packed!r} is a tar or table of images, which --executor ray reads; add that and --output FOLDER.parquet, "
            "or unpack it"
        )
    page = common.check_output(options.report) if options.report else None
    file = _labels_file(options.output) if options.output else None
    store = None if options.no_store else common.open_store(options.store)
    classify = _classifier(options, names, common.load_encoder(options.encoder, options.encoder_options), store)
    rows: list[ReportedImage] = []
    if page is not None:
        from crossalign.explanation import check_explainable

        check_explainable(classify.scorer)
        results = _reported(classify, images, options.top_k, rows)
    else:
        results = classify.stream(images, options.top_k)
    folders = _folders(options, classify)
    if folders is not None:
        results = _placed(results, folders)
    failed = _count_failed(results, len(images), _writer(file) if file else _printer(options))
    if cached := classify.cached_images:
        click.echo(f"features of {cached:,} of {len(images):,} images came from the store", err=True)
    if folders is not None:
        click.echo(str(folders), err=True)
    if page is not None:
        _write_report(page, classify, rows)
    return len(images), failed


def _label_on_cluster(options: Options, names: list[str] | None) -> tuple[int, int]:
    """Label images on a Ray cluster; return how many there are, and how many could not be read."""
    from crossalign.distributed.labels import label_images

    # What is no list, pattern or folder on this machine may be an address that only workers reach.
    files = [file for path in options.paths for file in (common.find_images([path]) if _is_many(path) else [path])]
    encoder = common.load_encoder(options.encoder, options.cluster.for_driver(options.encoder_options))
    store = None if options.no_store else common.open_store(options.store)
    classify = _classifier(options, names, encoder, store)
    with clusters.joined(options.cluster, encoder, options.encoder_options, options.num_workers) as workers:
        return label_images(workers, classify, files, str(options.output), options.top_k, common.progress_bar)


def _is_many(path: str) -> bool:
    return path == "-" or ("://" not in path and glob.has_magic(path) and not Path(path).exists())


def _labels_file(path: str) -> Path:
    """Make sure, before long work, that labels can be written there.

    Raises:
        InputError: another ending than the three, pyarrow is missing, or the folder is.
    """
    from crossalign.reports.formats import WRITERS

    file = common.check_output(path)
    ending = file.suffix.lower()
    if ending not in WRITERS:
        raise InputError(f"output {path!r} ends in none of {', '.join(WRITERS)}; give it one of these endings")
    if ending == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError("writing .parquet needs pyarrow; run `pip install pyarrow`, or write .csv or .jsonl")
    return file


def _check_outside(options: Options) -> None:
    """Refuse to sort into one of the folders that are read, where a second run would read its own links."""
    for path in options.paths if options.sort_into is not None else ():
        inside = Path(str(options.sort_into)).resolve()
        if Path(path).is_dir() and inside.is_relative_to(Path(path).resolve()):
            raise InputError(f"--sort-into {options.sort_into!r} is inside {path!r}, which is read; name another")


def _folders(options: Options, classify: Classifier) -> SortedFolders | None:
    if options.sort_into is None:
        return None
    from crossalign.reports.sorting import SortedFolders

    return SortedFolders(Path(options.sort_into), classify.labels, options.copy)


def _placed(results: Iterable[Classification], folders: SortedFolders) -> Iterator[Classification]:
    for result in results:
        folders.place(result)
        yield result


def _reported(
    classify: Classifier, images: Sequence[str], top_k: int, rows: list[ReportedImage]
) -> Iterator[Classification]:
    """Label images, and add to `rows` what the report shows of each."""
    from crossalign.explanation import explain
    from crossalign.reports.html import Thumbnails, reported_image

    thumbnails = Thumbnails()
    for image, features in classify.encode(images, thumbnails.add):
        result = classify.result(image, features, top_k)
        if isinstance(features, InputError):
            rows.append(reported_image(result))
        else:
            thumbnail, size = thumbnails.take(image)
            rows.append(reported_image(result, thumbnail, explain(classify, image, 2, features=features, size=size)))
        yield result


def _count_failed(results: Iterable[Classification], total: int, show: Callable[[Iterable[Classification]], None]) -> int:
    """Show results with a progress bar, and count the images that could not be read."""
    failed = 0
    with common.progress_bar(total, "images") as bar:

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


def _writer(file: Path) -> Callable[[Iterable[Classification]], None]:
    from crossalign.reports.formats import WRITERS
    from crossalign.store.files import atomic_file, remove_parts

    def write(results: Iterable[Classification]) -> None:
        remove_parts(file)
        with atomic_file(file) as out:
            WRITERS[file.suffix.lower()](results, out)

    return write


def _printer(options: Options) -> Callable[[Iterable[Classification]], None]:
    return _print_json if options.as_json else _print_csv if options.as_csv else _print_lines


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
        scores = ", ".join(f"{p.label} {p.score:.3f} ({100 * p.probability:.1f} %)" for p in result.predictions)
        reason = f"{result.reason}; nearest: " if result.reason else ""
        print(f"{result.image}: {result.error or reason + scores}", flush=True)
