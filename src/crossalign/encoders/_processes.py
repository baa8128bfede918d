"""Encoders in other processes than the one that loaded them: forked ones, and ones that they are sent to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from crossalign.encoders import Encoder, backends, load_encoder
from crossalign.errors import InputError

# Noted at import, because a process cannot tell afterwards that it was forked, or from which one.
_IMPORTED_IN = os.getpid()


def prepare_torch() -> None:
    """Let torch take one thread in a forked process, before it computes anything there.

    The threads of its pool are missing in such a process, and what waits for them waits forever; with one there is no pool.
    """
    if os.getpid() != _IMPORTED_IN and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def prepare_process(encoder: Encoder, loaded_in: int) -> None:
    """Make sure that an encoder can be used here, before it is.

    Args:
        encoder: about to be used.
        loaded_in: id of the process that loaded it.

    Raises:
        InputError: the process was forked after the encoder was loaded, and the encoder does not stand that.
    """
    here = os.getpid()
    if here == _IMPORTED_IN:
        return
    runtime = getattr(encoder, "runtime", None)
    engine = runtime.engine if runtime else "torch"
    if here != loaded_in and (encoder.device.type != "cpu" or engine != "torch"):
        where = str(encoder.device) if encoder.device.type != "cpu" else engine
        raise InputError(
            f"{encoder.name} on {where} was loaded before this process was forked, and cannot be used in it; make the "
            "classifier in each worker, start workers by 'spawn', or take runtime='torch' on the CPU"
        )
    prepare_torch()


@dataclass(frozen=True)
class SentEncoder:
    """What stands for an encoder in a pickle: how to load the same one.

    Attributes:
        name, device, runtime, precision: as `load_encoder` takes them.
        fingerprint: of its weights.
    """

    name: str
    device: str
    runtime: str
    precision: str
    fingerprint: str

    @classmethod
    def of(cls, encoder: Encoder) -> Any:
        """Describe an encoder of a known backend; others are pickled as they are."""
        if encoder.name.partition(":")[0] not in {spec.partition(":")[0] for spec in backends()}:
            return encoder
        runtime = getattr(encoder, "runtime", None)
        engine, precision = (runtime.engine, runtime.precision) if runtime else ("torch", "f32")
        return cls(encoder.name, str(encoder.device), engine, precision, encoder.fingerprint)

    def load(self) -> Encoder:
        """Load it.

        Raises:
            InputError: it is not there, or has other weights.
        """
        encoder = load_encoder(self.name, self.device, runtime=self.runtime, precision=self.precision)
        if encoder.fingerprint != self.fingerprint:
            raise InputError(
                f"encoder {self.name} has other weights here than where the classifier was pickled; make a classifier here"
            )
        return encoder
