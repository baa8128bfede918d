"""A method is one row: which prompts, which views, how both are weighed, and how they are matched.

scoring.py puts it to work; the equations are in alignment.py (weighted means), optimal_transport.py, view_selection.py and
text_weighting.py. Installed packages add rows of their own through entry points of the group "crossalign.methods", with a
matcher of their own if they like.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal

from torch import Tensor

from crossalign.errors import InputError
from crossalign.methods import entropy, optimal_transport, text_weighting, view_selection
from crossalign.plugins import Extended
from crossalign.text import prompts

ViewWeights = Literal["uniform", "likeness", "confidence", "above-mean", "inlierness"]
TextWeights = Literal["uniform", "likeness", "confidence"]
Matcher = Literal["mean", "maximum", "transport", "soft", "vote", "templates"]
OwnMatcher = Callable[["TextBank", Tensor, Tensor], Tensor]
"""A package's: (bank, whole (n, D), views (n, V, D)) to (n, C) scores; the whole image is the first view if it is one."""


@dataclass(frozen=True)
class Method:
    """One way to classify without training.

    Attributes:
        name: as on the command line.
        summary: one line for people.
        source: the paper.
        prompts: key of `prompts.SOURCES`.
        views: how local views are weighed, or None for a method that sees the whole image alone. "uniform": all alike;
            "likeness": by the likeness to the whole image (WCA); "confidence": by how sure their own prediction is (AWT);
            "above-mean": alike, but none for those that resemble the whole image less than the mean view (LaZSL);
            "inlierness": by how near the views' mode (MTA).
        whole_is_view: the whole image counts as one more view.
        texts: how a class's descriptions are weighed. "uniform"; "likeness": by the likeness to the class's prompt (WCA);
            "confidence": by how sure the whole image's prediction is with them (AWT; with the matcher "transport" only).
        matcher: "mean": the weighted sum over views and descriptions; "maximum": the best view against the weighted mean of
            the descriptions; "transport": what the optimal transport plan carries (AWT, LaZSL); "soft": each view's softmax
            over all descriptions (ABS); "vote": the surest views vote (ZERO); "templates": tuned for each image (AutoCLIP);
            or a package's own function.
        options: numbers of the paper's that may be changed, under its names; see `with_options`.
    """

    name: str
    summary: str
    source: str
    prompts: str
    views: ViewWeights | None = None
    texts: TextWeights = "uniform"
    matcher: Matcher | OwnMatcher = "mean"
    whole_is_view: bool = False
    options: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def needs_descriptions(self) -> bool:
        """Whether its prompts are made of descriptions of the classes."""
        return self.prompts in prompts.NEED_DESCRIPTIONS

    @property
    def cross(self) -> bool:
        """Whether it looks at local views."""
        return self.views is not None

    @property
    def looks_at(self) -> str:
        """What of a picture counts, for people."""
        if not self.cross:
            return "whole"
        return "views" if self.views == "uniform" and not self.whole_is_view else "views and whole"

    @property
    def explainable(self) -> bool:
        """Whether its score is a weighted sum over local views, or the whole image, and descriptions."""
        return self.matcher == "mean" and not self.whole_is_view

    @property
    def draws_views(self) -> bool:
        """Whether each run's draws of views have a score of their own; the others have one run on all views."""
        return self.matcher == "mean" and self.views in ("uniform", "likeness")

    @property
    def passes(self) -> str:
        """Passes of the image encoder a picture."""
        return "1 + M" if self.cross else "1"

    def given(self, **names: str) -> dict[str, float]:
        """Hand options to a function of the equations: its parameters, each with the name of the option that sets it."""
        return {parameter: self.options[name] for parameter, name in names.items() if name in self.options}


_OWN = {
    method.name: method
    for method in (
        Method("clip", 'one prompt a class, "a photo of a {name}."', "Radford et al., ICML 2021", "photo"),
        Method("clip-e", "mean of the dataset's hand-written templates", "Radford et al., ICML 2021", "templates"),
        Method("clip-d", 'mean of "{name}, which has ..."', "Menon and Vondrick, ICLR 2023", "descriptor_sentences"),
        Method("waffle", "random words and characters for descriptors", "Roth et al., ICCV 2023", "waffle"),
        Method("cupl", "mean of sentences that describe the class", "Pratt et al., ICCV 2023", "sentences"),
        Method(
            "wca",
            "weighted local views x weighted sentences",
            "Li et al., ICML 2024",
            "sentences",
            views="likeness",
            texts="likeness",
        ),
        Method(
            "autoclip",
            "templates weighed anew for each picture",
            "Metzen et al., TMLR 2024",
            "templates",
            matcher="templates",
            options={"beta": text_weighting.AUTOCLIP_BETA},
        ),
        Method(
            "zero",
            "majority vote of the surest 30 % of the views",
            "Farina et al., NeurIPS 2024",
            "photo",
            views="uniform",
            matcher="vote",
            whole_is_view=True,
            options={"gamma": view_selection.ZERO_SHARE},
        ),
        Method(
            "mta",
            "robust mode of the views' features",
            "Zanella and Ben Ayed, CVPR 2024",
            "photo",
            views="inlierness",
            whole_is_view=True,
            options={
                "rho": view_selection.MTA_NEIGHBOURS,
                "lambda": view_selection.MTA_AFFINITY,
                "lambda_y": view_selection.MTA_ENTROPY,
            },
        ),
        Method(
            "awt",
            "optimal transport of sure views to sure sentences",
            "Zhu et al., NeurIPS 2024",
            "sentences",
            views="confidence",
            texts="confidence",
            matcher="transport",
            whole_is_view=True,
            options={
                "image_temperature": entropy.AWT_TEMPERATURE,
                "text_temperature": entropy.AWT_TEMPERATURE,
                "epsilon": optimal_transport.EPSILON,
            },
        ),
        Method(
            "lazsl",
            "optimal transport of views, with a share of the whole, to sentences",
            "Chen et al., ICCV 2025",
            "sentences",
            views="above-mean",
            matcher="transport",
            options={"alpha": optimal_transport.LAZSL_SHARE, "epsilon": optimal_transport.EPSILON},
        ),
        Method(
            "abs",
            "soft matching of sentences by each view; the views are random crops, not guided by attention",
            "Cai et al., ICML 2025",
            "sentences",
            views="uniform",
            matcher="soft",
            options={"temperature": text_weighting.ABS_TEMPERATURE},
        ),
        Method("mean-views", "unweighted mean of views x mean of sentences", "control", "sentences", views="uniform"),
        Method("max-views", "the best view x mean of sentences", "control", "sentences", views="uniform", matcher="maximum"),
    )
}


def _check(name: str, method: Any) -> Method:
    if not isinstance(method, Method):
        raise InputError(f"it is a {type(method).__name__}, but must be a crossalign.methods.registry.Method")
    if method.name != name:
        raise InputError(f"it calls itself {method.name!r}")
    return method


METHODS = Extended("crossalign.methods", "method", _OWN, _check)
"""By name: those above, and what installed packages add."""


SHARES = ("alpha", "beta", "gamma", "rho")
"""Options that are at most 1; all are above 0."""


def pick_methods(names: Sequence[str]) -> list[Method]:
    """Look methods up by name; "all" is all of them. Each judges a picture on its own, whatever the other pictures are.

    Args:
        names: each may go on with options, as in "awt:epsilon=0.05:text_temperature=1".

    Raises:
        InputError: names the unknown ones, and what they may have been meant to be, or an option that cannot be.
    """
    named = (name for some in names for name in (METHODS if some == "all" else [some]))
    split = {name: name.split(":") for name in named}
    unknown = [name for name, *_ in split.values() if name not in METHODS]
    if unknown:
        meant = [name for text in unknown for name in get_close_matches(text.lower(), METHODS, n=1)]
        hint = f", did you mean {' and '.join(dict.fromkeys(meant))}?" if meant else ";"
        raise InputError(f"unknown method {', '.join(unknown)}{hint} known are {', '.join(METHODS)}")
    found = (with_options(METHODS[name], options) for name, *options in split.values())
    return list({method.name: method for method in found}.values())


def with_options(method: Method, options: Sequence[str]) -> Method:
    """Give a method other options than the paper's: "zero" with "gamma=0.1" is called "zero:gamma=0.1".

    Raises:
        InputError: the method has no such option, or its value cannot be.
    """
    changed = {}
    for option in options:
        name, _, text = option.partition("=")
        if name not in method.options:
            known = ", ".join(method.options) or "none"
            raise InputError(
                f"{method.name} has no option {name!r}; it has {known}, to be given as in {method.name}:NAME=0.5"
            )
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        highest = 1.0 if name in SHARES else math.inf
        if not (0 < value <= highest and math.isfinite(value)):
            most = " and at most 1" if name in SHARES else ""
            raise InputError(f"{name} of {method.name} is {text!r}, but must be a number above 0{most}")
        changed[name] = value
    if not changed:
        return method
    name = ":".join([method.name, *(f"{name}={value:g}" for name, value in changed.items())])
    return replace(method, name=name, options={**method.options, **changed})


def with_prompts(method: Method, source: str) -> Method:
    """Give a method other prompts, such as a control's: "wca" with "shuffled" is called "wca+shuffled".

    Raises:
        InputError: there is no such source.
    """
    if source not in prompts.SOURCES:
        raise InputError(f"unknown prompts {source!r}; known are {', '.join(prompts.SOURCES)}")
    return replace(method, name=f"{method.name}+{source}", prompts=source)


@dataclass(frozen=True)
class TextBank:
    """A method's side of the texts.

    Attributes:
        texts: K sentences, class after class.
        features: (K, D).
        counts: (C,) sentences a class.
        weights: (K,) that sum to one in each class; uniform where a method weighs them for each picture.
        pooled: (C, D), their weighted sums.
    """

    texts: tuple[str, ...]
    features: Tensor
    counts: Tensor
    weights: Tensor
    pooled: Tensor
