"""Training-free, explainable image classification by weighted visual-text cross alignment (WCA, arXiv 2406.02915)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["Classification", "Classifier", "InputError", "Prediction", "__version__"]

if TYPE_CHECKING:
    from crossalign.classifier import Classification, Classifier
    from crossalign.classifier.scorer import Prediction
    from crossalign.errors import InputError


_ROOMS = {
    "Classification": "crossalign.classifier",
    "Classifier": "crossalign.classifier",
    "InputError": "crossalign.errors",
    "Prediction": "crossalign.classifier.scorer",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `crossalign --help` and `import crossalign` shall not.
    if name in _ROOMS:
        return getattr(importlib.import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'crossalign' has no attribute {name!r}")
