"""Fields and messages that the parts of the page share."""

from __future__ import annotations

from typing import Any

import gradio as gr


def thumbnails(value: list[str] | None, columns: int, **settings: Any) -> gr.Gallery:
    """Lay out small images that can be chosen, but not changed."""
    return gr.Gallery(
        value,
        show_label=False,
        columns=columns,
        fit_columns=False,
        height="auto",
        allow_preview=False,
        object_fit="cover",
        buttons=[],
        interactive=False,
        **settings,
    )


def in_words(error: Exception) -> gr.Error:
    """Show an error as a message that goes away."""
    text = str(error)
    return gr.Error(text[:1].upper() + text[1:], duration=20, print_exception=False)
