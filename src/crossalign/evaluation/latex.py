"""Text and tables in LaTeX; the tables need the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence

SPECIAL = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\ensuremath{<}",
        ">": r"\ensuremath{>}",
    }
)


def escape_latex(text: str) -> str:
    """Escape plain text for LaTeX."""
    # LaTeX prints "--" as a dash, and an option such as --seed could then not be copied.
    return text.translate(SPECIAL).replace("--", "-{}-")


def latex_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out cells that are LaTeX already as a table with left-aligned columns."""
    lines = [" & ".join(cells) + r" \\" for cells in (head, *rows)]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * len(head)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )
