"""Send requests of many clients at once to a real server on this machine; print throughput and waiting times.

    python benchmarks/serve_load.py
    python benchmarks/serve_load.py --views adaptive
    python benchmarks/serve_load.py --method clip --clients 50 --seconds 60
    python benchmarks/serve_load.py --encoder open_clip:ViT-B-32/openai --num-workers 16

Each client sends a photo of scikit-image with one of three sets of labels, waits for the answer, and sends the next. Every
answer is compared with the answer to the same request before the load.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import httpx
import numpy as np
from tabulate import tabulate

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "motorcycle_left.png")
LABELS = ("cat,dog,fox", "cup of coffee,rocket,astronaut,motorcycle", "animal,machine,person,drink")
Question = tuple[str, str]


@contextmanager
def server(options: argparse.Namespace) -> Iterator[str]:
    command = [sys.executable, "-m", "crossalign", "serve", "--port", "0", "--timeout", str(options.timeout)]
    command += ["--encoder", options.encoder, "--queue", str(2 * options.clients), "--num-workers", str(options.num_workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"listens on (\S+)", process.stdout.readline())
            if found is None:
                raise SystemExit("the server did not start")
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)


class Load:
    """Clients, and how their requests ended."""

    def __init__(self, client: httpx.AsyncClient, options: argparse.Namespace):
        self._client, self._options = client, options
        folder = Path(str(resources.files("skimage"))) / "data"
        self._photos = {name: (folder / name).read_bytes() for name in PHOTOS}
        self.statuses: Counter[int] = Counter()
        self.waited: list[float] = []
        self.expected: dict[Question, list[str]] = {}
        self.different = 0

    async def ask(self, question: Question) -> tuple[int, list[str]]:
        """Send a request: its status and the labels, best first."""
        photo, labels = question
        data = {"labels": labels, "method": self._options.method}
        if self._options.views:
            data["views"] = self._options.views
        response = await self._client.post("/v1/classify", files={"images": (photo, self._photos[photo])}, data=data)
        if response.status_code != 200:
            return response.status_code, []
        return 200, [found["label"] for found in response.json()["results"][0]["predictions"]]

    async def learn(self) -> None:
        """Ask every question once, before the load."""
        for question in [(photo, labels) for photo in PHOTOS for labels in LABELS]:
            status, self.expected[question] = await self.ask(question)
            assert status == 200, status

    async def run(self, number: int, end: float) -> None:
        """Be one client."""
        generator = np.random.default_rng(number)
        questions = list(self.expected)
        while time.perf_counter() < end:
            question = questions[int(generator.integers(len(questions)))]
            start = time.perf_counter()
            status, found = await self.ask(question)
            self.statuses[status] += 1
            if status == 200:
                self.waited.append(time.perf_counter() - start)
                self.different += found != self.expected[question]
            else:
                await asyncio.sleep(1)


async def measure(url: str, options: argparse.Namespace) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=2 * options.timeout, limits=limits) as client:
        load = Load(client, options)
        await load.learn()
        start = time.perf_counter()
        await asyncio.gather(*(load.run(n, start + options.seconds) for n in range(options.clients)))
        seconds = time.perf_counter() - start
        encoder = (await client.get("/v1/encoders")).json()
    waited = np.sort(load.waited) if load.waited else np.array([np.nan])
    row = {
        "encoder": encoder["serving"],
        "device": encoder["device"],
        "method": options.method,
        "clients": options.clients,
        "seconds": f"{seconds:.0f}",
        "answers": load.statuses[200],
        "answers a second": f"{load.statuses[200] / seconds:.2f}",
        "p50 s": f"{np.quantile(waited, 0.5):.2f}",
        "p95 s": f"{np.quantile(waited, 0.95):.2f}",
        "max s": f"{waited[-1]:.2f}",
        "other statuses": ", ".join(f"{status}: {n}" for status, n in load.statuses.items() if status != 200) or "none",
        "answers that differ": load.different,
    }
    print(tabulate([row], "keys", tablefmt="github", disable_numparse=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--encoder", default="builtin")
    parser.add_argument("--method", default="wca")
    parser.add_argument("--views", help="of wca, a number or adaptive; by default adaptive")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=300)
    options = parser.parse_args()
    with server(options) as url:
        asyncio.run(measure(url, options))


if __name__ == "__main__":
    main()
