"""The one error a user can cause."""

import importlib.util


class InputError(ValueError):
    """Wrong input: one sentence that names the thing, the value and the way out."""


def need_package(package: str, extra: str, purpose: str) -> None:
    """Make sure that a package of an extra is installed, before work that would end without it.

    Args:
        package: the name by which it is imported.
        extra: the extra of crossalign that brings it.
        purpose: what needs it, as the subject of the sentence.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{purpose} needs {package}; run `pip install 'crossalign[{extra}]'`")
