"""Image towers in torch: as they are, with weights in bfloat16, and on a GPU compiled and recorded."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from crossalign.encoders._runtime import Tower

VIEWS_A_PASS = 256
"""Of a compiled tower: every other number would be compiled anew."""


def cpu_has_bf16() -> bool:
    """Say whether this processor multiplies in bfloat16 by itself; where it does not, float32 is faster."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in asked)
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def machine(device: torch.device) -> list[str]:
    """Name what a GPU's time depends on; nothing for a CPU."""
    return [torch.cuda.get_device_name(device)] if device.type == "cuda" else []


def load(tower: Tower, device: torch.device, precision: str) -> Callable[[Tensor], Tensor]:
    """Compute a tower as it is, in "f32" or "bf16": (B, 3, *size) pixels to (B, E) float32 on the CPU."""
    if precision == "bf16":
        tower = tower.in_bfloat16(device)
    tower = tower.to(device)

    @torch.inference_mode()
    def run(pixels: Tensor) -> Tensor:
        outputs: Tensor = tower(pixels.to(device, non_blocking=True))
        return outputs.float().cpu()

    return run


def compiled(
    tower: Tower, device: torch.device, *, views: int = VIEWS_A_PASS, backend: Any = "inductor"
) -> Callable[[Tensor], Tensor]:
    """Compile a tower with weights in bfloat16 for passes of one size, and on a GPU record its kernels as one CUDA graph.

    Args:
        tower: what to compute.
        device: where.
        views: a pass; what comes is cut into passes, and the last is filled up.
        backend: of torch.compile.

    Returns:
        What computes (B, 3, *size) pixels to (B, E) float32 on the CPU. It rounds float pixels in [0, 1] to 8 bits. Since
        all passes have one size, a view's bits do not depend on how many come with it.

    Raises:
        Exception: of many types, where there is no compiler or it does not know the architecture.
    """
    tower = tower.in_bfloat16(device).to(device)
    buffer = torch.zeros((views, 3, *tower.preprocessing.size), dtype=torch.uint8, device=device)
    mode = "max-autotune-no-cudagraphs" if backend == "inductor" else None
    forward = torch.compile(tower, dynamic=False, backend=backend, mode=mode)
    # The graph always reads the same buffer, whichever thread asks.
    turn = threading.Lock()

    @torch.inference_mode()
    def run(pixels: Tensor) -> Tensor:
        outputs = []
        with turn:
            for part in to_bytes(pixels).split(views):
                buffer[: len(part)].copy_(part, non_blocking=True)
                # A copy, since the next pass writes over it.
                outputs.append(step()[: len(part)].to(torch.float32, copy=True))
        return torch.cat(outputs).cpu()

    with torch.inference_mode():
        step = _recorded(forward, buffer) if device.type == "cuda" else lambda: forward(buffer)
        step()
    return run


def _recorded(forward: Callable[[Tensor], Tensor], buffer: Tensor) -> Callable[[], Tensor]:
    """Record a pass, to be replayed as a whole by any thread; torch.compile's own recording belongs to one thread."""
    with torch.cuda.device(buffer.device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            # Compiling, and what libraries set up in their first calls, cannot be recorded.
            for _ in range(3):
                forward(buffer)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = forward(buffer)

    def step() -> Tensor:
        graph.replay()
        return outputs

    return step


def to_bytes(pixels: Tensor) -> Tensor:
    """Round float pixels in [0, 1] to uint8; uint8 stays."""
    return pixels if pixels.dtype == torch.uint8 else (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
