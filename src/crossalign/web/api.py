"""The HTTP API: the engine's answers as JSON, and a reason in words for whatever is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from io import BytesIO
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

import open_clip
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from crossalign import __version__
from crossalign.encoders import backends
from crossalign.errors import InputError
from crossalign.methods.registry import METHODS
from crossalign.text.labels import check_labels, split_labels
from crossalign.web.engine import Busy, Engine, Limits, Unavailable
from crossalign.web.guards import Access, BasicAuth, BodyLimit, OtherOrigins, PathPrefix, route_of
from crossalign.web.label_sets import Question

Pictures = list[tuple[str, BinaryIO]]
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
    """What is asked of the pictures."""

    model_config = ConfigDict(extra="forbid")

    labels: list[str] | None = Field(None, description="Class names, at least two; by default the server's own.")
    descriptions: dict[str, list[str]] | None = Field(
        None, description="For every label some texts; without any, hand-written templates stand in."
    )
    method: str = Field("wca", json_schema_extra={"enum": METHOD_NAMES})
    domain: str = Field("", description='What kind of thing all labels are, such as "pet".')
    views: Views | None = Field(None, description="Local views a picture, by default 60; adaptive: what its answer takes.")
    top_k: int = Field(3, ge=1, le=MOST, description="How many labels each picture gets.")


class AskedWithPictures(Asked):
    """The JSON body: pictures in base64 beside what is asked of them."""

    images: list[str] = Field(min_length=1, description="Image files in base64, or data URLs with base64.")


class Found(BaseModel):
    """A label with the score of its class and its probability among the labels."""

    label: str
    score: float
    probability: float


class Labelled(BaseModel):
    """A picture, by its file's name or its number, and its best labels, best first."""

    image: str
    predictions: list[Found]
    views: int = Field(description="How many local views were looked at.")


class Answer(BaseModel):
    """What was found for each picture, in order."""

    encoder: str
    method: str
    results: list[Labelled]


class Health(BaseModel):
    """How the server is."""

    status: str
    version: str
    encoder: str
    waiting: int = Field(description="Pictures that wait or are worked on.")
    queue: int = Field(description="How many may.")
    label_sets: int = Field(description="Sets of labels whose texts are kept.")


class Encoders(BaseModel):
    """The encoder that answers, and all that a server could be started with."""

    serving: str
    width: int = Field(description="Of the joint space.")
    image_size: list[int] = Field(description="Height and width in pixels that the encoder sees.")
    device: str
    known: list[str] = Field(description="Specs for `crossalign serve --encoder`.")


class Refusal(BaseModel):
    """Why there is no answer."""

    reason: str


class Refused(Exception):
    """A request that is answered with a status and a reason."""

    def __init__(self, status: int, reason: str, **headers: str):
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Refusal, "description": "User or password is missing or wrong."},
    408: {"model": Refusal, "description": "The request came too slowly."},
    413: {"model": Refusal, "description": "The request is too large."},
    415: {"model": Refusal, "description": "The body is neither multipart/form-data nor application/json."},
    422: {"model": Refusal, "description": "A picture or a field is wrong, or breaks a limit."},
    429: {"model": Refusal, "description": "The queue is full; try again after the seconds in Retry-After."},
    503: {"model": Refusal, "description": "There was no answer in time."},
}
MULTIPART = {
    "type": "object",
    "required": ["images"],
    "properties": {
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1},
        "labels": {
            "type": "string",
            "description": "Comma separated, one per line, or a JSON list; commas inside double quotes do not split.",
        },
        "descriptions": {"type": "string", "description": "JSON: {label: [text]}."},
        "method": {
            "type": "string",
            "enum": METHOD_NAMES,
            "default": "wca",
        },
        "domain": {"type": "string"},
        "views": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MOST}, {"const": "adaptive"}]},
        "top_k": {"type": "integer", "minimum": 1, "maximum": MOST, "default": 3},
    },
}
BODIES = {
    "multipart/form-data": {"schema": MULTIPART},
    "application/json": {"schema": AskedWithPictures.model_json_schema()},
}


def create_app(engine: Engine, labels: Sequence[str] = (), access: Access | None = None) -> FastAPI:
    """Build the application.

    Args:
        engine: answers.
        labels: class names for requests that bring none.
        access: who reaches it, and where; by default everybody, at the root, and no other web page.
    """
    access = access or Access()
    app = FastAPIOffline(
        title="crossalign",
        version=__version__,
        description="Labels for pictures, without training: see `crossalign serve --help`.",
        redoc_url=None,
        # It refuses nobody, but tells the documentation that `BasicAuth` will.
        dependencies=[Depends(HTTPBasic(auto_error=False))] if access.login else [],
    )
    # Requests with a place in the queue never wait for a thread.
    threads = ThreadPoolExecutor(engine.limits.queue, "request")

    @app.post(
        "/v1/classify",
        response_model=Answer,
        responses=REFUSALS,
        openapi_extra={"requestBody": {"required": True, "content": BODIES}},
    )
    async def classify(request: Request) -> Answer:
        """Label pictures: one or more files as multipart, or base64 in JSON."""
        # A place is taken before the body is read, so that no more bodies than places are held.
        with engine.admit(1):
            async with _asked(request, engine.limits) as (pictures, asked):
                with engine.admit(len(pictures) - 1):
                    loop = asyncio.get_running_loop()
                    return await loop.run_in_executor(threads, _answer, engine, pictures, asked, labels)

    @app.get("/v1/health", response_model=Health, responses={401: REFUSALS[401]})
    async def health() -> Health:
        """Say that the server is up, and how busy."""
        return Health(
            status="ok",
            version=__version__,
            encoder=engine.encoder.name,
            waiting=engine.waiting,
            queue=engine.limits.queue,
            label_sets=engine.label_sets,
        )

    @app.get("/v1/encoders", response_model=Encoders, responses={401: REFUSALS[401]})
    async def encoders() -> Encoders:
        """Say which encoder answers, and which there are."""
        return Encoders(
            serving=engine.encoder.name,
            width=engine.encoder.width,
            image_size=list(engine.encoder.preprocessing.size),
            device=str(engine.encoder.device),
            known=[*backends(), *(f"open_clip:{arch}/{tag}" for arch, tag in open_clip.list_pretrained())],
        )

    _refuse_the_rest(app)
    _put_reasons(app)
    app.add_middleware(BodyLimit, megabytes=engine.limits.megabytes)
    # Each of these is asked before those above it.
    if access.login:
        app.add_middleware(BasicAuth, user=access.login[0], password=access.login[1])
    if access.origins:
        # A browser asks without a password whether a page's script may.
        app.add_middleware(OtherOrigins, origins=access.origins)
    if access.root_path:
        app.add_middleware(PathPrefix, root_path=access.root_path)
    return app


def _answer(engine: Engine, pictures: Pictures, asked: Asked, labels: Sequence[str]) -> Answer:
    settings = asked.model_dump(include={"descriptions", "method", "domain", "views"})
    if asked.labels is None and not labels:
        raise InputError("no labels were given, and the server has none of its own; send two or more")
    names = labels if asked.labels is None else check_labels(asked.labels)
    classify = engine.classifier(Question.of(names, **settings))
    results = []
    for (name, _), features in zip(pictures, engine.encode(pictures, classify), strict=True):
        if isinstance(features, InputError):
            raise features
        predictions = [Found(**asdict(p)) for p in classify.rank(classify.score(features[None])[0], asked.top_k)]
        results.append(Labelled(image=name, predictions=predictions, views=len(features) - 1))
    return Answer(encoder=engine.encoder.name, method=classify.method.name, results=results)


@asynccontextmanager
async def _asked(request: Request, limits: Limits) -> AsyncIterator[tuple[Pictures, Asked]]:
    """Read a request's pictures and question; the pictures' files stay open inside the block."""
    readers = {"multipart/form-data": _from_form, "application/json": _from_json}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in readers:
        raise Refused(415, f"the content type is {kind!r}, but must be {' or '.join(readers)}")
    try:
        asked = await asyncio.wait_for(readers[kind](request, limits), limits.seconds)
    except asyncio.TimeoutError:
        reason = f"the request did not arrive within {limits.seconds:g} s; send less at once"
        raise Refused(408, reason, Connection="close") from None
    except ClientDisconnect:
        raise Refused(400, "the request broke off") from None
    try:
        yield asked
    finally:
        await request.close()


async def _from_form(request: Request, limits: Limits) -> tuple[Pictures, Asked]:
    try:
        form = await request.form(max_files=limits.images, max_fields=100)
    except HTTPException as error:
        raise Refused(422, f"the form cannot be read: {error.detail}") from None
    images = form.getlist("images")
    files = [image for image in images if isinstance(image, UploadFile)]
    if not files or len(files) < len(images):
        raise Refused(422, "images must be one or more files")
    fields: dict[str, Any] = {name: value for name, value in form.items() if name not in ("images", "labels")}
    if "descriptions" in fields:
        fields["descriptions"] = _parsed(fields["descriptions"])
    if labels := form.getlist("labels"):
        if any(isinstance(label, UploadFile) for label in labels):
            raise Refused(422, "labels must be text, not a file")
        fields["labels"] = [label for text in labels for label in split_labels(str(text), "labels")]
    asked = _checked(lambda: Asked.model_validate(fields))
    return [(file.filename or f"number {n}", file.file) for n, file in enumerate(files, start=1)], asked


async def _from_json(request: Request, limits: Limits) -> tuple[Pictures, Asked]:
    body = await request.body()
    asked = _checked(lambda: AskedWithPictures.model_validate_json(body, strict=True))
    if len(asked.images) > limits.images:
        raise Refused(422, f"{len(asked.images)} images were given, but {limits.images} are the limit; send fewer")
    pictures: Pictures = []
    for n, text in enumerate(asked.images, start=1):
        pictures.append((f"number {n}", BytesIO(_from_base64(text, n))))
    return pictures, asked


def _from_base64(text: str, number: int) -> bytes:
    """Decode base64 as programs write it: in one line or wrapped, of either alphabet, or in a data URL."""
    if text[:5].lower() == "data:":
        kind, comma, text = text.partition(",")
        if not comma or not kind.lower().endswith(";base64"):
            raise Refused(422, f"image number {number} is a data URL without base64; send data:image/png;base64,...")
    text = re.sub(r"\s+", "", text).translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Refused(422, f"image number {number} is no base64; send the file's bytes as base64, or a data URL") from None


def _parsed(text: Any) -> Any:
    try:
        content = json.loads(text)
        # JSON may spell halves of characters, which no tokenizer takes.
        json.dumps(content, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise Refused(422, "descriptions must be JSON: {label: [text]}") from None
    return content


def _checked(validate: Callable[[], Body]) -> Body:
    """Turn pydantic's findings into a sentence."""
    try:
        return validate()
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc'])) or 'the body'}: {e['msg']}" for e in error.errors()[:3]]
        raise Refused(422, "; ".join(found)) from None


def _refuse_the_rest(app: FastAPI) -> None:
    """Answer in JSON below /v1, too, where nothing is; else whatever is mounted on / would."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        # This mount's own path is a part of its root.
        path = scope["path"].removeprefix(scope["root_path"].removesuffix("/v1"))
        found = [getattr(route, "methods", None) or () for route in app.routes if getattr(route, "path", "") == path]
        methods = sorted({method for of_route in found for method in of_route})
        reason = f"{path} answers {', '.join(methods)} alone" if methods else f"there is nothing at {path}; see /docs"
        headers = {"Allow": ", ".join(methods)} if methods else {}
        await JSONResponse({"reason": reason}, 405 if methods else 404, headers)(scope, receive, send)

    app.mount("/v1", refuse)


def _put_reasons(app: FastAPI) -> None:
    """Turn every failure into JSON with a reason."""

    def as_json(error: type[Exception], status: int, reason: str | None = None, **headers: str) -> None:
        async def handle(_: Request, raised: Exception) -> JSONResponse:
            return JSONResponse({"reason": reason or str(raised)}, status, headers)

        app.add_exception_handler(error, handle)

    as_json(InputError, 422)
    as_json(Busy, 429, **{"Retry-After": "2"})
    as_json(Unavailable, 503)
    as_json(Exception, 500, "the server failed; its log says where")

    @app.exception_handler(HTTPException)
    async def not_here(request: Request, error: HTTPException) -> JSONResponse:
        reason = f"there is nothing at {route_of(request.scope)}; see /docs" if error.status_code == 404 else error.detail
        return JSONResponse({"reason": reason}, error.status_code, error.headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"reason": error.reason}, error.status, error.headers)
