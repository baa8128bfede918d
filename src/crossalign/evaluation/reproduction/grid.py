"""The grid of `crossalign reproduce`: each dataset with each encoder is measured once, into a results file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crossalign import __version__
from crossalign.datasets import ClassNames, ImageDataset
from crossalign.datasets.configs import TREE_FIELDS, Config
from crossalign.encoders import Encoder, load_encoder
from crossalign.errors import InputError
from crossalign.evaluation.evaluate import evaluate
from crossalign.evaluation.protocols import Protocol
from crossalign.evaluation.reproduction import sources
from crossalign.evaluation.reproduction.published import PublishedTable
from crossalign.evaluation.tables import read_results
from crossalign.features.pipeline import Progress, silent
from crossalign.methods.alignment import Form
from crossalign.methods.registry import pick_methods
from crossalign.store.files import write_atomically
from crossalign.store.shards import Store
from crossalign.text.descriptions import Descriptions, Style

FORM: Form = "released"
PROTOCOL: Protocol = "released"
"""The form of the score, and the views and texts, of the programs that gave the published accuracies."""


@dataclass(frozen=True)
class GridCell:
    """One dataset with one encoder.

    Attributes:
        table: the paper's table that has this dataset.
        config: config of the dataset.
        encoder: spec for `load_encoder`.
        methods: names of the methods to measure.
    """

    table: PublishedTable
    config: Config
    encoder: str
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """Settings of a grid.

    Attributes:
        data_root: folder of the datasets.
        output: folder of the results files.
        descriptions: description files, or folders of them.
        description_style: kind of their texts; by default as the files state, or as the texts show.
        class_names: as for `load_dataset`.
        allow_missing, seed, num_workers: as for `evaluate`.
        limit: number of images per dataset, spread evenly; all if None.
        device: as for `load_encoder`.
        store: folder where features are cached; the default store if None.
    """

    data_root: Path
    output: Path
    descriptions: tuple[Path, ...] = ()
    description_style: Style | None = None
    class_names: ClassNames = "published"
    allow_missing: bool = False
    seed: int = 0
    limit: int | None = None
    device: str = "auto"
    num_workers: int = 2
    store: str | None = None


@dataclass
class Outcome:
    """The outcome of a grid.

    Attributes:
        done: the measured cells, each with the content of its results file.
        missing: one sentence for each dataset or encoder that is missing.
        failed: one sentence for each dataset or cell that raised an error.
    """

    done: list[tuple[GridCell, dict[str, Any]]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def run_grid(
    cells: Sequence[GridCell], settings: Settings, say: Callable[[str], None] = print, progress: Progress = silent
) -> Outcome:
    """Measure all cells whose dataset and encoder are available; cells measured before are read from their results files.

    Encoders are loaded one at a time, so that only one is in memory.

    Args:
        cells: see `plan`.
        settings: how to measure them, and where files are.
        say: called with one line per cell.
        progress: shown while images are encoded and scored.
    """
    outcome = Outcome()
    datasets = _datasets(cells, settings, outcome)
    for spec in dict.fromkeys(cell.encoder for cell in cells):
        ready = [cell for cell in cells if cell.encoder == spec and cell.config.name in datasets]
        if not ready:
            continue
        try:
            encoder = load_encoder(spec, settings.device)
        except InputError as error:
            outcome.missing.append(f"encoder {spec}: {error}")
            continue
        for cell in ready:
            try:
                content = _measure(cell, datasets[cell.config.name], encoder, settings, say, progress)
            except InputError as error:
                outcome.failed.append(f"{cell.config.name} with {spec}: {error}")
            else:
                outcome.done.append((cell, content))
    outcome.done.sort(key=lambda measured: cells.index(measured[0]))
    return outcome


def results_file(output: Path, dataset: str, encoder: str) -> Path:
    """Path of a cell's results file: OUTPUT/dtd--open_clip-ViT-B-32-openai.json."""
    return output / f"{dataset}--{re.sub(r'[^A-Za-z0-9._]+', '-', encoder)[-150:]}.json"


def _datasets(cells: Iterable[GridCell], settings: Settings, outcome: Outcome) -> dict[str, ImageDataset]:
    datasets = {}
    for config in {cell.config.name: cell.config for cell in cells}.values():
        try:
            dataset = sources.find_dataset(config, settings.data_root, settings.class_names)
        except InputError as error:
            outcome.failed.append(f"{config.name}: {error}")
            continue
        if dataset is None:
            outcome.missing.append(sources.how_to_get(config, settings.data_root))
        else:
            datasets[config.name] = dataset.limit(settings.limit) if settings.limit else dataset
    return datasets


def _measure(
    cell: GridCell,
    dataset: ImageDataset,
    encoder: Encoder,
    settings: Settings,
    say: Callable[[str], None],
    progress: Progress,
) -> dict[str, Any]:
    """Read a cell's results file, or evaluate the cell and write the file."""
    descriptions = sources.find_descriptions(cell.config, settings.descriptions, settings.description_style)
    made_of = _made_of(cell.config, dataset, encoder, descriptions, settings)
    file = results_file(settings.output, dataset.name, encoder.name)
    name = f"{dataset.name} with {encoder.name}"
    if file.exists():
        content, reason = _read_if_same(file, made_of, cell.methods)
        if content is not None:
            say(f"{name}: read from {file}")
            return content
        say(f"{name}: measured again, because {file} {reason}")
    else:
        say(f"{name}: {len(dataset.paths)} images, {len(dataset.class_names)} classes")
    evaluation = evaluate(
        dataset,
        encoder,
        cell.config,
        pick_methods(cell.methods),
        descriptions=descriptions,
        protocol=PROTOCOL,
        store=Store(settings.store),
        seed=settings.seed,
        form=FORM,
        allow_missing=settings.allow_missing,
        num_workers=settings.num_workers,
        progress=progress,
    )
    content = evaluation.to_dict() | {"made_of": made_of}
    write_atomically(file, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return content


def _read_if_same(file: Path, made_of: dict[str, Any], methods: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    """Read a results file if it was measured with the same inputs and has all methods; otherwise (None, the reason)."""
    try:
        content = read_results(file)
    except InputError:
        return None, "cannot be read"
    before = content.get("made_of")
    if not isinstance(before, dict):
        return None, "does not say which inputs it was measured with"
    if differing := [key for key in made_of if before.get(key) != made_of[key]]:
        return None, f"differs in {', '.join(differing)}"
    rows = {row["method"]: row for row in content["results"]}
    if missing := [method for method in methods if method not in rows]:
        return None, f"lacks {', '.join(missing)}"
    return content | {"results": [rows[method] for method in methods]}, ""


def _made_of(
    config: Config, dataset: ImageDataset, encoder: Encoder, descriptions: Sequence[Descriptions], settings: Settings
) -> dict[str, Any]:
    """Collect all inputs that decide a cell's results, as they are after a round trip through JSON."""
    texts = [(given.style, sorted(given.classes.items())) for given in descriptions]
    # Left out: fields that hold paths, that the facts below include, or that change speed only.
    left_out = (*TREE_FIELDS, "classes", "descriptions", "encoder", "crop_scale_written")
    facts = {key: value for key, value in asdict(config).items() if key not in left_out} | {
        "version": __version__,
        "dataset": dataset.fingerprint,
        "class_names": _digest(dataset.class_names),
        "names": settings.class_names,
        "encoder": [encoder.name, encoder.fingerprint],
        "descriptions": _digest(texts),
        "allow_missing": settings.allow_missing,
        "seed": settings.seed,
        "form": FORM,
        "protocol": PROTOCOL,
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def _digest(content: object) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def plan(
    tables: Sequence[PublishedTable],
    configs: Sequence[Config],
    encoders: Sequence[str] = (),
    methods: Sequence[str] = (),
) -> list[GridCell]:
    """List the cells, table by table.

    Args:
        tables: tables of the paper.
        configs: configs of datasets; each belongs to the table that has it.
        encoders: specs; those of the table if empty.
        methods: names; those of the table if empty.
    """
    return [
        GridCell(table, config, spec, tuple(methods or table.methods))
        for table in tables
        for config in configs
        if config.name in table.images
        for spec in dict.fromkeys(encoders) or [f"open_clip:{arch}/openai" for arch in table.encoders]
    ]
