"""Read the tensors of a TorchScript archive, such as those that OpenAI publishes, without running anything that is in it.

`torch.jit.load` would run an archive's `__setstate__` methods, and TorchScript has operators that read and write files. Here
the pickle in the archive is followed operation by operation, as data: modules become dictionaries, tensors become tensors,
and nothing else is ever made or called.
"""

from __future__ import annotations

import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""By the names that the pickle has for them."""


class NotWeights(Exception):
    """The archive holds something else than modules, tensors, numbers, strings and lists; its message names that."""


@dataclass(frozen=True)
class _Global:
    """A name in the pickle; it is compared, and never looked up."""

    module: str
    name: str


class _Module(dict[str, Any]):
    """A module's attributes by name."""


def is_archive(names: list[str]) -> bool:
    """Whether a zip file of these members is a TorchScript archive, not what torch.save wrote."""
    return any(name.endswith("/constants.pkl") for name in names)


def read_archive(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """Give all tensors of an archive by name.

    Raises:
        NotWeights: it holds something else.
        Exception: of other types, where it is damaged.
    """
    (data,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name))
    folder = data.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("its numbers are in big-endian order")
    storages: dict[str, Tensor] = {}

    def storage(identity: tuple[Any, ...]) -> Tensor:
        """Read ("storage", dtype, key, device, count) as a flat tensor."""
        kind, key = identity[1], identity[2]
        if key not in storages:
            dtype = DTYPES.get(kind.name)
            if dtype is None:
                raise NotWeights(f"{kind.module}.{kind.name}")
            content = archive.read(f"{folder}data/{key}")
            storages[key] = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return storages[key]

    return dict(_tensors(_follow(archive.read(data), storage), "", ()))


def _follow(pickled: bytes, storage: Callable[[tuple[Any, ...]], Tensor]) -> Any:
    """Follow a pickle's operations, those that TorchScript writes and no others."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    operation: Any
    argument: Any
    for operation, argument, _ in pickletools.genops(pickled):
        match operation.name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                marks.append(len(stack))
            case "GLOBAL":
                stack.append(_Global(*argument.split(" ", 1)))
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation.name])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(operation.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            case "SETITEM":
                key, value = stack[-2:]
                del stack[-2:]
                stack[-1][key] = value
            case "SETITEMS":
                items = since_mark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINPERSID":
                stack.append(storage(stack.pop()))
            case "NEWOBJ" | "REDUCE":
                arguments, made = stack.pop(), stack.pop()
                stack.append(_made(made, arguments))
            case "BUILD":
                state = stack.pop()
                if not isinstance(stack[-1], _Module):
                    raise NotWeights(f"the state of a {type(stack[-1]).__name__}")
                stack[-1].update(state if isinstance(state, dict) else {})
            case "STOP":
                return stack.pop()
            case name:
                raise NotWeights(f"pickle operation {name}")
    raise ValueError("its pickle has no end")


def _made(made: _Global, arguments: tuple[Any, ...]) -> Any:
    """Say what stands for the outcome of a call in the pickle."""
    if made.module.split(".")[0] == "__torch__":
        return _Module()
    if made == _Global("torch._utils", "_rebuild_tensor_v2"):
        storage, offset, size, stride = arguments[:4]
        # as_strided refuses what lies outside of the storage.
        return torch.as_strided(storage, size, stride, offset) if math.prod(size) else torch.empty(size, dtype=storage.dtype)
    if made == _Global("collections", "OrderedDict"):
        return {}
    if made.module == "torch.jit._pickle" and (made.name.startswith("build_") or made.name == "restore_type_tag"):
        return arguments[0]
    raise NotWeights(f"{made.module}.{made.name}")


def _tensors(value: Any, name: str, above: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    """Go through the tensors of modules by name; above holds the modules that this one is in."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Module):
        if id(value) in above:
            raise ValueError("a module is inside itself")
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}" if name else key, (*above, id(value)))
