"""Training-free, explainable image classification by weighted visual-text cross alignment (WCA, arXiv 2406.02915)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Classification", "Classifier", "InputError", "Prediction", "__version__"]

if TYPE_CHECKING:
    from crossalign.classifier import Classification, Classifier, Prediction
    from crossalign.errors import InputError


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `crossalign --help` and `import crossalign` shall not.
    if name in ("Classifier", "Classification", "Prediction"):
        from crossalign import classifier

        return getattr(classifier, name)
    if name == "InputError":
        from crossalign.errors import InputError

        return InputError
    raise AttributeError(f"module 'crossalign' has no attribute {name!r}")
