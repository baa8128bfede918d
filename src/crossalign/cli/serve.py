"""`crossalign serve`: the web page and the API on one port."""

from __future__ import annotations

import importlib.util
import ipaddress
import logging
import os
import signal
import socket
import sys
import tempfile
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _cluster as clusters
from crossalign.cli import _common as common
from crossalign.cli._descriptions import say_bundled
from crossalign.cli._help import GroupedCommand
from crossalign.errors import InputError, need_package
from crossalign.text.labels import check_labels

if TYPE_CHECKING:
    from fastapi import FastAPI

    from crossalign.text.descriptions.llm import Server
    from crossalign.web.engine import Engine, Limits
    from crossalign.web.guards import Access
    from crossalign.web.label_sets import Defaults

POSITIVE = click.FloatRange(0, min_open=True)


@dataclass(frozen=True)
class Options:
    """The values of the command's options."""

    host: str
    port: int
    encoder: str
    encoder_options: common.EncoderOptions
    cluster: clusters.ClusterOptions
    labels_file: str | None
    examples: str | None
    calibration_file: str | None
    threshold: float | None
    auth: str | None
    cors: tuple[str, ...]
    root_path: str
    model: str | None
    base_url: str | None
    max_megabytes: float
    max_megapixels: float
    max_images: int
    max_examples: int
    max_labels: int
    queue: int
    timeout: float
    num_workers: int


@click.command(cls=GroupedCommand)
@click.option("--labels-file", type=click.Path(), help="Class names, one per line, for requests without labels.")
@click.option(
    "--examples",
    type=click.Path(),
    help="Folder DIR/CLASS/images of example images, for requests without labels. With --labels-file, texts and examples "
    "answer together.",
)
@click.option("--encoder", default="builtin", show_default=True, help="See `crossalign encoders`.")
@click.option(
    "--calibration",
    "calibration_file",
    type=click.Path(),
    help="File of `crossalign evaluate --calibration-file` for --labels-file or --examples: probabilities are calibrated, "
    "and an image below the threshold gets no label (unsure).",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Least probability of an answer, for requests that name none [default: from --calibration; otherwise 0].",
)
@click.option("--model", help="Name of an LLM; the page then offers to let it write descriptions.")
@click.option(
    "--base-url",
    envvar="OPENAI_BASE_URL",
    show_envvar=True,
    help="URL of the LLM's server, with /v1 [default: OpenAI's].",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 lets other machines connect."
)
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option("--auth", metavar="USER:VARIABLE", help="Ask for this user and for the password in this environment variable.")
@click.option(
    "--cors",
    multiple=True,
    metavar="ORIGIN",
    help="Allow scripts of pages from this origin, such as https://example.org; may be repeated [default: none].",
)
@click.option(
    "--root-path", default="", metavar="PATH", help="Path under which a proxy publishes the server, such as /crossalign."
)
@click.option(
    "--max-megabytes", default=32.0, show_default=True, type=POSITIVE, help="Largest request, in megabytes (10^6 bytes)."
)
@click.option(
    "--max-megapixels", default=50.0, show_default=True, type=POSITIVE, help="Largest image, in millions of pixels."
)
@click.option("--max-images", default=32, show_default=True, type=click.IntRange(1), help="Most images in a request.")
@click.option(
    "--max-examples", default=100, show_default=True, type=click.IntRange(1), help="Most example images in a request."
)
@click.option("--max-labels", default=1000, show_default=True, type=click.IntRange(2), help="Most labels in a request.")
@click.option(
    "--queue", default=64, show_default=True, type=click.IntRange(1), help="Most images that wait, of all clients."
)
@click.option("--timeout", default=120.0, show_default=True, type=POSITIVE, help="Longest time for a request, in seconds.")
@common.encoder_options
@common.workers_option
@clusters.executor_options
def command(**values: Any) -> None:
    """Serve a web page at / and an API at /v1; the documentation of the API is at /docs.

    Only this machine can connect unless --host says otherwise. A request that exceeds a limit is refused with the reason.
    The server never opens a path that a client sends. The key of the LLM, if it needs one, is read from OPENAI_API_KEY.

    With --executor ray, replicas on a Ray cluster serve the API, and the head node listens. The limits hold for each
    replica. The page is not served on a cluster, because its results live in one process.

    \b
    Examples:
      crossalign serve
      crossalign serve --port 8000 --encoder open_clip:ViT-B-32/openai --labels-file labels.txt
      crossalign serve --examples sorted/ --threshold 0.8               # labels are the folders of sorted/
      crossalign serve --labels-file labels.txt --examples sorted/ --calibration cal.json
      SECRET=... crossalign serve --host 0.0.0.0 --auth anna:SECRET
      curl -F images=@cat.jpg -F labels=cat,dog http://127.0.0.1:7860/v1/classify
      crossalign serve --executor ray --ray-address auto --host 0.0.0.0 --auth anna:SECRET
    """
    # Without this, SIGTERM would leave the folder of uploads behind.
    signal.signal(signal.SIGTERM, _end)
    options = Options(**values)
    options.cluster.check()
    _check_installed(options.cluster)
    access = _access(options)
    defaults = _defaults(options)
    say_bundled(defaults.labels, "requests that bring their own use those")
    if options.cluster.ray:
        _serve_on_cluster(options, defaults, access)
    else:
        _serve_here(options, defaults, access)


def _end(*_: Any) -> None:
    sys.exit(0)


def _serve_here(options: Options, defaults: Defaults, access: Access) -> None:
    llm = _llm(options.model, options.base_url) if options.model else None
    with _listen(options.host, options.port) as listener, tempfile.TemporaryDirectory(prefix="crossalign-") as folder:
        _warn_if_open(options.host, access.login is not None)
        # No other user can read this folder, and it is removed with the server.
        os.environ["GRADIO_TEMP_DIR"] = folder
        encoder = common.load_encoder(options.encoder, options.encoder_options)

        from crossalign.web.api import create_app
        from crossalign.web.engine import Engine
        from crossalign.web.page import mount_page

        engine = Engine(encoder, _limits(options), defaults, num_workers=max(1, options.num_workers))
        engine.check_defaults()
        app = create_app(engine, access)
        mount_page(app, engine, llm, access.root_path)
        listener.listen()
        click.echo(_listens(options.host, listener.getsockname()[1]))
        _run(app, listener, engine)


def _serve_on_cluster(options: Options, defaults: Defaults, access: Access) -> None:
    if options.model:
        raise InputError(f"--model {options.model} needs the page, which is not served on a cluster; omit --model")
    if options.examples:
        raise InputError(
            f"--examples {options.examples} is read on this machine only, but replicas run on others; omit it or "
            "--executor ray"
        )
    from crossalign.distributed.serving import Replica, deployed, watch

    _warn_if_open(options.host, access.login is not None)
    limits = _limits(options)
    encoder = common.load_encoder(options.encoder, options.cluster.for_driver(options.encoder_options))
    # Ray reports each worker that dies on standard output.
    terminal = sys.stdout
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        clusters.join(options.cluster, encoder, options.encoder_options, options.num_workers) as cluster,
        suppress(KeyboardInterrupt),
    ):
        # Ray has replaced our handler.
        signal.signal(signal.SIGTERM, _end)
        replica = Replica(cluster.load_of_worker, limits, defaults, access)
        with deployed(cluster, replica, options.host, options.port) as port:
            click.echo(_listens(options.host, port), terminal)
            watch()


def _check_installed(cluster: clusters.ClusterOptions) -> None:
    needed = ("fastapi", "fastapi_offline", "ray" if cluster.ray else "gradio", "python_multipart", "uvicorn")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        extras = "ray,serve" if cluster.ray else "serve"
        raise InputError(f"serving needs {', '.join(missing)} too; run `pip install 'crossalign[{extras}]'`")


def _defaults(options: Options) -> Defaults:
    """Read the server's own classes."""
    if options.calibration_file and not (options.labels_file or options.examples):
        raise InputError(
            f"--calibration {options.calibration_file} is for one set of labels; give that with --labels-file or --examples"
        )
    from crossalign.classifier.calibration import read_calibrations
    from crossalign.web.label_sets import Defaults

    return Defaults(
        tuple(check_labels(common.read_labels(None, options.labels_file))) if options.labels_file else (),
        options.examples,
        read_calibrations(options.calibration_file) if options.calibration_file else None,
        options.threshold,
    )


def _access(options: Options) -> Access:
    from crossalign.web.guards import Access

    login = _login(options.auth) if options.auth else None
    return Access(login, tuple(origin.rstrip("/") for origin in options.cors), options.root_path.rstrip("/"))


def _login(auth: str) -> tuple[str, str]:
    user, _, variable = auth.partition(":")
    if not user or not variable:
        raise InputError(f"--auth is {auth!r}, but must be USER:VARIABLE, the variable that holds the password")
    password = os.environ.get(variable, "")
    if not password:
        raise InputError(f"the environment variable {variable!r} that --auth names holds no password; set it")
    return user, password


def _llm(model: str, base_url: str | None) -> Server:
    from crossalign.text.descriptions.llm import NO_KEY, OPENAI_URL, Server

    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and not base_url:
        raise InputError("the environment variable OPENAI_API_KEY holds no API key; set it, or give a local --base-url")
    need_package("openai", "llm", "asking an LLM")
    return Server(model, base_url or OPENAI_URL, key or NO_KEY)


def _listen(host: str, port: int) -> socket.socket:
    """Bind the port before anything slow is done."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if os.name != "nt":  # There, the option would let two servers listen on one port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host!r}, port {port} ({error.strerror}); choose another --port or --host"
        ) from None
    return listener


def _limits(options: Options) -> Limits:
    from crossalign.web.engine import Limits

    return Limits(
        megabytes=options.max_megabytes,
        megapixels=options.max_megapixels,
        images=min(options.max_images, options.queue),
        examples=options.max_examples,
        labels=options.max_labels,
        queue=options.queue,
        seconds=options.timeout,
    )


def _warn_if_open(host: str, locked: bool) -> None:
    if not _is_loopback(host):
        who = "whoever knows the password" if locked else "anyone"
        advice = "the password travels unencrypted unless a proxy adds TLS" if locked else "--auth asks for a password"
        click.echo(f"Warning: other machines reach {host}, and {who} there can use it; {advice}", err=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listens(host: str, port: int) -> str:
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    return f"crossalign listens on {address} (API at /v1, its documentation at /docs); Ctrl+C ends it"


def _run(app: FastAPI, listener: socket.socket, engine: Engine) -> None:
    import asyncio

    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Answer the waiting requests, then close the connections that the page keeps open; that is no error."""
            await asyncio.to_thread(engine.close)
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    for handler in logging.getLogger("crossalign").handlers:
        logging.getLogger("uvicorn").addHandler(handler)
    with suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listener])
