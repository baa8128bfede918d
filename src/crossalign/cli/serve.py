"""`crossalign serve`: the web page and the API on one port."""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
import logging
import os
import signal
import socket
import sys
import tempfile
from contextlib import redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _cluster as clusters
from crossalign.cli import _common as common
from crossalign.errors import InputError
from crossalign.text.labels import check_labels

if TYPE_CHECKING:
    from fastapi import FastAPI

    from crossalign.text.descriptions.llm import Server
    from crossalign.web.engine import Engine, Limits
    from crossalign.web.guards import Access

POSITIVE = click.FloatRange(0, min_open=True)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; 0.0.0.0 lets other machines in.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--encoder", default="builtin", show_default=True, help="See `crossalign encoders`.")
@click.option("--labels-file", type=click.Path(), help="Class names, one a line, for requests that bring none.")
@click.option("--auth", help="user:VARIABLE, the environment variable that holds the password.")
@click.option(
    "--cors",
    multiple=True,
    metavar="ORIGIN",
    help="Let scripts of web pages from there use the API, such as https://example.org; may be repeated. [default: none]",
)
@click.option("--root-path", default="", metavar="PATH", help="Path below which a proxy serves it, /tools/crossalign.")
@click.option("--model", help="An LLM's name; the page then offers to have descriptions written.")
@click.option(
    "--base-url", envvar="OPENAI_BASE_URL", show_envvar=True, help="Of its server, with /v1 [default: OpenAI's own]."
)
@click.option("--max-megabytes", default=32.0, show_default=True, type=POSITIVE, help="A request.")
@click.option("--max-megapixels", default=50.0, show_default=True, type=POSITIVE, help="A picture.")
@click.option("--max-images", default=32, show_default=True, type=click.IntRange(1), help="A request.")
@click.option("--max-labels", default=1000, show_default=True, type=click.IntRange(2), help="A request.")
@click.option("--queue", default=64, show_default=True, type=click.IntRange(1), help="Pictures of all that may wait.")
@click.option("--timeout", default=120.0, show_default=True, type=POSITIVE, help="Seconds a request.")
@common.workers_option
@common.device_option
@common.runtime_options
@clusters.executor_options
def command(**options: Any) -> None:
    """Serve a web page at / and an API at /v1, with its documentation at /docs.

    Nobody but this machine reaches it unless --host says so. What is too large or too much is refused with a reason, and no
    path that a client sends is opened. The LLM's key, if it needs one, comes from OPENAI_API_KEY.

    With --executor ray the API is served by replicas on a Ray cluster, whose head node listens; limits hold for each
    replica. The page is left out there, since its visitors' results live in one process.

    \b
    Examples:
      crossalign serve
      crossalign serve --port 8000 --encoder open_clip:ViT-B-32/openai --labels-file labels.txt
      SECRET=... crossalign serve --host 0.0.0.0 --auth anna:SECRET
      curl -F images=@cat.jpg -F labels=cat,dog http://127.0.0.1:7860/v1/classify
      crossalign serve --executor ray --ray-address auto --host 0.0.0.0 --auth anna:SECRET
    """
    # Without this, SIGTERM would leave the folder of uploads behind.
    signal.signal(signal.SIGTERM, _end)
    clusters.check_executor(options)
    _check_installed(options["executor"])
    access = _access(options)
    labels = check_labels(common.read_labels(None, options["labels_file"])) if options["labels_file"] else []
    if options["executor"] == "ray":
        _serve_on_cluster(options, labels, access)
    else:
        _serve_here(options, labels, access)


def _end(*_: Any) -> None:
    sys.exit(0)


def _serve_here(options: dict[str, Any], labels: list[str], access: Access) -> None:
    llm = _llm(options["model"], options["base_url"]) if options["model"] else None
    with _listen(options["host"], options["port"]) as listener, tempfile.TemporaryDirectory(prefix="crossalign-") as folder:
        _warn_if_open(options["host"], access.login is not None)
        # Uploads go where no other user can look, and vanish with the server.
        os.environ["GRADIO_TEMP_DIR"] = folder
        encoder = common.load_encoder(options["encoder"], options)

        from crossalign.web.api import create_app
        from crossalign.web.engine import Engine
        from crossalign.web.page import mount_page

        engine = Engine(encoder, _limits(options), num_workers=max(1, options["num_workers"]))
        app = create_app(engine, labels, access)
        mount_page(app, engine, labels, llm, access.root_path)
        listener.listen()
        click.echo(_listens(options["host"], listener.getsockname()[1]))
        _run(app, listener, engine)


def _serve_on_cluster(options: dict[str, Any], labels: list[str], access: Access) -> None:
    if options["model"]:
        raise InputError(f"--model {options['model']} belongs to the page, which a cluster does not serve; leave it out")
    from crossalign.distributed.serving import Replica, deployed, watch

    _warn_if_open(options["host"], access.login is not None)
    limits = _limits(options)
    encoder = common.load_encoder(options["encoder"], clusters.for_driver(options))
    # Ray tells of each worker that dies on standard output.
    terminal = sys.stdout
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        clusters.join(options, encoder) as cluster,
        suppress(KeyboardInterrupt),
    ):
        # Ray has put its own in this one's place.
        signal.signal(signal.SIGTERM, _end)
        replica = Replica(cluster.load_of_worker, limits, tuple(labels), access)
        with deployed(cluster, replica, options["host"], options["port"]) as port:
            click.echo(_listens(options["host"], port), terminal)
            watch()


def _check_installed(executor: str) -> None:
    on_cluster = executor == "ray"
    needed = ("fastapi", "fastapi_offline", "ray" if on_cluster else "gradio", "python_multipart", "uvicorn")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        extras = "ray,serve" if on_cluster else "serve"
        raise InputError(f"serving needs {', '.join(missing)} too; run `pip install 'crossalign[{extras}]'`")


def _access(options: dict[str, Any]) -> Access:
    from crossalign.web.guards import Access

    login = _login(options["auth"]) if options["auth"] else None
    return Access(login, tuple(origin.rstrip("/") for origin in options["cors"]), options["root_path"].rstrip("/"))


def _login(auth: str) -> tuple[str, str]:
    user, _, variable = auth.partition(":")
    if not user or not variable:
        raise InputError(f"--auth is {auth!r}, but must be user:VARIABLE, the variable that holds the password")
    password = os.environ.get(variable, "")
    if not password:
        raise InputError(f"the environment variable {variable!r} that --auth names holds no password; set it")
    return user, password


def _llm(model: str, base_url: str | None) -> Server:
    from crossalign.text.descriptions.llm import NO_KEY, OPENAI_URL, Server

    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and not base_url:
        raise InputError("the environment variable OPENAI_API_KEY holds no API key; set it, or give a local --base-url")
    return Server(model, base_url or OPENAI_URL, key or NO_KEY)


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything slow is done."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host!r}, port {port} ({error.strerror}); choose another --port or --host"
        ) from None
    return listener


def _limits(options: dict[str, Any]) -> Limits:
    from crossalign.web.engine import Limits

    return Limits(
        megabytes=options["max_megabytes"],
        megapixels=options["max_megapixels"],
        images=min(options["max_images"], options["queue"]),
        labels=options["max_labels"],
        queue=options["queue"],
        seconds=options["timeout"],
    )


def _warn_if_open(host: str, locked: bool) -> None:
    if not _is_loopback(host):
        who = "whoever knows the password" if locked else "anybody"
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
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Answer those who wait, then cut the connections that the page keeps open, which is no error."""
            await asyncio.to_thread(engine.close)
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    for handler in logging.getLogger("crossalign").handlers:
        logging.getLogger("uvicorn").addHandler(handler)
    with suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listener])
