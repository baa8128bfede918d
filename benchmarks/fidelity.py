"""Compare methods, boxes and prompts with what the authors' own programs gave.

    python benchmarks/fidelity.py
    python benchmarks/fidelity.py --oracles ../shared/data/oracles \\
        --released ../shared/data/released --descriptions ../shared/data/descriptions --output docs/fidelity.md

An oracle folder holds cliplike/, edge/, boxes/ and prompts/, as tests/oracles does: numbers and strings that the programs
gave on made-up inputs. A folder of released prompts holds DATASET.json of WCA's program,
{"prompts": {row: [[class name, [prompt, ...]], ...]}}. The exit code is 1 if anything differs by more than its tolerance.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from tabulate import tabulate

import oracles
from crossalign.datasets.configs import load_config
from crossalign.evaluation.reproduction.sources import released_prompts
from crossalign.images.crops import distinct
from crossalign.methods.registry import METHODS
from crossalign.text import prompts
from crossalign.text.phrasing import descriptor_sentence
from crossalign.text.waffle import Noise, characters_of, waffle_prompts

ORACLES = Path(__file__).parents[1] / "tests" / "oracles"


@dataclass(frozen=True)
class Strings:
    """One comparison of strings, class by class.

    Attributes:
        source: the dataset, or the oracle.
        row: the method.
        equal, total: prompts.
        first: the first difference, or empty.
    """

    source: str
    row: str
    equal: int
    total: int
    first: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracles", type=Path, default=ORACLES, help="A folder like tests/oracles, the default.")
    parser.add_argument("--released", type=Path, help="A folder of DATASET.json with the prompts of WCA's program.")
    parser.add_argument("--descriptions", type=Path, help="A folder of the description files that it read.")
    parser.add_argument("--output", type=Path, help="Put the tables into this Markdown file, between its markers.")
    options = parser.parse_args()
    if (options.released is None) != (options.descriptions is None):
        parser.error("--released and --descriptions belong together; give both")
    numbers = oracles.compare(options.oracles)
    boxes = list(compare_boxes(options.oracles / "boxes"))
    strings = list(compare_made_up_prompts(options.oracles / "prompts"))
    for file in sorted(options.released.glob("*.json")) if options.released else ():
        strings += compare_prompts(file, options.descriptions)
    tables = "\n\n".join(filter(None, [oracles.table(numbers), box_table(boxes), string_table(strings)]))
    print(tables)
    if options.output:
        put_between_markers(options.output, tables)
    equal = all(row.ok for row in numbers) and all(same for _, same in boxes)
    sys.exit(0 if equal and all(row.equal == row.total for row in strings) else 1)


def compare_boxes(folder: Path) -> Iterator[tuple[str, bool]]:
    """Say for each case whether BiFTA's filter keeps the same boxes."""
    cases = json.loads((folder / "bifta.json").read_text(encoding="utf-8"))["cases"]
    tensors = load_file(folder / "bifta.safetensors")
    for case, settings in cases.items():
        # The program looks whether its queue is full only after it has added a second box.
        most = max(settings["max_queue_len"], 2)
        chosen = distinct(tensors[f"{case}/boxes"], settings["threshold"], most)
        yield case, chosen.tolist() == tensors[f"{case}/kept"].tolist()


def compare_made_up_prompts(folder: Path) -> Iterator[Strings]:
    """Compare the strings of DCLIP's and WaffleCLIP's programs for made-up names, descriptors and words."""
    dclip = json.loads((folder / "dclip.json").read_text(encoding="utf-8"))
    for setting, end in (("default", ""), ("imagenet", ".")):
        # The program gives a class without descriptors an empty one.
        described = {name: texts or [""] for name, texts in dclip["inputs"]["descriptors"].items()}
        ours = [[descriptor_sentence(name, text, end=end) for text in texts] for name, texts in described.items()]
        yield compare_strings(f"made up, {setting}", "clip-d", ours, [dclip["outputs"][setting][name] for name in described])
    noise = json.loads((folder / "waffle.json").read_text(encoding="utf-8"))
    descriptors = noise["inputs"]["descriptors"]
    texts = [text for of_class in descriptors.values() for text in of_class]
    like = Noise.like(tuple(descriptors), noise["inputs"]["word_list"], characters_of(texts))
    for run in (name for name in noise["outputs"] if re.match(r"(waffle|wca_construct_random)/seed\d+$", name)):
        generator = np.random.RandomState(int(run.partition("/seed")[2]))
        ours = waffle_prompts(tuple(descriptors), like, generator)
        yield compare_strings(f"made up, {run}", "waffle", ours, list(noise["outputs"][run].values()))


def compare_prompts(file: Path, descriptions: Path) -> Iterator[Strings]:
    """Compare the prompts of a dataset with those of WCA's program, row by row."""
    truth = json.loads(file.read_text(encoding="utf-8"))
    inputs = released_prompts(load_config(file.stem), [descriptions])
    released: dict[str, list[tuple[str, list[str]]]] = truth["prompts"]
    expected = {row: [texts for _, texts in classes] for row, classes in released.items()}
    if "clip-e" not in expected:
        names = [name for name, _ in truth["prompts"]["clip"]]
        expected["clip-e"] = [[template.replace("{}", name) for template in truth["templates"]] for name in names]
    for row, by_class in expected.items():
        ours = prompts.SOURCES[METHODS[row].as_released().prompts](inputs)
        yield compare_strings(file.stem, row, ours, by_class)


def compare_strings(source: str, row: str, ours: list[list[str]], expected: list[list[str]]) -> Strings:
    """Compare prompts by class, in order; white space counts as the tokenizer takes it."""
    pairs = [
        (_folded(own[i]) if i < len(own) else "", _folded(their[i]) if i < len(their) else "")
        for own, their in zip(_padded(ours, expected), _padded(expected, ours), strict=True)
        for i in range(max(len(own), len(their)))
    ]
    differing = [f"{own!r}, not {their!r}" for own, their in pairs if own != their]
    return Strings(source, row, len(pairs) - len(differing), len(pairs), differing[0] if differing else "")


def _padded(these: list[list[str]], others: list[list[str]]) -> list[list[str]]:
    return these + [[]] * (len(others) - len(these))


def _folded(text: str) -> str:
    return " ".join(text.split())


def box_table(boxes: list[tuple[str, bool]]) -> str:
    """Lay out in one line how many cases of BiFTA's filter are the same."""
    wrong = [case for case, same in boxes if not same]
    row: list[Any] = ["bifta", f"{len(boxes) - len(wrong)} of {len(boxes)}", ", ".join(wrong)]
    return tabulate([row], ["boxes", "cases with the same boxes", "others"], tablefmt="github")


def string_table(strings: list[Strings]) -> str:
    """Lay out how many prompts are the same, and the first that is not."""
    rows = [[row.source, row.row, f"{row.equal} of {row.total}", row.first] for row in strings]
    return tabulate(rows, ["dataset", "row", "equal prompts", "first difference"], tablefmt="github") if rows else ""


def put_between_markers(page: Path, tables: str) -> None:
    """Replace what stands between the page's two markers."""
    before, behind = "<!-- tables -->", "<!-- end of tables -->"
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(before)
    _, _, tail = rest.partition(behind)
    page.write_text(f"{head}{before}\n{tables}\n{behind}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
