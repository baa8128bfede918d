"""The time for 50 thousand to 1 billion images on a cluster, and the bottleneck: measured, then computed.

1. The time per image is measured on photos of scikit-image: reading and decoding, cropping the views, encoding them.
2. The overhead of Ray and of files is measured on a Ray cluster on this machine, with an encoder that does nothing and
   images of 8 x 8 pixels in Parquet tables: first with 1 % and 10 % of --records, which predict the time for all of them.
   Then all are labelled, and predicted and measured times are printed side by side.
3. Both give the times of the stages for any number of workers, each with as many cores as this script has:

       wall = start + listing + max(driver, reading, workers)
       workers = images x (decode + crop + views x encode + rest) / workers,   driver = tasks x seconds per task

The encoder that does nothing exists in this script only: its labels mean nothing.

    python benchmarks/scale.py --records 1000000 --encoder open_clip:ViT-B-32/random --runtime auto
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
import torch.nn.functional as F
from PIL import Image
from tabulate import tabulate
from torch import Tensor

from crossalign.classifier import Classifier
from crossalign.distributed import Cluster, Workers
from crossalign.distributed._sources import find_files
from crossalign.distributed.labels import PartFolder, label_images
from crossalign.encoders import load_encoder
from crossalign.encoders._runtime import EXAMPLES
from crossalign.images.crops import Preprocessing, ViewRecipe, crop_views
from crossalign.images.decoding import read_image

TABLE_ROWS, PACKED = 1000, 10_000
"""Images per table: in the simulation (few, so that there are many tasks), and in the model."""
SIDE = 8
NETWORK = 1.25e9
"""Bytes a second that a node reads, at 10 Gbit/s: an assumption, and no measurement."""
IMAGE_BYTES = 150e3
"""Of a photo of half a megapixel in JPEG: an assumption."""


class Nothing:
    """An encoder that does nothing: the feature of an image is its pixels, that of a text is random, seeded by its hash."""

    name, width, logit_scale, fingerprint = "nothing", 3 * SIDE * SIDE, 100.0, "0" * 32
    device = torch.device("cpu")
    preprocessing = Preprocessing((SIDE, SIDE), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Normalise pixels (B, 3, 8, 8)."""
        return F.normalize(self.preprocessing.normalise(pixels).flatten(1), dim=-1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Draw features (K, 192)."""
        seeds = (sum(text.encode()) for text in texts)
        return F.normalize(torch.stack([torch.randn(self.width, generator=_seeded(seed)) for seed in seeds]), dim=-1)


def load_nothing() -> Any:
    """Load it on a worker."""
    return Nothing()


class Idle:
    """A worker that does nothing."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Answer at once."""
        return {"error": ""}


@dataclass(frozen=True)
class Costs:
    """Seconds: to list a file, per task on the driver, per image in a worker without encoding, and to start."""

    listing: float
    task: float
    image: float
    start: float


def main() -> None:
    """Measure, predict, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000, help="images of the largest simulation")
    parser.add_argument("--encoder", default="open_clip:ViT-B-32/random")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2, help="of the simulation")
    options = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    encode, cut, read = image_costs(options.encoder, options.runtime, options.views)
    print(f"{options.encoder}, {torch.get_num_threads()} threads: {1000 * encode:.1f} ms to encode a view;")
    print(f"{1000 * cut:.1f} ms to crop an image's {options.views} views, {1000 * read:.1f} ms to read and decode it\n")
    encoder: Any = Nothing()
    with (
        tempfile.TemporaryDirectory(prefix="crossalign-scale-") as root,
        Cluster(encoder, load_nothing, Workers(options.workers), address="local") as cluster,
    ):
        folder = Path(root)
        classify = Classifier(["cat", "dog", "cup"], encoder=encoder, method="clip")
        run = partial(simulate, cluster, classify)
        small, large = options.records // 10, options.records
        task = seconds_a_task(cluster)
        few, many = (make_tables(folder / f"{records}", records) for records in (small, large))
        listing = timed(lambda: find_files([str(many)])) / len(list(many.iterdir()))
        # Two small runs give the time to start and the time per image.
        tiny = make_tables(folder / "tiny", small // 10)
        first, second = run(tiny, folder / "a", small // 10), run(few, folder / "b", small)
        each = (second - first) / (small - small // 10)
        costs = Costs(listing, task, each * options.workers, second - each * small)
        predicted, measured = costs.start + each * large, run(many, folder / "c", large)
    print(f"Ray: {1000 * task:.2f} ms a task, {1e6 * listing:.0f} us to list a file, start {costs.start:.1f} s")
    rows = [
        [f"{small // 10:,}", "", f"{first:.1f} s"],
        [f"{small:,}", "", f"{second:.1f} s"],
        [f"{large:,}", f"{predicted:.1f} s", f"{measured:.1f} s"],
    ]
    print(tabulate(rows, ["records of 8 x 8 pixels", "predicted", "measured"], tablefmt="github", disable_numparse=True))
    print(f"\n{large / measured:,.0f} records/s on {options.workers} workers that do all but encode\n")
    print(model(costs, encode, cut + read, options.views))


def image_costs(spec: str, runtime: str, views: int) -> tuple[float, float, float]:
    """Measure the seconds to encode a view, to crop the views of an image, and to read an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Random weights take as long as trained ones.
        encoder = load_encoder(spec, "cpu", runtime=runtime, precision=None)
    photos = [str(resources.files("skimage") / "data" / name) for name in EXAMPLES]
    recipe = ViewRecipe(views, (0.1, 0.9), 0)
    images = [read_image(photo) for photo in photos]
    read = timed(lambda: [read_image(photo) for photo in photos]) / len(photos)
    cut = timed(lambda: [crop_views(image, recipe, encoder.preprocessing) for image in images]) / len(photos)
    pixels = crop_views(images[0], ViewRecipe(15, (0.1, 0.9), 0), encoder.preprocessing)
    encoder.encode_images(pixels)
    return timed(lambda: encoder.encode_images(pixels)) / len(pixels), cut, read


def seconds_a_task(cluster: Cluster, tasks: int = 2000) -> float:
    """Measure what a task costs beyond what is done in it."""
    few, many = (timed(partial(lambda n: list(cluster.map(Idle, (), range(n))), n)) for n in (tasks // 10, tasks))
    return (many - few) / (tasks - tasks // 10)


def simulate(cluster: Cluster, classify: Classifier, tables: Path, output: Path, records: int) -> float:
    """Label all records, and give the seconds."""
    seconds = timed(lambda: label_images(cluster, classify, [str(tables)], str(output)))
    assert PartFolder(str(output)).count() == (records, 0)
    return seconds


def make_tables(folder: Path, records: int) -> Path:
    """Write tables of small images."""
    generator = np.random.default_rng(0)
    images = []
    for _ in range(64):
        content = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(content, "PNG")
        images.append(content.getvalue())
    folder.mkdir()
    for start in range(0, records, TABLE_ROWS):
        rows = [images[row % 64] for row in range(start, min(start + TABLE_ROWS, records))]
        pyarrow.parquet.write_table(pyarrow.table({"bytes": rows}), folder / f"{start:09d}.parquet")
    return folder


def model(costs: Costs, encode: float, image: float, views: int) -> str:
    """Lay out the stages' times for three sizes, each on a few sizes of cluster."""
    rows = []
    for images, workers in ((50_000, 1), (50_000, 16), (10**7, 16), (10**7, 1024), (10**9, 1024), (10**9, 16_384)):
        packs = -(-images // PACKED)
        stages = {
            "listing": packs * costs.listing,
            "driver": packs * costs.task,
            "reading": images * IMAGE_BYTES / (NETWORK * max(1, workers // 8)),
            "decoding and cropping": images * image / workers,
            "encoding": images * (1 + views) * encode / workers,
            "writing and the rest": images * costs.image / workers,
        }
        in_workers = sum(seconds for stage, seconds in stages.items() if stage not in ("listing", "driver", "reading"))
        wall = costs.start + stages["listing"] + max(stages["driver"], stages["reading"], in_workers)
        most = max(stages, key=lambda stage: stages[stage])
        rows.append([f"{images:,}", f"{workers:,}", *map(duration, stages.values()), duration(wall), most])
    headers = ["images", "workers", *stages, "wall", "bottleneck"]
    return str(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


def duration(seconds: float) -> str:
    """Say seconds in the unit that suits them."""
    for size, unit in ((86400 * 3, "d"), (3600 * 3, "h"), (180, "min")):
        if seconds >= size:
            return f"{seconds / {'d': 86400, 'h': 3600, 'min': 60}[unit]:,.1f} {unit}"
    return f"{seconds:.1f} s"


def timed(work: Any) -> float:
    """Give the seconds that something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    main()
