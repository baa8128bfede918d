"""Measure the methods on three sets with the embedded encoder and write the tables of docs/results.md.

    python benchmarks/results.py --data ../shared/data --output docs/results.md

Each row comes out of `crossalign evaluate`, called as the page shows.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from crossalign.tables import results_table

SETS = {
    "oxford_pets370": ("oxford_pet", "37 breeds of cats and dogs, 10 pictures each"),
    "flowers102_test1020": (
        "flowers102",
        "102 flowers, 10 pictures each, from the official test split. The embedded encoder sees a picture through "
        "ImageNet's 1000 classes, hardly any of which is a flower: it is close to blind here",
    ),
    "imagenet_sample1000": (
        "imagenet",
        "1000 classes, one picture each. They are training pictures of ImageNet, which the encoder's classifier has seen "
        "with their labels: the level says nothing of its accuracy on new pictures; only the methods can be compared",
    ),
}
HEAD = """# Results

Made by `python benchmarks/results.py --data DATA --output docs/results.md`. The encoder is the embedded one
(`builtin`), which needs no hub and is no CLIP; CLIP's own weights could not be reached where this was run, so none of the
published figures is reproduced here. Intervals are Wilson's, 95 %, over pictures; sigma is that of re-drawing the same
encoded views 20 times, as the released program reports it.

The descriptions of these tables are CuPL's published file for each set; those that ship with the package are compared
with it in [descriptions](descriptions.md).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    parts = [HEAD]
    for folder, (config, note) in SETS.items():
        command = f"crossalign evaluate --dataset folder --data-path DATA/{folder} --config {config} "
        command += f"--descriptions DATA/descriptions/cupl/{config}.json --allow-missing"
        words = [sys.executable, "-m", "crossalign", *shlex.split(command.replace("DATA", str(options.data)))[1:]]
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "results.json"
            subprocess.run([*words, "--output", str(file)], check=True)
            result = json.loads(file.read_text(encoding="utf-8"))
        result["dataset"]["name"] = folder
        parts.append(f"\n## {folder}\n\n{note}.\n\n```sh\n{command}\n```\n\n{results_table([result])}\n")
    options.output.write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
