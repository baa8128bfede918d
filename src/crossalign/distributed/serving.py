"""The API on a Ray cluster: Ray Serve starts replicas, routes requests to them and replaces those that die.

Each replica is a whole server: the application that `crossalign serve` runs in one process, over an engine of its own. The
engine encodes the requests of its replica together, so that `serve.batch` in front of it would only make them wait twice.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import logging
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import ray

from crossalign.distributed import Cluster, LoadOfWorker, last_line
from crossalign.errors import InputError

try:
    from ray import serve
    from ray.serve.context import _get_global_client
except ImportError as error:
    raise InputError(f"serving on a cluster needs {error.name} too; run `pip install 'crossalign[ray,serve]'`") from None

from crossalign.web.engine import BATCH, Engine, Limits
from crossalign.web.guards import Access

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "crossalign"
"""Of the application in Ray Serve."""
MISSED = 4
"""Times in a row that the cluster does not answer before it is given up; its head may be started again."""
ATTEMPTS = 3
"""Of a replica to load its encoder."""
BESIDES = 16
"""Requests that a replica takes beyond its queue, so that it says by itself that it is full, and how it is."""


@dataclass(frozen=True)
class Replica:
    """How each replica is made; it is sent to them.

    Attributes:
        load: its encoder.
        limits: of what it takes on.
        labels: for requests that bring none.
        access: who reaches it, and where.
    """

    load: LoadOfWorker
    limits: Limits
    labels: tuple[str, ...] = ()
    access: Access = field(default_factory=Access)

    def app(self) -> FastAPI:
        """Load the encoder and build the application, there.

        Raises:
            InputError: the encoder is not there, or another one than the driver's.
        """
        from crossalign.web.api import create_app

        engine = Engine(self.load(), self.limits, num_workers=max(1, self.load.workers.decoders))
        return create_app(engine, self.labels, self.access)


@contextmanager
def deployed(cluster: Cluster, replica: Replica, host: str, port: int) -> Iterator[int]:
    """Serve the API on a cluster for as long as the block takes; one that was left there before is replaced.

    Args:
        cluster: whose workers the replicas are.
        replica: what each is.
        host, port: where the cluster's head node listens; port 0 takes a free one.

    Yields:
        The port, once the API answers.

    Raises:
        InputError: it cannot listen there, or no replica can be started.
    """
    reach = _reach(host)
    port = _start(host, port)
    try:
        try:
            target = serve.RunTarget(_application(cluster, replica), NAME, "/")
            # Not until all replicas run: the cluster may have no room for all of them yet.
            serve.run_many([target], wait_for_applications_running=False)
        except (ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise InputError(f"Ray Serve cannot deploy the API ({last_line(str(error))}); see `serve status`") from error
        _wait_until_it_answers(reach, port, replica.access.login)
        yield port
    finally:
        # Ray would wait a minute for a cluster that has ended before, and then end this process without a word.
        if _cluster_is_there():
            if serve.status().applications.keys() <= {NAME}:
                serve.shutdown()
            else:
                serve.delete(NAME)


def watch() -> NoReturn:
    """Wait for as long as the cluster is there.

    Raises:
        InputError: it has ended.
    """
    missed = 0
    while missed < MISSED:
        time.sleep(5)
        missed = 0 if _cluster_is_there() else missed + 1
    address = ray.get_runtime_context().gcs_address
    raise InputError(f"the Ray cluster at {address} has ended, and the API with it; start it again, then this")


def _cluster_is_there() -> bool:
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 5).close()
    except OSError:
        return False
    return True


def _application(cluster: Cluster, replica: Replica) -> Any:
    def build() -> FastAPI:
        return replica.app()

    workers = cluster.workers
    scaling: dict[str, Any] = {"num_replicas": workers.count}
    if workers.count is None:
        # A GPU is filled by several pictures at once, a core by one beside one that is being cut.
        scaling = {"num_replicas": "auto", "autoscaling_config": {"target_ongoing_requests": BATCH if workers.gpus else 2}}
    deployment = serve.deployment(
        serve.ingress(build)(),
        name="api",
        ray_actor_options={"num_cpus": workers.cpus, "num_gpus": workers.gpus},
        max_ongoing_requests=replica.limits.queue + BESIDES,
        max_constructor_retry_count=ATTEMPTS,
        graceful_shutdown_wait_loop_s=0.5,
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
        **scaling,
    )
    return deployment.bind()


def _reach(host: str) -> str:
    """Say at which address this process reaches what listens on the head node."""
    head = next(node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"])
    local = ray.get_runtime_context().get_node_id() == head["NodeID"]
    try:
        address = ipaddress.ip_address(socket.gethostbyname(host) if ":" not in host else host)
    except (OSError, ValueError):
        raise InputError(f"cannot listen on {host!r} (no such address); choose another --host") from None
    if address.is_loopback and not local:
        raise InputError(
            f"on {host} the API would be heard on the cluster's head node {head['NodeManagerAddress']} alone, and this is "
            "another; run it there, or let other machines in by --host 0.0.0.0"
        )
    if not address.is_unspecified:
        return str(address)
    return "127.0.0.1" if local else str(head["NodeManagerAddress"])


def _start(host: str, port: int) -> int:
    """Have Ray Serve listen, and say where."""
    # Its account of starts and stops stands in its log files.
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # No public call tells the port of one that runs.
    running = _get_global_client(raise_if_no_controller_running=False)
    if running is not None:
        there = running.http_config
        if (there.host, there.port) != (host, port):
            raise InputError(
                f"Ray Serve runs on this cluster already, at {there.host}, port {there.port}; give these as --host and "
                "--port, or end it by `serve shutdown`"
            )
        return port
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
            free.bind((host, port))
            port = int(free.getsockname()[1])
    except OSError as error:
        raise InputError(
            f"cannot listen on {host!r}, port {port} ({error.strerror}); choose another --port or --host"
        ) from None
    try:
        # One place that listens is one address; replicas are on all nodes.
        serve.start("HeadOnly", {"host": host, "port": port}, logging_config={"log_level": "WARNING"})
    except (TimeoutError, RuntimeError, ray.exceptions.RayError) as error:
        raise InputError(f"Ray Serve cannot listen on {host!r}, port {port} ({last_line(str(error))})") from error
    return port


def _wait_until_it_answers(host: str, port: int, login: tuple[str, str] | None) -> None:
    headers = {"Authorization": "Basic " + base64.b64encode(":".join(login).encode()).decode()} if login else {}
    while True:
        application = serve.status().applications[NAME]
        said = "\n".join([application.message, *(each.message for each in application.deployments.values())])
        if found := re.search(r"InputError: (.*)", said):
            raise InputError(found[1])
        if application.status == "DEPLOY_FAILED":
            raise InputError(f"no replica could be started ({last_line(said)}); see Ray's log files")
        # Requests for replicas that never come would wait for them.
        connection = http.client.HTTPConnection(host, port, timeout=3)
        try:
            connection.request("GET", "/v1/health", headers=headers)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.2)
