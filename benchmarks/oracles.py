"""Compare the scores of each method with numbers that the authors' own programs gave on the same features; see fidelity.py.

A folder of oracles holds cliplike/ (larger problems with the statistics of CLIP's features) and edge/ (small cases); for
each method a JSON that says what was computed, and the numbers as safetensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tabulate import tabulate
from torch import Tensor

from crossalign.errors import InputError
from crossalign.methods import METHODS, ScoreConfig, TextFeatures, alignment
from crossalign.methods.scoring import class_scores
from crossalign.methods.view_selection import confident_first, zero_votes

Tensors = dict[str, Tensor]
Outputs = dict[str, Tensor]
TOLERANCES = {"zero": 1e-4, "autoclip": 1e-6}
"""Where the JSON gives no number for what is compared here: votes, which classes with equal cosines share, and AutoCLIP's
scores with the bisection of its program."""
OF_COPIES = 1e-3
"""With copies of an image, rounding chooses the nearest neighbours."""
CLOSE_CALL = 1e-5
"""Where two views' entropies differ by less, rounding chooses which of them votes in ZERO."""
PROMPT_LIMIT = 50
"""Sentences per class that ABS keeps; here the kind of prompts sees to that."""
NAMES = {"abs": "soft-matching"}
"""Rows that are not called as the oracles are."""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        method: name in the oracles.
        case: "cliplike", or the edge case.
        output: which numbers were compared.
        difference: largest absolute difference, on the scale of the program; NaN where the program gives no number.
        same: share of the images with the same best class; NaN where the program gives no number.
        tolerance: allowed difference.
        ok: whether the difference is within it, and all our scores are finite.
        note: why a comparison is left out, or what differs on purpose.
    """

    method: str
    case: str
    output: str
    difference: float
    same: float
    tolerance: float
    ok: bool
    note: str = ""


def text_features(features: Tensor, counts: Tensor | None = None, weights: Tensor | None = None) -> TextFeatures:
    """Lay out texts: (C, L, D), or (K, D) and (C,) counts; (C, D) is one text per class."""
    if counts is None:
        features = features[:, None] if features.dim() == 2 else features
        counts = torch.full((len(features),), features.shape[1])
        features = features.flatten(0, 1)
    weights = alignment.uniform_text_weights(counts) if weights is None else weights
    return TextFeatures(("",) * len(features), features, counts, weights, alignment.pool_texts(features, weights, counts))


def scores_of(
    name: str, texts: TextFeatures, t: Tensors, options: Mapping[str, float] | None = None, config: ScoreConfig | None = None
) -> Tensor:
    """Score by a method as its own program does."""
    method = METHODS[name].as_released()
    method = replace(method, options={**method.options, **(options or {})})
    views = t.get("views", t["whole"].new_empty(len(t["whole"]), 0, t["whole"].shape[1]))
    return class_scores(method, texts, t["whole"], views, config or ScoreConfig())


def wca(t: Tensors, settings: Mapping[str, Any]) -> Outputs:
    """Weighted sentences and views; each resampled run; and the global view alone."""
    config = ScoreConfig(settings.get("image_scale", 4.0), settings.get("text_scale", 2.0))
    weights = alignment.text_weights(t["texts"], t["prompts"], t["counts"], config.text_scale)
    texts = text_features(t["texts"], t["counts"], weights)
    found = {"scores": scores_of("wca", texts, t, config=config)}
    found["scores_cupl"] = scores_of("cupl", text_features(t["texts"], t["counts"]), t)
    if "draws" in t:
        run_counts = torch.stack([run.bincount(minlength=t["views"].shape[1]) for run in t["draws"]])
        found["scores_draws"] = class_scores(METHODS["wca"], texts, t["whole"], t["views"], config, run_counts).transpose(
            0, 1
        )
    return found


def zero(t: Tensors, settings: Mapping[str, Any]) -> Outputs:
    """Count votes."""
    gamma = settings.get("gamma", 0.3)
    cosines = torch.cat([t["whole"][:, None], t["views"]], 1) @ F.normalize(t["classes"], dim=-1).T
    votes = zero_votes(cosines, confident_first(cosines, 100.0), int(gamma * cosines.shape[1]))
    return {"scores": votes, "predictions": scores_of("zero", text_features(t["classes"]), t, {"gamma": gamma}).argmax(1)}


def soft_matching(t: Tensors, settings: Mapping[str, Any]) -> Outputs:
    """Match the first sentences of each class; the program sums over views and leaves the temperature in."""
    by_class = [features[:PROMPT_LIMIT] for features in t["texts"].split(t["counts"].tolist())]
    texts = text_features(torch.cat(by_class), t["counts"].clamp(max=PROMPT_LIMIT))
    temperature = settings.get("temperature", 0.03)
    scores = scores_of("soft-matching", texts, t, {"temperature": temperature})
    return {"scores": scores * t["views"].shape[1] / temperature}


def times(
    scale: float, name: str, texts: str, options: Mapping[str, str]
) -> Callable[[Tensors, Mapping[str, Any]], Outputs]:
    """Score by a method with no more to it than the scale of its program and, by our options, the names of its settings."""

    def score(t: Tensors, settings: Mapping[str, Any]) -> Outputs:
        given = {option: float(settings[setting]) for option, setting in options.items() if setting in settings}
        return {"scores": scale * scores_of(name, text_features(t[texts], t.get("counts")), t, given)}

    return score


SCORES: dict[str, Callable[[Tensors, Mapping[str, Any]], Outputs]] = {
    "wca": wca,
    "autoclip": times(1, "autoclip", "texts", {"beta": "beta"}),
    "zero": zero,
    "mta": times(100, "mta", "classes", {"rho": "rho", "lambda": "lambda_q", "lambda_y": "lambda_y"}),
    "awt": times(100, "awt", "texts", {name: name for name in ("image_temperature", "text_temperature", "epsilon")}),
    "lazsl": times(1, "lazsl", "texts", {"alpha": "alpha", "epsilon": "epsilon"}),
    "abs": soft_matching,
    "cgbc": times(100, "cgbc", "texts", {"lambda_threshold": "lambda_threshold"}),
    "transclip": times(1, "transclip", "classes", {}),
    "stata": times(1, "stata", "classes", {"alpha": "alpha", "soft_beta": "soft_beta"}),
    "carprt": times(100, "carprt", "texts", {"temperature": "temp"}),
}
"""By the name of the oracle: inputs and settings to outputs on the scale of the program."""


def cliplike_inputs(method: str, t: Tensors) -> Iterator[tuple[str, Tensors]]:
    """Pick a method's inputs out of the shared ones, named as in the edge cases: the prefix of its outputs, and tensors."""
    equal = t["texts_equal"]
    texts = {
        "wca": {name: t[name] for name in ("texts", "counts", "prompts", "draws")},
        "lazsl": {"texts": t["texts"], "counts": t["counts"]},
        "abs": {"texts": equal.flatten(0, 1), "counts": torch.full((len(equal),), equal.shape[1])},
        "awt": {"texts": torch.cat([t["prompts"][:, None], equal], 1)},
    }.get(method, {"texts": equal, "classes": t["prompts"]})
    views = {} if METHODS[NAMES.get(method, method)].transductive else {"views": t["views"]}
    yield "", texts | views | {"whole": t["whole"]}
    if method in ("transclip", "stata", "carprt"):
        yield "many/", texts | {"whole": t["whole_many"]}
    if method == "zero":
        yield "narrow/", {**views, "whole": t["whole"]}


def underflows(method: str, t: Tensors) -> bool:
    """Say whether a probability is zero in float32, which makes an entropy NaN in ZERO's program."""
    if method != "zero":
        return False
    cosines = torch.cat([t["whole"][:, None], t["views"]], 1) @ t["classes"].T
    return bool(((100 * cosines).softmax(-1) == 0).any())


def tolerance_of(method: str, t: Tensors, about: Mapping[str, Any]) -> float:
    """Read the tolerance out of the JSON, if `TOLERANCES` has none."""
    if method in ("transclip", "stata") and len(t["whole"].unique(dim=0)) < len(t["whole"]):
        return OF_COPIES
    return TOLERANCES.get(method, float(re.findall(r"\d[\d.]*(?:e-?\d+)?", about["suggested_tolerance"])[0]))


def compare_case(
    method: str, case: str, t: Tensors, theirs: Tensors, settings: Mapping[str, Any], tolerance: float
) -> list[Row]:
    """Compare all outputs that both have."""
    try:
        found = SCORES[method](t, settings)
    except InputError as error:
        refused = "scores" not in theirs
        return [Row(method, case, "scores", torch.nan, torch.nan, tolerance, refused, f"refused: {error}")]
    best, rows = found.pop("predictions", found["scores"].argmax(-1)), []
    for output, ours in found.items():
        finite = bool(ours.isfinite().all())
        expected = theirs.get(output, torch.full_like(ours, torch.nan))
        given = expected.isfinite().all(-1)
        clear = given & (theirs["entropy_gap"] >= CLOSE_CALL) if "entropy_gap" in theirs else given
        if not clear.any():
            rows.append(Row(method, case, output, torch.nan, torch.nan, tolerance, finite, "the program gives no number"))
            continue
        difference = float((ours - expected)[clear].abs().max())
        # Where classes share the maximum, any of them is right.
        chosen = best if output == "scores" else ours.argmax(-1)
        right = expected.gather(-1, chosen[..., None])[..., 0] == expected.amax(-1)
        note = "a probability underflows, so the program's entropy is NaN; ours is not" if underflows(method, t) else ""
        ok = finite and (difference <= tolerance or bool(note))
        rows.append(Row(method, case, output, difference, float(right[clear].float().mean()), tolerance, ok, note))
    return rows


def compare(folder: Path) -> list[Row]:
    """Compare every method of a folder that holds cliplike/ and edge/."""
    shared, rows = load_file(folder / "cliplike" / "inputs.safetensors"), []
    for method in SCORES:
        if not (folder / "cliplike" / f"{method}.json").exists():
            continue
        about = json.loads((folder / "cliplike" / f"{method}.json").read_text(encoding="utf-8"))
        theirs = load_file(folder / "cliplike" / f"{method}.safetensors")
        for prefix, t in cliplike_inputs(method, shared):
            of_part = {name.removeprefix(prefix): value for name, value in theirs.items() if name.startswith(prefix)}
            part = t | {"classes": of_part["classes"]} if "classes" in of_part else t
            rows += compare_case(
                method,
                f"cliplike{' ' * bool(prefix)}{prefix.rstrip('/')}",
                part,
                of_part,
                about["settings"],
                tolerance_of(method, part, about),
            )
        cases = json.loads((folder / "edge" / f"{method}.json").read_text(encoding="utf-8"))["cases"]
        edge = load_file(folder / "edge" / f"{method}.safetensors")
        for case, what in cases.items():
            of_case = {name.removeprefix(f"{case}/"): value for name, value in edge.items() if name.startswith(f"{case}/")}
            outputs = {name.removeprefix("out/"): value for name, value in of_case.items() if name.startswith("out/")}
            rows += compare_case(
                method, case, of_case, outputs, about["settings"] | what["settings"], tolerance_of(method, of_case, about)
            )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Lay out one line per method and tolerance: the largest difference over all cases, and what was left out and why."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.tolerance), []).append(row)
    lines = []
    for (method, tolerance), group in groups.items():
        compared = [row for row in group if row.difference == row.difference and not row.note]
        notes = [f"{row.case}: {row.note}" for row in group if row.note]
        wrong = [f"OUTSIDE in {row.case}, {row.output}" for row in group if not row.ok]
        lines.append(
            [
                NAMES.get(method, method),
                str(len({row.case for row in compared})),
                f"{max((row.difference for row in compared), default=0):.1e}",
                f"{tolerance:.0e}",
                f"{100 * min((row.same for row in compared), default=1):.0f} %",
                "; ".join(dict.fromkeys([*wrong, *notes])),
            ]
        )
    head = ["method", "cases", "largest difference", "tolerance", "same best class", "notes"]
    return tabulate(lines, head, tablefmt="github", disable_numparse=True)
