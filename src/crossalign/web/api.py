"""The HTTP API: the engine's answers as JSON, and a reason in words for whatever is refused."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import open_clip
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from crossalign import __version__
from crossalign.encoders import backends
from crossalign.errors import InputError
from crossalign.web.engine import Busy, Engine, Unavailable
from crossalign.web.guards import Access, BasicAuth, BodyLimit, OtherOrigins, PathPrefix, route_of
from crossalign.web.label_sets import Question
from crossalign.web.requests import BODIES, Images, Refused, received


class LabelScore(BaseModel):
    """A label with the score of its class and its probability among the labels."""

    label: str
    score: float
    probability: float


class ImageAnswer(BaseModel):
    """An image, by the name of its file or its number, and its best labels, best first."""

    image: str
    label: str | None = Field(description="The best label; null for the reason that stands beside it.")
    reason: str | None = Field(description='Why there is no label: "unsure" or "other".')
    predictions: list[LabelScore]
    views: int = Field(description="How many local views were encoded.")


class Answer(BaseModel):
    """The labels of each image, in order."""

    encoder: str
    method: str
    descriptions: str | None = Field(
        description='Where the texts come from: "bundled:NAME", "templates", or "descriptions" for those of the request.'
    )
    mixture: str | None = Field(description="With examples: the shares of texts and examples in the score, and why.")
    results: list[ImageAnswer]


class Health(BaseModel):
    """How the server is."""

    status: str
    version: str
    encoder: str
    waiting: int = Field(description="Images that wait or are worked on.")
    queue: int = Field(description="How many may.")
    label_sets: int = Field(description="Sets of labels that are cached.")


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


REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Refusal, "description": "User or password is missing or wrong."},
    408: {"model": Refusal, "description": "The request came too slowly."},
    413: {"model": Refusal, "description": "The request is too large."},
    415: {"model": Refusal, "description": "The body is neither multipart/form-data nor application/json."},
    422: {"model": Refusal, "description": "An image or a field is wrong, or breaks a limit."},
    429: {"model": Refusal, "description": "The queue is full; try again after the seconds in Retry-After."},
    503: {"model": Refusal, "description": "There was no answer in time."},
}


def create_app(engine: Engine, access: Access | None = None) -> FastAPI:
    """Build the application.

    Args:
        engine: answers.
        access: who reaches it, and where; by default everybody, at the root, and no other web page.
    """
    access = access or Access()
    app = FastAPIOffline(
        title="crossalign",
        version=__version__,
        description="Labels for images, without training: see `crossalign serve --help`.",
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
        """Label images: one or more files as multipart, or base64 in JSON."""
        # A place is taken before the body is read, so that no more bodies than places are held.
        with engine.admit(1):
            async with received(request, engine.limits) as (images, question, top_k):
                with engine.admit(len(images) - 1):
                    loop = asyncio.get_running_loop()
                    return await loop.run_in_executor(threads, _answer, engine, images, question, top_k)

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


def _answer(engine: Engine, images: Images, question: Question, top_k: int) -> Answer:
    classify = engine.classifier(question)
    results = []
    for (name, _), features in zip(images, engine.encode(images, classify), strict=True):
        if isinstance(features, InputError):
            raise features
        result = classify.result(name, features, top_k)
        predictions = [LabelScore(**asdict(prediction)) for prediction in result.predictions]
        views = len(features) - 1
        results.append(
            ImageAnswer(image=name, label=result.label, reason=result.reason, predictions=predictions, views=views)
        )
    scorer = classify.scorer
    mixture = str(scorer.examples.mixture) if scorer.examples else None
    return Answer(
        encoder=engine.encoder.name,
        method=scorer.method.name,
        descriptions=classify.descriptions_source,
        mixture=mixture,
        results=results,
    )


def _refuse_the_rest(app: FastAPI) -> None:
    """Answer in JSON below /v1, too, where nothing is; else whatever is mounted on / would."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        # This mount's own path is a part of its root.
        path = scope["path"].removeprefix(scope["root_path"].removesuffix("/v1"))
        routes = [route for route in app.routes if getattr(route, "path", "") == path]
        methods = sorted({method for route in routes for method in getattr(route, "methods", None) or ()})
        reason = f"{path} answers only {', '.join(methods)}" if methods else f"there is nothing at {path}; see /docs"
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
