"""Every layout says the same, and a file that is no results file says why."""

import csv
import io
import json
import re

import pytest

from crossalign.errors import InputError
from crossalign.tables import FORMATS, read_results, results_table


def result(dataset, encoder, *rows):
    return {"schema": 1, "dataset": {"name": dataset}, "encoder": {"name": encoder}, "results": list(rows)}


CLIP = {"method": "clip", "top1": 58.378378, "top5": 91.0, "n": 370, "ci95": [53.29, 63.299], "form": "released"}
WCA = {"method": "wca", "top1": 61.2, "top5": 92.555, "n": 370, "ci95": [56.1, 66.04], "form": "paper"} | {
    "std": 0.4444,
    "runs": [61.0, 61.5, 61.1],
}
RESULTS = [
    result("oxford_pet", "open_clip:ViT-B-32/openai", CLIP, WCA),
    result('my "best", & 100 % own_photos', "builtin:lite0", CLIP),
]
HEADER = ["dataset", "encoder", "method", "top-1 %", "95 % interval", "sigma over runs", "top-5 %", "n"]
ROWS = [
    ["oxford_pet", "open_clip:ViT-B-32/openai", "clip", "58.38", "53.29 to 63.30", "", "91.00", "370"],
    ["oxford_pet", "open_clip:ViT-B-32/openai", "wca (paper)", "61.20", "56.10 to 66.04", "0.44 (3 runs)", "92.56", "370"],
    ['my "best", & 100 % own_photos', "builtin:lite0", "clip", "58.38", "53.29 to 63.30", "", "91.00", "370"],
]


def parse_markdown(text):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert all(set(cell) <= set(":-") for cell in lines[1])
    return [lines[0], *lines[2:]]


def parse_latex(text):
    assert text.startswith(r"\begin{tabular}")
    assert text.endswith(r"\end{tabular}")
    lines = [line.strip().removesuffix(r"\\") for line in text.splitlines() if line.rstrip().endswith(r"\\")]
    return [[re.sub(r"\\([%&_#$])", r"\1", cell).strip() for cell in re.split(r"(?<!\\)&", line)] for line in lines]


def parse_csv(text):
    return list(csv.reader(io.StringIO(text)))


@pytest.mark.parametrize("layout", FORMATS)
def test_every_layout_reads_back(layout):
    parse = {"markdown": parse_markdown, "latex": parse_latex, "csv": parse_csv}[layout]
    assert parse(results_table(RESULTS, layout)) == [HEADER, *ROWS]


def test_latex_leaves_no_bare_special_character():
    assert not re.search(r"(?<!\\)[%_#$]", results_table(RESULTS, "latex"))


def test_one_run_has_no_sigma():
    row = {key: value for key, value in WCA.items() if key not in ("std", "runs")}
    assert parse_csv(results_table([result("a", "b", row)], "csv"))[1][5] == ""


def test_a_results_file_is_read(tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(RESULTS[0]))
    assert read_results(file) == RESULTS[0]


def without(row, key):
    return {k: v for k, v in row.items() if k != key}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "are no JSON"),
        (b"{'schema': 1}", "are no JSON"),
        (b"\xff\xfe\x00", "are no JSON"),
        (b"[" * 100_000, "are no JSON"),
        (b"[]", "is no results file of schema 1"),
        (b'{"cat": ["whiskers"]}', "is no results file of schema 1"),
        (json.dumps(RESULTS[0] | {"schema": 2}).encode(), "is no results file of schema 1"),
        (json.dumps(without(RESULTS[0], "results")).encode(), "is no results file of schema 1"),
        (json.dumps(without(RESULTS[0], "dataset")).encode(), "lack or spoil a field .*dataset"),
        (json.dumps(result("a", "b", without(CLIP, "ci95"))).encode(), "lack or spoil a field .*ci95"),
        (json.dumps(result("a", "b", CLIP | {"top1": "high"})).encode(), "lack or spoil a field"),
        (json.dumps(result("a", "b", CLIP | {"ci95": []})).encode(), "lack or spoil a field"),
        (json.dumps(result("a", "b", CLIP | {"method": None})).encode(), "lack or spoil a field"),
        (json.dumps(result("a", "b", "clip")).encode(), "lack or spoil a field"),
        (json.dumps(RESULTS[0] | {"results": 5}).encode(), "lack or spoil a field"),
    ],
)
def test_a_bad_file_says_why_in_one_sentence(tmp_path, content, reason):
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.json.*{reason}") as caught:
        read_results(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.json", "."])
def test_a_file_that_cannot_be_read_says_why(tmp_path, name):
    with pytest.raises(InputError, match=r"cannot be read \(.+\); check the path"):
        read_results(tmp_path / name)
