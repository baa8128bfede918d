"""The web page: pictures in, labels with their reasons out. It asks the engine that the API asks, and shows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import gradio as gr
from fastapi import FastAPI
from torch import Tensor

from crossalign.classifier import Classifier
from crossalign.datasets import classes_of
from crossalign.datasets.configs import config_names, load_config
from crossalign.errors import InputError
from crossalign.explanation import explain
from crossalign.features.adaptive import Rounds
from crossalign.methods.registry import METHODS
from crossalign.text.descriptions import bundled_descriptions, bundled_names
from crossalign.text.labels import check_labels, joined_labels, split_labels
from crossalign.web.engine import Busy, Engine, Unavailable
from crossalign.web.label_sets import Question, Views
from crossalign.web.question import as_lines, question_of
from crossalign.web.results import (
    Shown,
    answer_html,
    files_html,
    heat_picture,
    legend_html,
    reasons_html,
    reduced,
    strongest_views,
    view_pictures,
)

if TYPE_CHECKING:
    from crossalign.text.descriptions.llm import Server

TOP = 5
"""Labels shown a picture."""
EXPLAINED = 3
"""Labels whose reasons can be seen."""
ASKED = 40
"""Labels that an LLM is asked about at once."""
SESSIONS = 50
"""Visitors whose results are kept."""
PHOTOS = {
    Path(str(resources.files("skimage") / "data" / name)): labels
    for name, labels in (
        ("chelsea.png", "cat, dog, fox, rabbit, teddy bear"),
        ("coffee.png", "cup of coffee, bowl of soup, plate of pasta, teapot"),
        ("rocket.jpg", "rocket, lighthouse, crane, church"),
        ("motorcycle_left.png", "motorcycle, bicycle, car, bus"),
    )
}
"""Photos inside scikit-image, and labels to try on them."""
EMPTY = "<p class='ca-empty'>Choose pictures, name two or more labels, and the answer stands here, with its reasons.</p>"


def mount_page(
    app: FastAPI, engine: Engine, labels: Sequence[str] = (), llm: Server | None = None, root_path: str = ""
) -> None:
    """Put the page on an application's root.

    Args:
        app: with the API.
        engine: answers.
        labels: stand in the labels' field at first.
        llm: is asked for descriptions, if there is one.
        root_path: the path below which a proxy serves the application, or empty.
    """
    gr.mount_gradio_app(
        app,
        Page(engine, labels, llm).blocks,
        path="/",
        root_path=root_path or None,
        theme=_theme(),
        css_paths=Path(__file__).with_name("page.css"),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        allowed_paths=[str(photo) for photo in PHOTOS],
        max_file_size=int(1e6 * engine.limits.megabytes),
    )


def _theme() -> gr.themes.Base:
    """Fonts that every system has, so that none is fetched, and greys that can be read."""
    theme = gr.themes.Default(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["system-ui"])
    return theme.set(body_text_color_subdued="*neutral_600", block_info_text_color="*neutral_600")


class Page:
    """The page's fields and what happens when they are used.

    Attributes:
        blocks: what Gradio serves.
    """

    def __init__(self, engine: Engine, labels: Sequence[str], llm: Server | None):
        self._engine, self._llm = engine, llm
        self.blocks = gr.Blocks(title="crossalign", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600))
        self.blocks.state_session_capacity = SESSIONS
        self.blocks.queue(default_concurrency_limit=8, max_size=engine.limits.queue, api_open=False)
        with self.blocks:
            gr.Markdown("# What is in the picture?\nLabels without training, and the reasons for them.")
            with gr.Row(equal_height=False, elem_id="columns"):
                with gr.Column(min_width=320, scale=5):
                    self._ask(labels)
                with gr.Column(min_width=320, scale=7):
                    self._show()
            self._connect()
        _keep_strangers_out(self.blocks)

    def _ask(self, labels: Sequence[str]) -> None:
        """Lay out the fields of the question."""
        self._pictures = gr.Gallery(
            label="Pictures: drop or choose one or more",
            file_types=["image"],
            type="filepath",
            columns=3,
            fit_columns=False,
            height="auto",
            object_fit="contain",
            buttons=[],
            interactive=True,
            elem_id="pictures",
        )
        gr.Markdown("or a photo to try:")
        self._photos = _thumbnails(list(map(str, PHOTOS)), 4, elem_id="photos")
        self._labels = gr.Textbox(
            value=joined_labels(labels),
            label="Labels",
            info="Two or more, separated by commas or one a line",
            placeholder="cat, dog, cup of coffee",
            lines=2,
            max_lines=8,
            elem_id="labels",
        )
        self._go = gr.Button("Label the pictures", variant="primary", elem_id="go")
        self._ask_more()

    def _ask_more(self) -> None:
        """Lay out the fields that may stay as they are."""
        titles = [(load_config(name).title, name) for name in config_names() if load_config(name).classes]
        with gr.Accordion("Labels of a dataset, descriptions", open=False):
            self._dataset = gr.Dropdown(titles, label="Take the labels of a dataset", value=None, elem_id="dataset")
            self._descriptions = gr.Textbox(
                "",
                label="Descriptions",
                info="For each label a line such as `cat: has pointed ears; has whiskers`, or JSON; empty takes templates",
                lines=3,
                max_lines=10,
                elem_id="descriptions",
            )
            with gr.Row():
                self._bundled = gr.Button("Take the dataset's descriptions", size="sm")
                self._write = gr.Button("Have the LLM write some", size="sm", visible=self._llm is not None)
            self._domain = gr.Textbox("", label="Kind of thing that all labels are", placeholder="pet", max_lines=1)
        with gr.Accordion("Method", open=False):
            methods = [(f"{m.name}: {m.summary}", m.name) for m in METHODS.values() if m.explainable]
            self._method = gr.Dropdown(methods, value="wca", label="Method", elem_id="method")
            most = min(100, self._engine.limits.views)
            self._adaptive = gr.Checkbox(
                False,
                label="Look only as long as the answer is open",
                info="wca and mean-views: about a third of the time, and nearly always the answer of 60 views",
                visible=Rounds.max_views <= self._engine.limits.views,
            )
            self._views = gr.Slider(1, most, min(60, most), step=1, label="Local views a picture (wca)")

    def _show(self) -> None:
        """Lay out the fields of the answer."""
        self._kept = gr.State([], time_to_live=3600)
        self._chosen = gr.State(0)
        self._answer = gr.HTML(EMPTY, elem_id="answer")
        self._overview = _thumbnails(None, 6, visible=False, elem_id="overview")
        self._files = gr.HTML(elem_id="files")
        with gr.Column(visible=False) as self._details:
            self._bars = gr.Label(label="Labels by probability", show_heading=False, elem_id="bars")
            self._label = gr.Radio(label="Show the reasons for", elem_id="label")
            with gr.Column() as self._where:
                gr.Markdown("### Where the evidence lies")
                self._heat = gr.Image(show_label=False, buttons=["fullscreen"], elem_id="heat")
                self._legend = gr.HTML()
            gr.Markdown("### What adds most to its score")
            self._reasons = gr.HTML(elem_id="reasons")
            with gr.Column() as self._seen:
                gr.Markdown("### Views that add most; choose one to see its place")
                self._gallery = _thumbnails(None, 6, elem_id="views")

    def _connect(self) -> None:
        """Say what happens when a field is used."""
        private: dict[str, Any] = {"api_visibility": "private"}
        question = [self._labels, self._descriptions, self._method, self._adaptive, self._views, self._domain]
        picture = [self._answer, self._details, self._bars, self._label]
        reasons = [self._where, self._heat, self._legend, self._reasons, self._seen, self._gallery]
        state = [self._kept, self._chosen, self._label]
        gr.on(
            [self._go.click, self._labels.submit],
            self._label_pictures,
            [self._pictures, *question],
            [self._kept, self._chosen, self._overview, self._files, *picture, *reasons],
            show_progress_on=self._answer,
            scroll_to_output=True,
            **private,
        )
        labels = [self._labels, self._descriptions, self._domain]
        self._adaptive.input(lambda chosen: gr.Slider(visible=not chosen), self._adaptive, self._views, **private)
        self._photos.select(_try_photo, None, [self._pictures, *labels], **private)
        self._overview.select(self._choose, self._kept, [self._chosen, *picture, *reasons], **private)
        self._label.input(self._reasons_of, state, reasons, **private)
        self._gallery.select(self._frame, state, self._heat, show_progress="hidden", **private)
        self._dataset.input(self._dataset_labels, self._dataset, labels, **private)
        self._bundled.click(self._dataset_descriptions, self._dataset, self._descriptions, **private)
        self._write.click(self._llm_descriptions, [self._labels, self._domain], self._descriptions, **private)

    def _label_pictures(
        self,
        pictures: list[tuple[str, str | None]] | None,
        labels: str,
        descriptions: str,
        method: str,
        adaptive: bool,
        views: int,
        domain: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> list[Any]:
        """Answer the question about all pictures, and show the first that could be read."""
        paths = [path for path, _ in pictures or []]
        count: Views = "adaptive" if adaptive else int(views)
        try:
            shown = self._found(paths, question_of(labels, descriptions, method, count, domain.strip()), progress)
        except (InputError, Busy, Unavailable) as error:
            raise _in_words(error) from error
        first = next((n for n, one in enumerate(shown) if one.reasons), 0)
        overview = [(one.image, one.found.label or "cannot be read") for one in shown]
        several = gr.Gallery(overview, visible=len(shown) > 1, selected_index=first)
        return [shown, first, several, files_html(shown), *_picture(shown[first])]

    def _found(self, paths: Sequence[str], question: Question, progress: gr.Progress) -> list[Shown]:
        if not paths:
            raise InputError("there are no pictures yet; drop some into the field, or choose a photo to try")
        if len(paths) > self._engine.limits.images:
            raise InputError(
                f"{len(paths)} pictures were chosen, but {self._engine.limits.images} are the limit; take fewer"
            )
        shown = []
        with self._engine.admit(len(paths)), ExitStack() as files:
            progress(0, "reading the labels")
            classify = self._engine.classifier(question)
            opened = [(Path(path).name, files.enter_context(open(path, "rb"))) for path in paths]
            progress(0, f"looking at {len(paths)} picture{'s' * (len(paths) > 1)}")
            for (name, file), features in zip(opened, self._engine.encode(opened, classify), strict=True):
                shown.append(self._shown(name, file, features, classify))
                progress((len(shown), len(paths)), f"{len(shown)} of {len(paths)} looked at")
        return shown

    def _shown(self, name: str, file: BinaryIO, features: Tensor | InputError, classify: Classifier) -> Shown:
        found = classify.result(name, features, TOP)
        if isinstance(features, InputError):
            return Shown(found)
        file.seek(0)
        pixels = self._engine.read(name, file).permute(1, 2, 0).numpy()
        return Shown(found, reduced(pixels), explain(classify, pixels, EXPLAINED, features=features))

    def _choose(self, shown: list[Shown], event: gr.SelectData) -> list[Any]:
        return [event.index, *_picture(shown[event.index])]

    def _reasons_of(self, shown: list[Shown], chosen: int, label: str) -> list[Any]:
        return _reasons(shown[chosen], label)

    def _frame(self, shown: list[Shown], chosen: int, label: str, event: gr.SelectData) -> Any:
        reasons = shown[chosen].reasons
        if reasons is None:
            return gr.skip()
        return heat_picture(shown[chosen], label, strongest_views(reasons, label)[event.index])

    def _dataset_labels(self, name: str) -> tuple[str, str, str]:
        config = load_config(name)
        return joined_labels(classes_of(config).names), "", config.domain

    def _dataset_descriptions(self, name: str | None) -> str:
        config = load_config(name) if name else None
        if config is None or config.descriptions not in bundled_names():
            raise gr.Error("Choose a dataset first", print_exception=False)
        return as_lines(bundled_descriptions(config.descriptions).classes)

    async def _llm_descriptions(self, labels: str, domain: str, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        from crossalign.text.descriptions.llm import Answer, describe
        from crossalign.text.descriptions.questions import Order

        assert self._llm is not None
        order = Order("descriptors", 10, domain.strip())
        answers: list[Answer] = []

        def arrived(answer: Answer) -> None:
            answers.append(answer)
            progress((len(answers), len(names)), "asking", unit="labels")

        try:
            names = check_labels(split_labels(labels, "the field of labels"), least=1)
            if len(names) > ASKED:
                raise InputError(f"the LLM is asked about up to {ASKED} labels at once, but there are {len(names)}")
            await describe(self._llm, order, {name: order.question(name) for name in names}, arrived)
        except InputError as error:
            raise _in_words(error) from error
        if failed := [f"{answer.name} ({answer.failure})" for answer in answers if answer.failure]:
            gr.Warning(f"no descriptions came for {', '.join(failed)}")
        texts = {answer.name: [f"has {text}" for text in answer.texts] for answer in answers if answer.texts}
        return as_lines({name: texts[name] for name in names if name in texts})


def _picture(shown: Shown) -> list[Any]:
    """Fill the fields of a picture's answer and, for its best label, of the reasons."""
    reasons = shown.reasons
    if reasons is None:
        return [answer_html(shown), gr.Column(visible=False), *[gr.skip()] * 8]
    names = [evidence.label for evidence in reasons.classes]
    bars = {p.label: p.probability for p in shown.found.predictions}
    return [answer_html(shown), gr.Column(visible=True), bars, gr.Radio(names, value=names[0]), *_reasons(shown, names[0])]


def _reasons(shown: Shown, label: str) -> list[Any]:
    """Fill the fields of a label's reasons."""
    reasons = shown.reasons
    if reasons is None:
        return [gr.skip()] * 6
    alt = f"{shown.found.image}, with what speaks for {label} laid over it"
    several = gr.Column(visible=len(reasons.boxes) > 1)
    return [
        several,
        gr.Image(heat_picture(shown, label), alt_text=alt),
        legend_html(reasons, label),
        reasons_html(reasons, label),
        several,
        gr.Gallery(view_pictures(shown, label), selected_index=None),
    ]


def _try_photo(event: gr.SelectData) -> tuple[list[str], str, str, str]:
    photo = list(PHOTOS)[event.index]
    return [str(photo)], PHOTOS[photo], "", ""


def _thumbnails(value: list[str] | None, columns: int, **settings: Any) -> gr.Gallery:
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


def _in_words(error: Exception) -> gr.Error:
    text = str(error)
    return gr.Error(text[:1].upper() + text[1:], duration=20, print_exception=False)


def _keep_strangers_out(blocks: gr.Blocks) -> None:
    """Let pictures come by upload alone: Gradio would take a path on this machine or a URL instead of one."""
    # Gradio looks at paths only of what it launched by itself, not of what is mounted.
    blocks.has_launched = True

    def guarded(move: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def refuse_urls(source: Any) -> Any:
            if "://" in str(source):
                raise gr.Error("Pictures are taken by upload alone", print_exception=False)
            return await move(source)

        return refuse_urls

    for block in blocks.blocks.values():
        block.async_move_resource_to_block_cache = guarded(block.async_move_resource_to_block_cache)
