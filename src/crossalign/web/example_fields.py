"""The page's fields for classes that are given by example images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from crossalign.errors import InputError
from crossalign.web.engine import Engine
from crossalign.web.fields import in_words, thumbnails
from crossalign.web.label_sets import ExampleFile
from crossalign.web.thumbnails import reduced

THUMBNAIL_SIDE = 160
INFO = (
    "A few images of a class say what its name cannot. With no labels in the field above, these classes are the labels; "
    "with labels there, each of them needs examples."
)


@dataclass(frozen=True)
class Added:
    """An example image in the field, and a small copy of it."""

    file: ExampleFile
    thumbnail: bytes


Classes = Mapping[str, tuple[Added, ...]]
"""Class name to its example images."""


class ExampleFields:
    """Fields to add a class with its images, to see all of them, and to remove one.

    Attributes:
        classes: the state that holds them.
    """

    def __init__(self, engine: Engine):
        """Lay out the fields; to be called inside `gr.Blocks`."""
        self._engine = engine
        self.classes = gr.State({}, time_to_live=3600)
        with gr.Accordion("Classes by examples", open=False):
            gr.Markdown(INFO)
            self._name = gr.Textbox("", label="Class", placeholder="grandmother's cup", max_lines=1, elem_id="example-class")
            self._files = gr.File(
                label="Its images",
                file_count="multiple",
                file_types=["image"],
                type="filepath",
                height=180,
                elem_id="example-files",
            )
            self._add = gr.Button("Add the class", size="sm", elem_id="add-class")
            self._gallery = thumbnails(None, 4, visible=False, elem_id="example-images")
            self._remove = gr.Dropdown([], value=None, label="Choose a class to remove it", visible=False, elem_id="remove")

    def connect(self) -> None:
        """Say what happens when a field is used."""
        shown = [self.classes, self._gallery, self._remove]
        private: dict[str, Any] = {"api_visibility": "private"}
        gr.on(
            [self._add.click, self._name.submit],
            self._added,
            [self.classes, self._name, self._files],
            [*shown, self._name, self._files],
            **private,
        )
        self._remove.input(self._removed, [self.classes, self._remove], shown, **private)

    def _added(self, classes: Classes, name: str, paths: Sequence[str] | None) -> list[Any]:
        try:
            classes = self._with(classes, " ".join(name.split()), paths or [])
        except InputError as error:
            raise in_words(error) from error
        return [*_shown(classes), "", None]

    def _with(self, classes: Classes, name: str, paths: Sequence[str]) -> Classes:
        if not name or not paths:
            raise InputError("a class needs a name and at least one image; type the one and choose the other")
        most, count = self._engine.limits.examples, len(paths) + sum(map(len, classes.values()))
        if count > most:
            raise InputError(f"{count} example images were chosen, but {most} are the limit; take fewer")
        added = []
        for path in paths:
            file = ExampleFile.of(Path(path).name, path)
            pixels = self._engine.read(file.name, path, THUMBNAIL_SIDE)
            added.append(Added(file, reduced(pixels, THUMBNAIL_SIDE)))
        return {**classes, name: (*classes.get(name, ()), *added)}

    def _removed(self, classes: Classes, name: str) -> list[Any]:
        return _shown({label: images for label, images in classes.items() if label != name})


def _shown(classes: Classes) -> list[Any]:
    """Fill the state and the fields that show it."""
    images = [(Image.open(io.BytesIO(each.thumbnail)), label) for label, of_class in classes.items() for each in of_class]
    return [
        dict(classes),
        gr.Gallery(images, visible=bool(images), selected_index=None),
        gr.Dropdown(list(classes), value=None, visible=bool(classes)),
    ]
