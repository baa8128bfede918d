"""How long 50 thousand, 10 million and 1 billion pictures take on a cluster, and what holds it: measured, then computed.

1. What a picture costs is measured here, on photos of scikit-image: reading and decoding, cutting its views, encoding them.
2. What Ray and the files around it cost is measured on a Ray of this machine, with an encoder that costs nothing and
   pictures of 8 x 8 pixels in Parquet tables: with a hundredth and a tenth of --records, which predict all of --records,
   which are then labelled in fact. The two stand side by side.
3. From both follow the times of the stages for any number of workers, each with as many cores as this script has:

       wall = start + listing + max(driver, reading, workers)
       workers = pictures x (decode + cut + views x encode + rest) / workers,   driver = tasks x seconds a task

The encoder that costs nothing is for this script alone: its labels mean nothing.

    python benchmarks/scale.py --records 1000000 --encoder open_clip:ViT-B-32/random --runtime auto
"""

from __future__ import annotations

import argparse
import io
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
from crossalign.images.crops import Preprocessing, ViewRecipe, cut_views
from crossalign.images.decoding import read_image

TABLE_ROWS, PACKED = 1000, 10_000
"""Pictures a table: in the simulation, so that few records make many tasks, and in the model."""
SIDE = 8
NETWORK = 1.25e9
"""Bytes a second that a node reads, at 10 Gbit/s: an assumption, and no measurement."""
PICTURE_BYTES = 150e3
"""Of a photo of half a megapixel in JPEG: an assumption."""


class Nothing:
    """An encoder that costs nothing: a picture's feature is its pixels, a text's is drawn by its hash."""

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
    """Seconds: of listing a file, of a task on the driver, of a picture in a worker but for its encoding, of the start."""

    listing: float
    task: float
    picture: float
    start: float


def main() -> None:
    """Measure, predict, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000, help="pictures of the largest simulation")
    parser.add_argument("--encoder", default="open_clip:ViT-B-32/random")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2, help="of the simulation")
    options = parser.parse_args()
    encode, cut, read = picture_costs(options.encoder, options.runtime, options.views)
    print(f"{options.encoder}, {torch.get_num_threads()} threads: {1000 * encode:.1f} ms to encode a view;")
    print(f"{1000 * cut:.1f} ms to cut a picture's {options.views} views, {1000 * read:.1f} ms to read and decode it\n")
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
        # Two small runs tell the start and what each picture adds.
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


def picture_costs(spec: str, runtime: str, views: int) -> tuple[float, float, float]:
    """Measure seconds: encoding a view; cutting a picture's views; reading a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Random weights take as long as trained ones.
        encoder = load_encoder(spec, "cpu", runtime=runtime, precision=None)
    photos = [str(resources.files("skimage") / "data" / name) for name in EXAMPLES]
    recipe = ViewRecipe(views, (0.1, 0.9), 0)
    images = [read_image(photo) for photo in photos]
    read = timed(lambda: [read_image(photo) for photo in photos]) / len(photos)
    cut = timed(lambda: [cut_views(image, recipe, encoder.preprocessing) for image in images]) / len(photos)
    pixels = cut_views(images[0], ViewRecipe(15, (0.1, 0.9), 0), encoder.preprocessing)
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
    """Write tables of small pictures."""
    generator = np.random.default_rng(0)
    pictures = []
    for _ in range(64):
        content = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(content, "PNG")
        pictures.append(content.getvalue())
    folder.mkdir()
    for start in range(0, records, TABLE_ROWS):
        rows = [pictures[row % 64] for row in range(start, min(start + TABLE_ROWS, records))]
        pyarrow.parquet.write_table(pyarrow.table({"bytes": rows}), folder / f"{start:09d}.parquet")
    return folder


def model(costs: Costs, encode: float, picture: float, views: int) -> str:
    """Lay out the stages' times for three sizes, each on a few sizes of cluster."""
    rows = []
    for pictures, workers in ((50_000, 1), (50_000, 16), (10**7, 16), (10**7, 1024), (10**9, 1024), (10**9, 16_384)):
        packs = -(-pictures // PACKED)
        stages = {
            "listing": packs * costs.listing,
            "driver": packs * costs.task,
            "reading": pictures * PICTURE_BYTES / (NETWORK * max(1, workers // 8)),
            "decoding and cutting": pictures * picture / workers,
            "encoding": pictures * (1 + views) * encode / workers,
            "writing and the rest": pictures * costs.picture / workers,
        }
        in_workers = sum(seconds for stage, seconds in stages.items() if stage not in ("listing", "driver", "reading"))
        wall = costs.start + stages["listing"] + max(stages["driver"], stages["reading"], in_workers)
        most = max(stages, key=lambda stage: stages[stage])
        rows.append([f"{pictures:,}", f"{workers:,}", *map(duration, stages.values()), duration(wall), most])
    headers = ["pictures", "workers", *stages, "wall", "bottleneck"]
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
