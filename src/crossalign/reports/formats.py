"""Classifications as CSV, JSON lines or Parquet, and the settings that decide them."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any, BinaryIO

from crossalign import __version__
from crossalign.classifier import CSV_HEADER, Classification, Classifier
from crossalign.classifier.scorer import LabelScorer
from crossalign.features.pipeline import runtime_key
from crossalign.store.shards import digest_of

GROUP_ROWS = 1 << 16
"""Rows per group of a Parquet file; one group is in memory at a time."""


def csv_texts(results: Iterable[Classification]) -> Iterator[str]:
    """Yield CSV text: first the header, then the rows of each result."""
    text = io.StringIO()
    plain, quoted = (csv.writer(text, lineterminator="\n", quoting=q) for q in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    plain.writerow(CSV_HEADER)
    yield text.getvalue()
    for result in results:
        text.seek(0)
        text.truncate()
        # Some versions of the csv module quote a carriage return only if lines end in one.
        (quoted if "\r" in str(result.image) else plain).writerows(result.rows())
        yield text.getvalue()


def json_text(result: Classification) -> str:
    """Format a result as one line of JSON."""
    return json.dumps(asdict(result), ensure_ascii=False)


def write_csv(results: Iterable[Classification], out: BinaryIO) -> None:
    """Write CSV with a header."""
    out.writelines(text.encode("utf-8", "surrogateescape") for text in csv_texts(results))


def write_jsonl(results: Iterable[Classification], out: BinaryIO) -> None:
    """Write JSON lines, one per image."""
    out.writelines(f"{json_text(result)}\n".encode("utf-8", "surrogateescape") for result in results)


def write_parquet(results: Iterable[Classification], out: BinaryIO) -> None:
    r"""Write Parquet with one row per image and label; bytes of a name that are not UTF-8 are written as \xff."""
    pyarrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    text, number = pyarrow.string(), pyarrow.float64()
    types = (text, pyarrow.int32(), text, number, number, text, text)
    schema = pyarrow.schema(list(zip(CSV_HEADER, types, strict=True)))
    rows = (row for result in results for row in _typed_rows(result))
    with parquet.ParquetWriter(out, schema) as writer:
        while group := list(islice(rows, GROUP_ROWS)):
            columns = zip(zip(*group, strict=True), schema.types, strict=True)
            writer.write_table(pyarrow.table([pyarrow.array(values, kind) for values, kind in columns], schema=schema))


def _typed_rows(result: Classification) -> list[tuple[object, ...]]:
    """The rows of `Classification.rows`, with numbers as numbers and None for missing values."""
    image = _as_text(str(result.image))
    if result.error:
        return [(image, None, None, None, None, _as_text(result.error), None)]
    if result.reason:
        return [(image, None, None, None, None, None, result.reason)]
    return [
        (image, rank, _as_text(prediction.label), prediction.score, prediction.probability, None, None)
        for rank, prediction in enumerate(result.predictions, start=1)
    ]


def _as_text(name: str) -> str:
    r"""Escape the bytes of a name that are not UTF-8 as \xff, because Parquet strings must be UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


WRITERS = {".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}
"""Writers by file name extension."""


def first_change(settings: Mapping[str, Any], before: bytes) -> str | None:
    """Name of the first setting that differs from the JSON of an earlier run; None if all are the same."""
    try:
        earlier = json.loads(before)
        return next((name for name, value in settings.items() if name not in earlier or earlier[name] != value), None)
    except (ValueError, TypeError, RecursionError):
        return next(iter(settings))


def settings_of(classify: Classifier, top_k: int) -> dict[str, Any]:
    """All settings that decide the labels.

    `first_change` reports the first difference only, so a setting that changes others comes before them.
    """
    encoder, scorer = classify.encoder, classify.scorer
    return {
        "crossalign version": __version__,
        "encoder": [encoder.fingerprint, encoder.logit_scale],
        "device": encoder.device.type,
        "runtime": runtime_key(encoder),
        "list of labels": digest_of({"labels": scorer.labels, "others": scorer.others}),
        "method": scorer.method.name,
        "form": scorer.config.form,
        "seed": classify.views.recipe.seed,
        "way to choose views": [classify.views.key, asdict(classify.views.rounds) if classify.views.rounds else None],
        "scale of weights": scorer.config.image_scale,
        "top-k": top_k,
        "set of descriptions": digest_of(_texts(scorer)),
        "set of examples": [scorer.examples.digest, scorer.examples.mixture.share] if scorer.examples else None,
        "calibration": [scorer.config.logit_scale, scorer.threshold, scorer.logit_bias],
    }


def _texts(scorer: LabelScorer) -> dict[str, Any]:
    return {"texts": scorer.texts.texts, "counts": scorer.texts.counts.tolist()} if scorer.texts else {}
