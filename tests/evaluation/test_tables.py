"""Every layout says the same, and a file that is no results file says why."""

import csv
import io
import json
import re

import pytest

from crossalign.errors import InputError
from crossalign.evaluation.tables import FORMATS, read_results, results_table, sentences


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
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert all(set(cell) <= set(":-") for cell in lines[1])
    return [lines[0], *lines[2:]]


def parse_latex(text):
    assert text.startswith(r"\begin{tabular}")
    assert [line[0] for line in text.partition(r"\end{tabular}")[2].split("\n")[1:]] == ["%"] * text.count("\n% ")
    lines = [line.strip().removesuffix(r"\\") for line in text.splitlines() if line.rstrip().endswith(r"\\")]
    return [[re.sub(r"\\([%&_#$])", r"\1", cell).strip() for cell in re.split(r"(?<!\\)&", line)] for line in lines]


def parse_csv(text):
    return list(csv.reader(io.StringIO(text)))


PARSE = {"markdown": parse_markdown, "latex": parse_latex, "csv": parse_csv}
BEST = {"markdown": "**{}**", "latex": r"\textbf{{{}}}", "csv": "{}"}
DAGGER = {"markdown": "†", "latex": r"$^\dagger$", "csv": ""}


@pytest.mark.parametrize("layout", FORMATS)
def test_every_layout_reads_back(layout):
    """Files from before there were comparisons: their best is marked, and nothing else."""
    rows = [row.copy() for row in ROWS]
    rows[1][3] = BEST[layout].format(rows[1][3])
    assert PARSE[layout](results_table(RESULTS, layout)) == [HEADER, *rows]


def test_latex_leaves_no_bare_special_character():
    table = results_table(RESULTS, "latex").partition(r"\end{tabular}")[0]
    assert not re.search(r"(?<!\\)[%_#$]", table)


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
        (b"", "are not JSON"),
        (b"{'schema': 1}", "are not JSON"),
        (b"\xff\xfe\x00", "are not JSON"),
        (b"[" * 100_000, "are not JSON"),
        (b"[]", "is not a results file of schema 1"),
        (b'{"cat": ["whiskers"]}', "is not a results file of schema 1"),
        (json.dumps(RESULTS[0] | {"schema": 2}).encode(), "is not a results file of schema 1"),
        (json.dumps(without(RESULTS[0], "results")).encode(), "is not a results file of schema 1"),
        (json.dumps(without(RESULTS[0], "dataset")).encode(), "have a missing or malformed field .*dataset"),
        (json.dumps(result("a", "b", without(CLIP, "ci95"))).encode(), "have a missing or malformed field .*ci95"),
        (json.dumps(result("a", "b", CLIP | {"top1": "high"})).encode(), "have a missing or malformed field"),
        (json.dumps(result("a", "b", CLIP | {"ci95": []})).encode(), "have a missing or malformed field"),
        (json.dumps(result("a", "b", CLIP | {"method": None})).encode(), "have a missing or malformed field"),
        (json.dumps(result("a", "b", "clip")).encode(), "have a missing or malformed field"),
        (json.dumps(RESULTS[0] | {"results": 5}).encode(), "have a missing or malformed field"),
        (
            json.dumps(RESULTS[0] | {"comparisons": [{"first": "clip"}]}).encode(),
            "have a missing or malformed field .*second",
        ),
        (json.dumps(RESULTS[0] | {"comparisons": 5}).encode(), "have a missing or malformed field"),
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


def pair(first, second, difference, low, high, p, p_holm, significant):
    return {
        "first": first,
        "second": second,
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "p_holm": p_holm,
        "significant": significant,
    }


CUPL = CLIP | {"method": "cupl", "top1": 60.0}
FRESH = WCA | {"form": "released", "fresh_std": 0.7777, "seeds": [{}, {}], "per_class": 61.0, "ece": 12.345}
COMPARED = result("pets", "b16", CLIP | {"per_class": 58.0}, CUPL, FRESH | {"calibration": {"temperature": 1.2345}}) | {
    "comparisons": [
        pair("clip", "cupl", 1.62, -0.51, 3.74, 0.1, 0.12, False),
        pair("clip", "wca", 2.82, 1.04, 4.61, 0.0004, 0.0012, True),
        pair("cupl", "wca", 1.2, -0.04, 2.4, 0.06, 0.12, False),
    ]
}


@pytest.mark.parametrize("layout", FORMATS)
def test_columns_and_marks_of_what_is_known(layout):
    header, *rows = PARSE[layout](results_table([COMPARED, RESULTS[1]], layout))
    more = ["per-class %", "minus clip", "p after Holm", "ECE %", "temperature"]
    assert header == [*HEADER[:6], "sigma over crops", "top-5 %", *more, "n"]
    column = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    assert column["top-1 %"] == ["58.38", "60.00", BEST[layout].format("61.20") + DAGGER[layout], "58.38"]
    assert column["minus clip"] == ["", "+1.62 (-0.51 to +3.74)", "+2.82 (+1.04 to +4.61)", ""]
    assert column["p after Holm"] == ["", "0.12", "0.0012", ""]
    assert column["sigma over crops"] == ["", "", "0.78 (2 seeds)", ""]
    assert column["per-class %"] == ["58.00", "", "61.00", ""]
    assert (column["ECE %"][2], column["temperature"][2]) == ("12.35", "1.23")


def test_marks_are_explained_where_they_stand():
    table = results_table([COMPARED])
    assert table.splitlines()[-1].startswith(
        "**bold**: the best top-1 of its results file. †: differs from clip (exact McNemar"
    )
    assert "†" not in results_table([COMPARED | {"comparisons": COMPARED["comparisons"][:1]}])
    assert results_table([RESULTS[1]]).splitlines()[-1].startswith("|")
    assert results_table([COMPARED], "latex").splitlines()[-2:][0].startswith("% Bold: the best top-1")
    assert results_table([COMPARED], "latex").splitlines()[-1].startswith("% Dagger: differs from clip")
    assert "bold" not in results_table([COMPARED], "csv").lower()


def test_the_mean_over_classes_is_left_out_where_it_repeats_the_top1():
    rows = [row | {"per_class": row["top1"]} for row in (CLIP, CUPL)]
    assert "per-class %" not in results_table([result("a", "b", *rows)])


def test_sentences_say_what_one_may_write():
    assert sentences(COMPARED) == [
        "On pets with b16, wca is 2.8 points above clip (95 % interval +1.0 to +4.6, exact McNemar p = 0.0012 after Holm "
        "over 3 comparisons).",
        "On pets with b16, the difference between wca and cupl, +1.2 points (95 % interval +0.0 to +2.4, exact McNemar "
        "p = 0.12 after Holm over 3 comparisons), is not significant.",
    ]
    assert sentences(RESULTS[0]) == []


def test_a_sentence_begins_with_the_better_method():
    worse = result("pets", "b16", CLIP, CUPL | {"top1": 40.0}, WCA | {"top1": 50.0}) | {
        "comparisons": [
            pair("clip", "cupl", -18.4, -23.0, -14.0, 1e-9, 2e-9, True),
            pair("clip", "wca", -8.4, -13.0, -4.0, 1e-5, 1e-5, True),
        ]
    }
    assert sentences(worse) == [
        "On pets with b16, clip is 8.4 points above wca (95 % interval +4.0 to +13.0, exact McNemar p < 0.0001 after Holm "
        "over 2 comparisons)."
    ]
