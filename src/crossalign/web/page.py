"""The web page: images in, labels with their reasons out. It asks the same engine as the API, and shows the answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from fastapi import FastAPI
from torch import Tensor

from crossalign.datasets import classes_of
from crossalign.datasets.configs import config_names, load_config
from crossalign.errors import InputError
from crossalign.explanation import explain
from crossalign.features.adaptive import Rounds
from crossalign.methods.registry import METHODS
from crossalign.text.descriptions import bundled_descriptions, bundled_names
from crossalign.text.labels import check_labels, joined_labels, split_labels
from crossalign.web.engine import Busy, Engine, Unavailable
from crossalign.web.example_fields import ExampleFields
from crossalign.web.fields import in_words, thumbnails
from crossalign.web.label_sets import Question
from crossalign.web.question import Typed, as_lines, question_of
from crossalign.web.results import (
    Shown,
    answer_html,
    files_html,
    heat_image,
    legend_html,
    reasons_html,
    strongest_views,
    view_images,
)
from crossalign.web.thumbnails import SIDE, reduced
from crossalign.web.uploads import accept_uploads_only

if TYPE_CHECKING:
    from crossalign.text.descriptions.llm import Server

TOP = 5
"""Labels shown per image."""
EXPLAINED = 3
"""Labels whose reasons can be seen."""
ASKED = 40
"""Labels that an LLM is asked about at once."""
SESSIONS = 50
"""Visitors whose results are cached."""
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
VIEWS_TITLE = "### Views that add most; choose one to see its place"
PAIRS_TITLE = (
    "### Views that add most, each with the nearest view of an example and their cosine; choose one to see its place"
)
EMPTY = (
    "<p class='ca-empty'>Choose images, and name two or more labels or add classes by examples. "
    "The answer appears here, with its reasons.</p>"
)


def mount_page(app: FastAPI, engine: Engine, llm: Server | None = None, root_path: str = "") -> None:
    """Put the page on an application's root.

    Args:
        app: with the API.
        engine: answers; its own labels stand in the field of labels at first.
        llm: is asked for descriptions, if there is one.
        root_path: the path below which a proxy serves the application, or empty.
    """
    gr.mount_gradio_app(
        app,
        Page(engine, llm).blocks,
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

    def __init__(self, engine: Engine, llm: Server | None):
        self._engine, self._llm = engine, llm
        self._own = engine.defaults.names
        self.blocks = gr.Blocks(title="crossalign", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600))
        self.blocks.state_session_capacity = SESSIONS
        self.blocks.queue(default_concurrency_limit=8, max_size=engine.limits.queue, api_open=False)
        with self.blocks:
            gr.Markdown("# What is in the image?\nLabels without training, and the reasons for them.")
            with gr.Row(equal_height=False, elem_id="columns"):
                with gr.Column(min_width=320, scale=5):
                    self._ask()
                with gr.Column(min_width=320, scale=7):
                    self._show()
            self._connect()
        accept_uploads_only(self.blocks)

    def _ask(self) -> None:
        """Lay out the fields of the question."""
        self._images = gr.Gallery(
            label="Images: drop or choose one or more",
            file_types=["image"],
            type="filepath",
            columns=3,
            fit_columns=False,
            height="auto",
            object_fit="contain",
            buttons=[],
            interactive=True,
            elem_id="images",
        )
        gr.Markdown("or a photo to try:")
        self._photos = thumbnails(list(map(str, PHOTOS)), 4, elem_id="photos")
        self._labels = gr.Textbox(
            value=joined_labels(self._own),
            label="Labels",
            info="Two or more, separated by commas or one per line",
            placeholder="cat, dog, cup of coffee",
            lines=2,
            max_lines=8,
            elem_id="labels",
        )
        self._go = gr.Button("Label the images", variant="primary", elem_id="go")
        self._examples = ExampleFields(self._engine)
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
            self._domain = gr.Textbox(
                "", label="Kind of thing that all labels are", placeholder="pet", max_lines=1, elem_id="domain"
            )
        with gr.Accordion("Method", open=False):
            methods = [(f"{m.name}: {m.summary}", m.name) for m in METHODS.values() if m.explainable]
            self._method = gr.Dropdown(methods, value="wca", label="Method", elem_id="method")
            most = min(100, self._engine.limits.views)
            adaptive = Rounds.max_views <= self._engine.limits.views
            self._adaptive = gr.Checkbox(
                adaptive,
                label="Only as many views as the answer takes",
                info="wca and mean-views: about a third of the time, and nearly always the answer of 60 views",
                visible=adaptive,
                elem_id="adaptive",
            )
            self._views = gr.Slider(
                1, most, min(60, most), step=1, label="Local views per image", visible=not adaptive, elem_id="count"
            )
        with gr.Accordion("When to give no label", open=False):
            self._other = gr.Textbox(
                "",
                label="Other labels",
                info="They compete, but are no answer: an image that looks most like one of them is none of the labels",
                placeholder="document, screenshot",
                max_lines=3,
                elem_id="other",
            )
            self._threshold = gr.Number(
                None,
                label="Least probability of an answer",
                info="From 0 to 1; below it the answer is unsure. Empty: the server's own, or 0",
                minimum=0,
                maximum=1,
                elem_id="threshold",
            )

    def _show(self) -> None:
        """Lay out the fields of the answer."""
        self._cached = gr.State([], time_to_live=3600)
        self._chosen = gr.State(0)
        self._answer = gr.HTML(EMPTY, elem_id="answer")
        self._overview = thumbnails(None, 6, visible=False, elem_id="overview")
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
                self._views_title = gr.Markdown(VIEWS_TITLE)
                self._gallery = thumbnails(None, 6, elem_id="views")

    def _connect(self) -> None:
        """Say what happens when a field is used."""
        private: dict[str, Any] = {"api_visibility": "private"}
        image = [self._answer, self._details, self._bars, self._label]
        reasons = [
            self._where, self._heat, self._legend, self._reasons, self._seen, self._views_title, self._gallery,
        ]  # fmt: skip
        state = [self._cached, self._chosen, self._label]
        question = {self._labels, self._descriptions, self._other, self._method, self._adaptive, self._views, self._domain}
        gr.on(
            [self._go.click, self._labels.submit],
            self._label_images,
            {self._images, self._examples.classes, self._threshold, *question},
            [self._cached, self._chosen, self._overview, self._files, *image, *reasons],
            show_progress_on=self._answer,
            scroll_to_output=True,
            **private,
        )
        labels = [self._labels, self._descriptions, self._domain]
        self._adaptive.input(lambda chosen: gr.Slider(visible=not chosen), self._adaptive, self._views, **private)
        self._photos.select(_try_photo, None, [self._images, *labels], **private)
        self._overview.select(self._choose, self._cached, [self._chosen, *image, *reasons], **private)
        self._label.input(self._reasons_of, state, reasons, **private)
        self._gallery.select(self._frame, state, self._heat, show_progress="hidden", **private)
        self._dataset.input(self._dataset_labels, self._dataset, labels, **private)
        self._bundled.click(self._dataset_descriptions, self._dataset, self._descriptions, **private)
        self._write.click(self._llm_descriptions, [self._labels, self._domain], self._descriptions, **private)
        self._examples.connect()

    def _label_images(self, values: dict[Any, Any], progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        """Answer the question about all images, and show the first that could be read; `values` are by their fields."""
        paths = [path for path, _ in values[self._images] or []]
        typed = Typed(
            values[self._labels],
            values[self._descriptions],
            values[self._other],
            values[self._method],
            None if values[self._adaptive] else int(values[self._views]),
            values[self._domain],
            values[self._threshold],
        )
        examples = {name: [each.file for each in images] for name, images in values[self._examples.classes].items()}
        try:
            if not paths:
                raise InputError("there are no images yet; drop some into the field, or choose a photo to try")
            shown = self._answers(paths, question_of(typed, examples, self._own), progress)
        except (InputError, Busy, Unavailable) as error:
            raise in_words(error) from error
        first = next((number for number, each in enumerate(shown) if each.reasons), 0)
        overview = [(each.image, each.verdict) for each in shown]
        several = gr.Gallery(overview, visible=len(shown) > 1, selected_index=first)
        return [shown, first, several, files_html(shown), *_image(shown[first])]

    def _answers(self, paths: Sequence[str], question: Question, progress: gr.Progress) -> list[Shown]:
        if len(paths) > self._engine.limits.images:
            raise InputError(f"{len(paths)} images were chosen, but {self._engine.limits.images} are the limit; take fewer")
        shown: list[Shown] = []
        copies: dict[int, tuple[bytes, tuple[int, int]]] = {}

        def decoded(number: int, pixels: Tensor) -> None:
            copies[number] = reduced(pixels, SIDE), (pixels.shape[2], pixels.shape[1])

        with self._engine.admit(len(paths)), ExitStack() as files:
            progress(0, "reading the labels")
            classify = self._engine.classifier(question)
            opened = [(Path(path).name, files.enter_context(open(path, "rb"))) for path in paths]
            progress(0, f"looking at {len(paths)} image{'s' * (len(paths) > 1)}")
            for name, features in zip(paths, self._engine.encode(opened, classify, decoded), strict=True):
                result = classify.result(Path(name).name, features, TOP)
                if isinstance(features, InputError):
                    shown.append(Shown(result))
                else:
                    content, size = copies.pop(len(shown))
                    reasons = explain(classify, name, EXPLAINED, features=features, size=size)
                    shown.append(Shown(result, content, reasons, classify.examples, classify.descriptions_source))
                progress((len(shown), len(paths)), f"{len(shown)} of {len(paths)} looked at")
        return shown

    def _choose(self, shown: list[Shown], event: gr.SelectData) -> list[Any]:
        return [event.index, *_image(shown[event.index])]

    def _reasons_of(self, shown: list[Shown], chosen: int, label: str) -> list[Any]:
        return _reasons(shown[chosen], label)

    def _frame(self, shown: list[Shown], chosen: int, label: str, event: gr.SelectData) -> Any:
        reasons = shown[chosen].reasons
        if reasons is None:
            return gr.skip()
        return heat_image(shown[chosen], label, strongest_views(reasons, label)[event.index])

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
            raise in_words(error) from error
        if failed := [f"{answer.name} ({answer.failure})" for answer in answers if answer.failure]:
            gr.Warning(f"no descriptions came for {', '.join(failed)}")
        texts = {answer.name: [f"has {text}" for text in answer.texts] for answer in answers if answer.texts}
        return as_lines({name: texts[name] for name in names if name in texts})


def _image(shown: Shown) -> list[Any]:
    """Fill the fields of an image's answer and, for its best label, of the reasons."""
    reasons = shown.reasons
    if reasons is None:
        return [answer_html(shown), gr.Column(visible=False), *[gr.skip()] * 9]
    names = [evidence.label for evidence in reasons.classes]
    bars = {p.label: p.probability for p in shown.result.predictions}
    return [answer_html(shown), gr.Column(visible=True), bars, gr.Radio(names, value=names[0]), *_reasons(shown, names[0])]


def _reasons(shown: Shown, label: str) -> list[Any]:
    """Fill the fields of a label's reasons."""
    reasons = shown.reasons
    if reasons is None:
        return [gr.skip()] * 7
    alt = f"{shown.result.image}, with what speaks for {label} laid over it"
    several, pairs = len(reasons.boxes) > 1, bool(reasons.evidence(label).matches)
    return [
        gr.Column(visible=several),
        gr.Image(heat_image(shown, label), alt_text=alt),
        legend_html(reasons, label),
        reasons_html(reasons, label),
        gr.Column(visible=several or pairs),
        PAIRS_TITLE if pairs else VIEWS_TITLE,
        gr.Gallery(view_images(shown, label), elem_classes=["pairs"] if pairs else [], selected_index=None),
    ]


def _try_photo(event: gr.SelectData) -> tuple[list[str], str, str, str]:
    photo = list(PHOTOS)[event.index]
    return [str(photo)], PHOTOS[photo], "", ""
