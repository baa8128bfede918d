"""Time the image encoder on a GPU, by runtime and precision, against the plain loop with its encoder on the GPU.

    python benchmarks/gpu.py --data ../shared/data --json gpu.json
    python benchmarks/gpu.py --device cpu --images 4     # checks that the script works

See benchmarks/speed.py for the reference and for "the limit", which here is the best rate of products of large matrices on
the GPU. Each way to encode is timed twice: `features.pipeline.encode_images` from the files on, and the encoder alone, with
views that were cropped before and are on the GPU. The difference of the two is the time in which the encoder waits.

The aims for ViT-B/32 at 61 views, from JPEG files: the encoder alone in bf16 at 60 % of the limit or more, an encoder that
waits for less than 10 % of the time, and 10 times the reference or more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from crossalign.encoders import Encoder, load_encoder
from crossalign.features.pipeline import encode_images, encode_views
from crossalign.images.crops import crop_views
from crossalign.images.decoding import read_image
from limits import best_rate, view_operations
from speed import RECIPE, VIT, Contest, _files, reference

WAYS = {"f32": ("torch", "f32"), "bf16": ("torch", "bf16")}
ALONE = ", encoder alone"
"""Stands behind the way in a contestant's name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="A folder with oxford_pets370 in it; else photos of scikit-image.")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="Write ratios, times and limits there.")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    encoders = {name: load_encoder(VIT, options.device, runtime=way[0], precision=way[1]) for name, way in WAYS.items()}
    device = encoders["f32"].device
    print(f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else device}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        contest = race(_files(options.data, Path(folder), options.images), encoders)
    limits = find_limits(encoders)
    report(contest, encoders, limits)
    if options.json:
        options.json.write_text(json.dumps(_content(contest, encoders, limits), indent=2))


def race(files: Sequence[Path], encoders: dict[str, Encoder], rounds: int = 4) -> Contest:
    """Let all take turns; the first round only makes everything ready."""
    plain = encoders["f32"]
    count = len(files) * (1 + RECIPE.count)
    cut = torch.stack(
        [
            crop_views(read_image(file).to(plain.device), RECIPE, plain.preprocessing, index)
            for index, file in enumerate(files)
        ]
    )

    def plain_loop() -> None:
        reference(files, lambda batch: plain.tower.model(batch.to(plain.device)).cpu(), plain.preprocessing)

    contest = Contest()
    for number in range(rounds + 1):
        if number == 1:
            contest = Contest()
        contest.time("reference", count, plain_loop)
        for way, encoder in encoders.items():
            contest.time(way, count, lambda e=encoder: from_files(files, e))  # type: ignore[misc]
            contest.time(way + ALONE, count, lambda e=encoder: alone(cut, e))  # type: ignore[misc]
    return contest


def from_files(files: Sequence[Path], encoder: Encoder) -> None:
    images = ((str(file), index) for index, file in enumerate(files))
    deque(encode_images(images, encoder, RECIPE, num_workers=os.cpu_count() or 1), maxlen=0)


def alone(views: Tensor, encoder: Encoder) -> None:
    deque(encode_views(encoder, views), maxlen=0)


def find_limits(encoders: dict[str, Encoder]) -> dict[str, float]:
    """Say how long a view's operations take at the device's rate of multiplying matrices, in ms by precision."""
    device, operations = encoders["f32"].device, view_operations(encoders["f32"])
    precisions = dict.fromkeys(encoder.runtime.precision for encoder in encoders.values())
    return {precision: 1000 * operations / gemm_rate(device, precision) for precision in precisions}


def gemm_rate(device: torch.device, precision: str) -> float:
    """Give the best rate of products of large matrices, in operations a second."""
    on_gpu = device.type == "cuda"
    side, times = (8192, 10) if on_gpu else (1024, 1)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    left, right = torch.randn((2, side, side), device=device).to(dtype)

    def multiply() -> None:
        for _ in range(times):
            left @ right
        if on_gpu:
            torch.cuda.synchronize(device)

    return best_rate(multiply, times * 2 * side**3)


def waits(contest: Contest, way: str, name: str) -> float:
    """Give the share of a run's time, from the files on, in which the encoder had nothing to do."""
    return max(0.0, 1 - contest.milliseconds(way + ALONE) / contest.milliseconds(name))


def way_of(name: str) -> str | None:
    """Give the way by which a contestant encodes; the reference has none of ours."""
    return None if name == "reference" else name.split(",")[0]


def report(contest: Contest, encoders: dict[str, Encoder], limits: dict[str, float]) -> None:
    rows = []
    for name in contest.seconds:
        way = way_of(name)
        runtime = encoders[way].runtime if way else None
        milliseconds, ratios = contest.milliseconds(name), contest.ratios(name, "reference")
        rows.append(
            [
                name,
                f"{runtime.engine} {runtime.precision}" if runtime else "",
                f"{runtime.cosine:.5f}" if runtime else "",
                f"{milliseconds:.4f}",
                f"{1000 / milliseconds / (1 + RECIPE.count):.2f}",
                f"{100 * limits[runtime.precision if runtime else 'f32'] / milliseconds:.0f} %",
                f"{100 * waits(contest, way, name):.0f} %" if way and not name.endswith(ALONE) else "",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        )
    header = ["what", "ran as", "lowest cosine", "ms per view", "images/s", "of the limit", "encoder waits"]
    print("\n" + tabulate(rows, [*header, "times the reference"], tablefmt="github", disable_numparse=True))
    billions = view_operations(encoders["f32"]) / 1e9
    each = ", ".join(f"{precision} {value:.4f} ({billions / value:.2f} TFLOP/s)" for precision, value in limits.items())
    print(f"\nLimits, ms per view: {each}")


def _content(contest: Contest, encoders: dict[str, Encoder], limits: dict[str, float]) -> dict[str, Any]:
    device = encoders["f32"].device
    ways = {name: way for name in contest.seconds if (way := way_of(name))}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "ratios": {name: statistics.median(contest.ratios(name, "reference")) for name in ways},
        "ms_per_view": {name: contest.milliseconds(name) for name in contest.seconds},
        "of_limit": {
            name: limits[encoders[way].runtime.precision] / contest.milliseconds(name) for name, way in ways.items()
        },
        "waits": {name: waits(contest, way, name) for name, way in ways.items() if not name.endswith(ALONE)},
        "limits": limits,
    }


if __name__ == "__main__":
    main()
