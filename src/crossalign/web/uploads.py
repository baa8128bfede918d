"""Files reach the page by upload alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr


def accept_uploads_only(blocks: gr.Blocks) -> None:
    """Refuse a path on this machine or a URL in the place of an upload; Gradio would open both.

    Gradio has no public setting for either. It compares paths with its folder of uploads only for pages that `launch` has
    started, which it tells by `has_launched`; `mount_gradio_app` leaves that unset. It downloads any public URL, in
    `async_move_resource_to_block_cache`. tests/web/test_web.py asks for both, so another Gradio cannot undo this unnoticed.
    """
    blocks.has_launched = True

    def guarded(move: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def refuse_urls(source: Any) -> Any:
            if "://" in str(source):
                raise gr.Error("Images are taken by upload alone", print_exception=False)
            return await move(source)

        return refuse_urls

    for block in blocks.blocks.values():
        block.async_move_resource_to_block_cache = guarded(block.async_move_resource_to_block_cache)
