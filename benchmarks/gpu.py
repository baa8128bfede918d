"""Time the image encoder on a GPU, by runtime and precision, against the plain loop with its encoder there.

    python benchmarks/gpu.py --data ../shared/data

See benchmarks/speed.py for the contestants; each of ours is `crossalign.features.encode_pictures`, from the files on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import warnings
from collections import deque
from pathlib import Path

import torch
from tabulate import tabulate

from crossalign.encoders import Encoder, load_encoder
from crossalign.features import encode_pictures
from speed import RECIPE, VIT, Contest, _files, reference

WAYS = {"f32": ("torch", "f32"), "bf16": ("torch", "bf16"), "bf16 compiled": ("torch-compile", "bf16")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="A folder with oxford_pets370 in it; else photos of scikit-image.")
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--device", default="cuda", help="A CPU has no compiled way.")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    ways = WAYS if options.device != "cpu" else {name: way for name, way in WAYS.items() if way[0] == "torch"}
    encoders = {name: load_encoder(VIT, options.device, runtime=way[0], precision=way[1]) for name, way in ways.items()}
    with tempfile.TemporaryDirectory() as folder:
        contest = race(_files(options.data, Path(folder), options.pictures), encoders)
    report(contest, encoders)


def race(files: list[Path], encoders: dict[str, Encoder], rounds: int = 4) -> Contest:
    """Let all take turns; the first round only makes everything ready."""
    plain = encoders["f32"]
    views = len(files) * (1 + RECIPE.count)

    def ours(encoder: Encoder) -> None:
        pictures = ((str(file), index) for index, file in enumerate(files))
        deque(encode_pictures(pictures, encoder, RECIPE, batch_size=32, num_workers=os.cpu_count() or 1), maxlen=0)

    contest = Contest()
    for number in range(rounds + 1):
        if number == 1:
            contest = Contest()
        contest.time(
            "reference",
            views,
            lambda: reference(files, lambda batch: plain.tower.model(batch.to(plain.device)).cpu(), plain.preprocessing),
        )
        for name, encoder in encoders.items():
            contest.time(name, views, lambda e=encoder: ours(e))  # type: ignore[misc]
    return contest


def report(contest: Contest, encoders: dict[str, Encoder]) -> None:
    rows = []
    for name in contest.seconds:
        ratios = contest.ratios(name, "reference")
        runtime = encoders[name].runtime if name in encoders else None
        rows.append(
            [
                name,
                f"{runtime.engine} {runtime.precision}" if runtime else "",
                f"{runtime.cosine:.5f}" if runtime else "",
                f"{contest.milliseconds(name):.3f}",
                f"{1000 / contest.milliseconds(name) / (1 + RECIPE.count):.2f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        )
    device = encoders["f32"].device
    print(f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else device}, torch {torch.__version__}\n")
    header = ["what", "ran as", "lowest cosine", "ms a view", "pictures/s", "times the reference"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
