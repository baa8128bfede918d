"""The API on a Ray cluster: Ray Serve starts replicas, routes requests to them and replaces lost replicas.

Each replica runs the application of `crossalign serve` with its own engine. The engine encodes the requests of its replica
in batches, so `serve.batch` is not needed.
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
except ImportError as error:
    raise InputError(f"serving on a cluster needs {error.name}; run `pip install 'crossalign[ray,serve]'`") from None

from crossalign.web.engine import Engine, Limits
from crossalign.web.guards import Access
from crossalign.web.label_sets import Defaults

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "crossalign"
"""Name of the application in Ray Serve."""
MAX_MISSED_CHECKS = 4
"""Failed checks in a row after which the cluster counts as ended; its head node may be restarting."""
LOAD_ATTEMPTS = 3
"""How often a replica tries to load its encoder."""
EXTRA_REQUESTS = 16
"""Requests that a replica accepts beyond its queue, so that it can itself answer that it is full, or report its state."""

GPU_REQUESTS = 8
"""Requests that a replica with a GPU should have in hand: they share passes of the encoder."""


@dataclass(frozen=True)
class Replica:
    """Settings of a replica; pickled and sent to the workers.

    Attributes:
        load: loads the encoder.
        limits: limits of requests.
        defaults: what stands in for what a request leaves open.
        access: who may use the API, and where.
    """

    load: LoadOfWorker
    limits: Limits
    defaults: Defaults = field(default_factory=Defaults)
    access: Access = field(default_factory=Access)

    def app(self) -> FastAPI:
        """Load the encoder and build the application, on the worker.

        Raises:
            InputError: the encoder cannot be loaded, or differs from the driver's, or the calibration is for something else.
        """
        from crossalign.web.api import create_app

        engine = Engine(self.load(), self.limits, self.defaults, num_workers=max(1, self.load.workers.decoders))
        engine.check_defaults()
        return create_app(engine, self.access)


@contextmanager
def deployed(cluster: Cluster, replica: Replica, host: str, port: int) -> Iterator[int]:
    """Serve the API on a cluster until the block ends; an application left by an earlier run is replaced.

    Args:
        cluster: the cluster; its workers run the replicas.
        replica: settings of the replicas.
        host, port: where the cluster's head node listens; port 0 chooses a free one.

    Yields:
        The port, once the API answers.

    Raises:
        InputError: the head node cannot listen there, or no replica can be started.
    """
    reach = _reachable_address(host)
    port = _start(host, port, reach)
    try:
        try:
            target = serve.RunTarget(_application(cluster, replica), NAME, "/")
            # Without waiting for all replicas: the cluster may not have room for all of them yet.
            serve.run_many([target], wait_for_applications_running=False)
        except (ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise InputError(f"Ray Serve cannot deploy the API ({last_line(str(error))}); see `serve status`") from error
        _wait_until_it_answers(reach, port, replica.access.login)
        yield port
    finally:
        # If the cluster has ended already, Ray would wait a minute and then end this process without a message.
        if _cluster_answers():
            if serve.status().applications.keys() <= {NAME}:
                serve.shutdown()
            else:
                serve.delete(NAME)


def watch() -> NoReturn:
    """Wait until the cluster ends.

    Raises:
        InputError: it has ended.
    """
    missed = 0
    while missed < MAX_MISSED_CHECKS:
        time.sleep(5)
        missed = 0 if _cluster_answers() else missed + 1
    address = ray.get_runtime_context().gcs_address
    raise InputError(
        f"the Ray cluster at {address} has ended, and with it the API; start the cluster again, then this command"
    )


def _cluster_answers() -> bool:
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
        # A GPU needs several images at once; a core needs one to encode while the next is cropped.
        scaling = {
            "num_replicas": "auto",
            "autoscaling_config": {"target_ongoing_requests": GPU_REQUESTS if workers.gpus else 2},
        }
    deployment = serve.deployment(
        serve.ingress(build)(),
        name="api",
        ray_actor_options={"num_cpus": workers.cpus, "num_gpus": workers.gpus},
        max_ongoing_requests=replica.limits.queue + EXTRA_REQUESTS,
        max_constructor_retry_count=LOAD_ATTEMPTS,
        graceful_shutdown_wait_loop_s=0.5,
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
        **scaling,
    )
    return deployment.bind()


def _reachable_address(host: str) -> str:
    """Address at which this process can connect to `host` on the head node."""
    head = next(node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"])
    local = ray.get_runtime_context().get_node_id() == head["NodeID"]
    try:
        address = ipaddress.ip_address(socket.gethostbyname(host) if ":" not in host else host)
    except (OSError, ValueError):
        raise InputError(f"cannot listen on {host!r} (no such address); choose another host") from None
    if address.is_loopback and not local:
        raise InputError(
            f"on {host} only the cluster's head node {head['NodeManagerAddress']} could reach the API, and this is another "
            "machine; run the command there, or allow other machines with host 0.0.0.0"
        )
    if not address.is_unspecified:
        return str(address)
    return "127.0.0.1" if local else str(head["NodeManagerAddress"])


def _start(host: str, port: int, reach: str) -> int:
    """Start Ray Serve, and return its port; if it runs already, it must be at this host and port."""
    # Its messages about starts and stops are in its log files.
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if serve.status().proxies:
        if not _serve_listens(reach, port):
            raise InputError(
                f"Ray Serve runs on this cluster already, but not at {host!r}, port {port}; use its host and port, or end "
                "it with `serve shutdown`"
            )
        return port
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
            free.bind((host, port))
            port = int(free.getsockname()[1])
    except OSError as error:
        raise InputError(f"cannot listen on {host!r}, port {port} ({error.strerror}); choose another port or host") from None
    try:
        # The head node alone listens, so that there is one address; replicas run on all nodes.
        serve.start("HeadOnly", {"host": host, "port": port}, logging_config={"log_level": "WARNING"})
    except (TimeoutError, RuntimeError, ray.exceptions.RayError) as error:
        raise InputError(f"Ray Serve cannot listen on {host!r}, port {port} ({last_line(str(error))})") from error
    return port


def _serve_listens(host: str, port: int) -> bool:
    """Whether a proxy of Ray Serve answers at an address; /-/healthz is its public health check."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", "/-/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _wait_until_it_answers(host: str, port: int, login: tuple[str, str] | None) -> None:
    headers = {"Authorization": "Basic " + base64.b64encode(":".join(login).encode()).decode()} if login else {}
    while True:
        application = serve.status().applications[NAME]
        messages = [application.message, *(deployment.message for deployment in application.deployments.values())]
        message = "\n".join(messages)
        if refusal := re.search(r"InputError: (.*)", message):
            raise InputError(refusal[1])
        if application.status == "DEPLOY_FAILED":
            raise InputError(f"no replica could be started ({last_line(message)}); see Ray's log files")
        # A timeout, because a request waits as long as there is no replica.
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
