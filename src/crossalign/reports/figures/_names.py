"""What figures call methods and what they found."""

from __future__ import annotations

from crossalign.explanation import Explanation

LONGEST_LABEL = 32


def method_name(method: str) -> str:
    """Spell a method as papers do."""
    return {"cupl": "CuPL", "waffle": "Waffle"}.get(method, method.upper())


def verdict(explanation: Explanation) -> str:
    """Say what a method found, and what it thinks next likely."""
    found = [f"{of_class.label} ({percent(of_class.probability)})" for of_class in explanation.classes[:2]]
    return f"{method_name(explanation.method)}: {found[0]}, then {found[1]}"


def short(label: str) -> str:
    """Cut a label that would fill a title."""
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1].rstrip()}…"


def percent(probability: float) -> str:
    """Write a probability for people: on one line, and never 0 or 100 %."""
    if probability < 0.01:
        return "<1\N{NO-BREAK SPACE}%"
    return f"{'>99' if probability > 0.99 else round(100 * probability)}\N{NO-BREAK SPACE}%"
