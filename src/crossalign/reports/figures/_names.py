"""Names and numbers as figures show them."""

from __future__ import annotations

from crossalign.explanation import Explanation

MAX_LABEL = 32


def method_name(method: str) -> str:
    """Spelling of a method in papers."""
    return {"cupl": "CuPL", "waffle": "Waffle"}.get(method, method.upper())


def verdict(explanation: Explanation) -> str:
    """The two best labels of a method: "WCA: cat (80 %), then dog (15 %)"."""
    labels = [f"{evidence.label} ({percent(evidence.probability)})" for evidence in explanation.classes[:2]]
    return f"{method_name(explanation.method)}: {labels[0]}, then {labels[1]}"


def short(label: str) -> str:
    """Shorten a label that is too long for a title."""
    return label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1].rstrip()}…"


def percent(probability: float) -> str:
    """Format a probability, without a line break and never as 0 or 100 %."""
    if probability < 0.01:
        return "<1\N{NO-BREAK SPACE}%"
    return f"{'>99' if probability > 0.99 else round(100 * probability)}\N{NO-BREAK SPACE}%"
