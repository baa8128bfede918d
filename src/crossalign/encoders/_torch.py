"""Image towers in torch: as they are, and with weights in bfloat16."""

from __future__ import annotations

import platform
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from crossalign.encoders._tower import Run, Tower


def load(tower: Tower, device: torch.device, precision: str) -> Run:
    """Compute a tower as it is, in "f32" or "bf16": (B, 3, *size) pixels to (B, E) float32 on the CPU."""
    if precision == "bf16":
        tower = tower.in_bfloat16(device)
    tower = tower.to(device)

    @torch.inference_mode()
    def run(pixels: Tensor) -> Tensor:
        outputs: Tensor = tower(pixels.to(device, non_blocking=True))
        return outputs.float().cpu()

    return run


def gains_from_bf16(device: torch.device) -> bool:
    """Whether a device multiplies faster in bfloat16 than in float32, by its instructions.

    Having the instructions is not enough: Intel's processors without AMX have avx512_bf16, and gain nothing from it.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _cpu_gains_from_bf16(_capabilities())


def _cpu_gains_from_bf16(capabilities: dict[str, Any]) -> bool:
    if capabilities.get("architecture") in ("x86_64", "amd64", "AMD64"):
        amd = "AMD" in str(capabilities.get("cpu_name", ""))
        return bool(capabilities.get("amx_bf16") or (amd and capabilities.get("avx512_bf16")))
    # Arm has one set of instructions for it, which multiply matrices.
    return any(value is True for name, value in capabilities.items() if name.endswith("bf16"))


@lru_cache(maxsize=1)
def _capabilities() -> dict[str, Any]:
    """Capabilities of the processor as torch reports them; empty, so that float32 is used, if torch is too old."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return dict(ask()) if ask else {}


def machine(device: torch.device) -> list[str]:
    """List what the result and the time of a computation depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(_capabilities().get("cpu_name", ""))
    return [str(device), name, platform.machine(), f"{torch.get_num_threads()} threads", f"torch {torch.__version__}"]
