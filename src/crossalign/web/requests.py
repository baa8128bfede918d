"""What a request brings: images, example images and what is asked of them, as multipart or JSON."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from crossalign.methods.registry import METHODS
from crossalign.text.labels import check_labels, split_labels
from crossalign.web.engine import Limits
from crossalign.web.label_sets import ExampleFile, Question

Images = list[tuple[str, BinaryIO]]
ExampleFiles = dict[str, list[ExampleFile]]
EXAMPLES = "examples."
"""Begins the names of a form's fields that hold the example images of a label."""
MOST = 1_000_000
"""No question makes sense of a larger number, and tensors cannot count as far as JSON."""
METHOD_NAMES: list[Any] = [method.name for method in METHODS.values() if method.single_image]
Body = TypeVar("Body", bound=BaseModel)


def _views(given: Any, validate: Callable[[Any], Any]) -> Any:
    """Say in one sentence what two kinds of values would say in two."""
    try:
        return validate(given)
    except ValidationError:
        raise PydanticCustomError("views", "must be a whole number from 1 to {most}, or adaptive", {"most": MOST}) from None


Views = Annotated[Annotated[int, Field(ge=1, le=MOST)] | Literal["adaptive"], WrapValidator(_views)]


class Asked(BaseModel):
    """What is asked of the images."""

    model_config = ConfigDict(extra="forbid")

    labels: list[str] | None = Field(
        None, description="Class names, at least two; by default those of the examples, or the server's own."
    )
    descriptions: dict[str, list[str]] | None = Field(
        None, description="For every label some texts; without any, hand-written templates stand in."
    )
    method: str = Field("wca", json_schema_extra={"enum": METHOD_NAMES})
    other: list[str] = Field([], description="Further class names that compete, but are no answer.")
    domain: str = Field("", description='What kind of thing all labels are, such as "pet".')
    views: Views | None = Field(
        None, description="Local views per image, or adaptive: as many as its answer takes. By default adaptive, or 60."
    )
    multi_label: bool = Field(False, description="Give each label its own probability; for encoders such as SigLIP.")
    threshold: float | None = Field(
        None, ge=0, le=1, description="Least probability of an answer; by default the server's, 0.5 with multi_label, or 0."
    )
    top_k: int = Field(3, ge=1, le=MOST, description="How many labels each image gets.")


class AskedInJson(Asked):
    """The JSON body: images in base64 beside what is asked of them."""

    images: list[str] = Field(min_length=1, description="Image files in base64, or data URLs with base64.")
    examples: dict[str, list[str]] | None = Field(
        None,
        min_length=1,
        description="For every label some example images, as for images. Without labels, its keys are the labels.",
    )


MULTIPART = {
    "type": "object",
    "description": "Example images of a label are files in fields named examples.LABEL, one field per file.",
    "required": ["images"],
    "properties": {
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1},
        "labels": {
            "type": "string",
            "description": "Comma separated, one per line, or a JSON list; commas inside double quotes do not split.",
        },
        "descriptions": {"type": "string", "description": "JSON: {label: [text]}."},
        "other": {"type": "string", "description": "Class names that are no answer, written as labels are."},
        "method": {
            "type": "string",
            "enum": METHOD_NAMES,
            "default": "wca",
        },
        "domain": {"type": "string"},
        "views": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MOST}, {"const": "adaptive"}]},
        "multi_label": {"type": "boolean", "default": False},
        "threshold": {"type": "number", "minimum": 0, "maximum": 1},
        "top_k": {"type": "integer", "minimum": 1, "maximum": MOST, "default": 3},
    },
}
BODIES = {
    "multipart/form-data": {"schema": MULTIPART},
    "application/json": {"schema": AskedInJson.model_json_schema()},
}


class Refused(Exception):
    """A request that is answered with a status and a reason."""

    def __init__(self, status: int, reason: str, **headers: str):
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


@asynccontextmanager
async def received(request: Request, limits: Limits) -> AsyncIterator[tuple[Images, Question, int]]:
    """Read the images, the question and the wanted number of labels; the images' files stay open inside the block."""
    readers = {"multipart/form-data": _from_form, "application/json": _from_json}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in readers:
        raise Refused(415, f"the content type is {kind!r}, but must be {' or '.join(readers)}")
    try:
        images, examples, asked = await asyncio.wait_for(readers[kind](request, limits), limits.seconds)
    except asyncio.TimeoutError:
        reason = f"the request did not arrive within {limits.seconds:g} s; send less at once"
        raise Refused(408, reason, Connection="close") from None
    except ClientDisconnect:
        raise Refused(400, "the request broke off") from None
    try:
        if len(images) > limits.images:
            raise Refused(422, f"{len(images)} images were given, but {limits.images} are the limit; send fewer")
        # An empty list is no request for the server's own labels.
        labels = () if asked.labels is None else check_labels(asked.labels)
        settings = asked.model_dump(exclude={"labels", "images", "examples", "top_k"})
        yield images, Question.of(labels, examples=examples, **settings), asked.top_k
    finally:
        await request.close()


async def _from_form(request: Request, limits: Limits) -> tuple[Images, ExampleFiles, Asked]:
    try:
        form = await request.form(max_files=limits.images + limits.examples, max_fields=100)
    except HTTPException as error:
        raise Refused(422, f"the form cannot be read: {error.detail}") from None
    images = form.getlist("images")
    files = [image for image in images if isinstance(image, UploadFile)]
    if not files or len(files) < len(images):
        raise Refused(422, "images must be one or more files")
    fields: dict[str, Any] = {}
    examples: ExampleFiles = {}
    for name, value in form.multi_items():
        if name.startswith(EXAMPLES):
            if not isinstance(value, UploadFile):
                raise Refused(422, f"{name} must be image files")
            of_label = examples.setdefault(name.removeprefix(EXAMPLES), [])
            of_label.append(ExampleFile.of(value.filename or f"number {len(of_label) + 1}", await value.read()))
        elif name in ("labels", "other"):
            if isinstance(value, UploadFile):
                raise Refused(422, f"{name} must be text, not a file")
            fields.setdefault(name, []).extend(split_labels(value, name))
        elif name != "images":
            fields[name] = _parsed(value) if name == "descriptions" else value
    asked = _checked(lambda: Asked.model_validate(fields))
    return [(file.filename or f"number {n}", file.file) for n, file in enumerate(files, start=1)], examples, asked


async def _from_json(request: Request, _: Limits) -> tuple[Images, ExampleFiles, Asked]:
    body = await request.body()
    asked = _checked(lambda: AskedInJson.model_validate_json(body, strict=True))
    images: Images = [
        (f"number {n}", BytesIO(_from_base64(text, f"image number {n}"))) for n, text in enumerate(asked.images, start=1)
    ]
    examples = {
        label: [
            ExampleFile.of(f"number {n}", _from_base64(text, f"example number {n} of {label!r}"))
            for n, text in enumerate(texts, start=1)
        ]
        for label, texts in (asked.examples or {}).items()
    }
    return images, examples, asked


def _from_base64(text: str, what: str) -> bytes:
    """Decode base64 as programs write it: in one line or wrapped, of either alphabet, or in a data URL."""
    if text[:5].lower() == "data:":
        kind, comma, text = text.partition(",")
        if not comma or not kind.lower().endswith(";base64"):
            raise Refused(422, f"{what} is a data URL without base64; send data:image/png;base64,...")
    text = re.sub(r"\s+", "", text).translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Refused(422, f"{what} is no base64; send the file's bytes as base64, or a data URL") from None


def _parsed(text: Any) -> Any:
    try:
        content = json.loads(text)
        # JSON may spell halves of characters, which no tokenizer takes.
        json.dumps(content, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise Refused(422, "descriptions must be JSON: {label: [text]}") from None
    return content


def _checked(validate: Callable[[], Body]) -> Body:
    """Turn pydantic's errors into a sentence."""
    try:
        return validate()
    except ValidationError as error:
        reasons = [f"{'.'.join(map(str, e['loc'])) or 'the body'}: {e['msg']}" for e in error.errors()[:3]]
        raise Refused(422, "; ".join(reasons)) from None
