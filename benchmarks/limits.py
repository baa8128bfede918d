"""The limit of a machine: the time for the operations of a view at its best rate of matrix multiplication."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crossalign.encoders import Encoder
from crossalign.encoders._openvino import load as load_openvino
from crossalign.encoders._tower import Tower
from crossalign.images.crops import Preprocessing

ATTEMPTS = 20


def cpu_limits(encoder: Encoder) -> dict[str, float]:
    """Time for the operations of a view at the CPU's best rate of matrix multiplication, in ms, by precision."""
    return {precision: 1000 * view_operations(encoder) / rate for precision, rate in _cpu_rates()}


def view_operations(encoder: Encoder) -> int:
    """Number of floating-point operations per view; a multiplication and an addition count as two."""
    view = torch.zeros((1, 3, *encoder.preprocessing.size), dtype=torch.uint8, device=encoder.device)
    fast = torch.backends.mha.get_fastpath_enabled()
    # The counter does not count the fused attention operation, a third of a ViT-B/32.
    torch.backends.mha.set_fastpath_enabled(False)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encoder.tower(view)
    torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def best_rate(run: Callable[[], object], operations: int) -> float:
    """Best rate over several attempts, in operations per second, after one warm-up."""
    run()
    seconds = []
    for _ in range(ATTEMPTS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return operations / min(seconds)


def _cpu_rates() -> Iterator[tuple[str, float]]:
    """Yield a precision and the best rate that torch or OpenVINO reaches in it, in operations a second."""
    rows, width, layers = 1024, 2048, 4
    side = 32  # As "pixels", so that a stack of matrices goes the way of a tower: 3 x 32 x 32 are 3072 numbers.

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(3 * side * side, width, bias=False)
            self.inner = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))

        def forward(self, pixels: Tensor) -> Tensor:
            outputs: Tensor = self.inner(self.enter(pixels.flatten(1)))
            return outputs

    operations = 2 * rows * width * (3 * side * side + layers * width)
    tower = Tower(Stack().eval().requires_grad_(False), Preprocessing((side, side), (0.5,) * 3, (0.5,) * 3))
    pixels = torch.randint(0, 256, (rows, 3, side, side), dtype=torch.uint8)

    for precision, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16), ("int8", None)):
        with tempfile.TemporaryDirectory() as folder:
            views = pixels[:32] if precision == "int8" else None
            run = load_openvino(tower, precision, Path(folder) / "stack.xml", views)
            best = best_rate(lambda run=run: run(pixels), operations)  # type: ignore[misc]
        if dtype is not None:
            left, right = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
            best = max(best, best_rate(lambda a=left, b=right: a @ b, 2 * 2048**3))  # type: ignore[misc]
        yield precision, best
