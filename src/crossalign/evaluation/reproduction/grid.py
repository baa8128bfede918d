"""Run the grid: each pair of a dataset and an encoder is a cell, measured once and kept as a results file."""

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
from crossalign.store.files import write_whole
from crossalign.store.shards import Store
from crossalign.text.descriptions import Descriptions, Style

FORM: Form = "released"
PROTOCOL: Protocol = "released"
"""The form of the score, and what the methods saw, of the programs that gave the published figures."""


@dataclass(frozen=True)
class Cell:
    """One dataset with one encoder.

    Attributes:
        table: where the paper prints it.
        config: the dataset's.
        encoder: a spec for `load_encoder`.
        methods: what is measured.
    """

    table: PublishedTable
    config: Config
    encoder: str
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """How cells are measured, and where things lie.

    Attributes:
        data_root: the folder of the datasets.
        output: the folder of the results.
        descriptions: files or folders of descriptions.
        description_style: what their texts are; by default as they state, or as the texts tell.
        class_names: as for `load_dataset`.
        allow_missing, seed, num_workers: as for `evaluate`.
        limit: pictures a dataset, spread evenly; all if None.
        device: as for `load_encoder`.
        store: where features are kept; the default one if None.
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
    """What came of a grid.

    Attributes:
        done: the cells that ran or were read, each with its results file's content.
        missing: a sentence for each dataset or encoder that is not there.
        failed: a sentence for each dataset or cell that is there and did not run.
    """

    done: list[tuple[Cell, dict[str, Any]]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def run_grid(
    cells: Sequence[Cell], settings: Settings, say: Callable[[str], None] = print, progress: Progress = silent
) -> Outcome:
    """Measure the cells whose dataset and encoder are there, or read them where they were measured before.

    Encoders are loaded one after another, so that only one is in memory.
    """
    outcome = Outcome()
    datasets = _datasets(cells, settings, outcome)
    for spec in dict.fromkeys(cell.encoder for cell in cells):
        here = [cell for cell in cells if cell.encoder == spec and cell.config.name in datasets]
        if not here:
            continue
        try:
            encoder = load_encoder(spec, settings.device)
        except InputError as error:
            outcome.missing.append(f"encoder {spec}: {error}")
            continue
        for cell in here:
            try:
                content = _measure(cell, datasets[cell.config.name], encoder, settings, say, progress)
            except InputError as error:
                outcome.failed.append(f"{cell.config.name} with {spec}: {error}")
            else:
                outcome.done.append((cell, content))
    outcome.done.sort(key=lambda found: cells.index(found[0]))
    return outcome


def results_file(output: Path, dataset: str, encoder: str) -> Path:
    """Name a cell's results file: OUTPUT/dtd--open_clip-ViT-B-32-openai.json."""
    return output / f"{dataset}--{re.sub(r'[^A-Za-z0-9._]+', '-', encoder)[-150:]}.json"


def _datasets(cells: Iterable[Cell], settings: Settings, outcome: Outcome) -> dict[str, ImageDataset]:
    found = {}
    for config in {cell.config.name: cell.config for cell in cells}.values():
        try:
            dataset = sources.find_dataset(config, settings.data_root, settings.class_names)
        except InputError as error:
            outcome.failed.append(f"{config.name}: {error}")
            continue
        if dataset is None:
            outcome.missing.append(sources.how_to_get(config, settings.data_root))
        else:
            found[config.name] = dataset.limit(settings.limit) if settings.limit else dataset
    return found


def _measure(
    cell: Cell, dataset: ImageDataset, encoder: Encoder, settings: Settings, say: Callable[[str], None], progress: Progress
) -> dict[str, Any]:
    """Read a cell's results file, or evaluate and write it."""
    descriptions = sources.find_descriptions(cell.config, settings.descriptions, settings.description_style)
    made_of = _made_of(cell.config, dataset, encoder, descriptions, settings)
    file = results_file(settings.output, dataset.name, encoder.name)
    called = f"{dataset.name} with {encoder.name}"
    if file.exists():
        kept, reason = _kept(file, made_of, cell.methods)
        if kept is not None:
            say(f"{called}: read from {file}")
            return kept
        say(f"{called}: measured anew, since {file} {reason}")
    else:
        say(f"{called}: {len(dataset.paths)} images, {len(dataset.class_names)} classes")
    done = evaluate(
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
    content = done.to_dict() | {"made_of": made_of}
    write_whole(file, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return content


def _kept(file: Path, made_of: dict[str, Any], methods: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    """Read a results file if it was made of the same and holds all methods; else say what is amiss."""
    try:
        content = read_results(file)
    except InputError:
        return None, "cannot be read"
    before = content.get("made_of")
    if not isinstance(before, dict):
        return None, "does not say what it was made of"
    if other := [key for key in made_of if before.get(key) != made_of[key]]:
        return None, f"differs in {', '.join(other)}"
    rows = {row["method"]: row for row in content["results"]}
    if lacking := [method for method in methods if method not in rows]:
        return None, f"lacks {', '.join(lacking)}"
    return content | {"results": [rows[method] for method in methods]}, ""


def _made_of(
    config: Config, dataset: ImageDataset, encoder: Encoder, descriptions: Sequence[Descriptions], settings: Settings
) -> dict[str, Any]:
    """Collect all that decides a cell's results, as JSON gives it back."""
    texts = [(given.style, sorted(given.classes.items())) for given in descriptions]
    # What is not in here either only says where things lie, or shows in the facts below, or changes speed alone.
    apart = (*TREE_FIELDS, "classes", "descriptions", "encoder", "crop_scale_written")
    facts = {key: value for key, value in asdict(config).items() if key not in apart} | {
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
) -> list[Cell]:
    """List the cells, table by table.

    Args:
        tables: of the paper.
        configs: of datasets; each belongs to the table that prints it.
        encoders: specs; the table's own if there are none.
        methods: names; the table's own if there are none.
    """
    return [
        Cell(table, config, spec, tuple(methods or table.methods))
        for table in tables
        for config in configs
        if config.name in table.pictures
        for spec in dict.fromkeys(encoders) or [f"open_clip:{arch}/openai" for arch in table.encoders]
    ]
