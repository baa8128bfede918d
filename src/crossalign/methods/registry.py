"""The methods: each is one row of this table and one scoring function.

method.py says what a row holds; the equations are in alignment.py (weighted means), optimal_transport.py, view_selection.py,
text_weighting.py, transclip.py, stata.py and carprt.py. Installed packages add rows through entry points of the group
"crossalign.methods"; their scoring functions have the same signature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from crossalign.errors import InputError
from crossalign.methods import (
    alignment,
    carprt,
    entropy,
    optimal_transport,
    stata,
    text_weighting,
    transclip,
    view_selection,
)
from crossalign.methods.method import Method as Method
from crossalign.methods.method import Released as Released
from crossalign.methods.method import Score as Score
from crossalign.methods.method import ScoreConfig as ScoreConfig
from crossalign.methods.method import TextFeatures as TextFeatures
from crossalign.methods.method import WeightedMean as WeightedMean
from crossalign.plugins import Extended
from crossalign.text import prompts


def similarity_weights(x0: Tensor, views: Tensor, config: ScoreConfig, run_counts: Tensor | None = None) -> Tensor:
    """Weight views by their similarity to the global view (WCA). A `ViewWeights`."""
    return alignment.view_weights(views, x0, config.image_scale, run_counts)


def uniform_weights(x0: Tensor, views: Tensor, config: ScoreConfig, run_counts: Tensor | None = None) -> Tensor:
    """Give all views the same weight. A `ViewWeights`."""
    return alignment.uniform_view_weights(views, run_counts)


_ALL_CLASSES = {"transported": math.inf}
_GLOBAL, _WCA = WeightedMean(), WeightedMean(similarity_weights)

_OWN = {
    method.name: method
    for method in (
        Method("clip", 'one prompt per class, "a photo of a {name}."', "Radford et al., ICML 2021", "photo", _GLOBAL),
        Method("clip-e", "mean of the dataset's hand-written templates", "Radford et al., ICML 2021", "templates", _GLOBAL),
        Method(
            "clip-d", 'mean of "{name}, which has ..."', "Menon and Vondrick, ICLR 2023", "descriptor_sentences", _GLOBAL
        ),
        Method("waffle", "random words and characters for descriptors", "Roth et al., ICCV 2023", "waffle", _GLOBAL),
        Method("cupl", "mean of sentences that describe the class", "Pratt et al., ICCV 2023", "sentences", _GLOBAL),
        Method(
            "wca",
            "views weighted by similarity to the image x sentences weighted by similarity to the prompt",
            "Li et al., ICML 2024",
            "sentences",
            _WCA,
            sees="views",
            text_weights="similarity",
            released=Released(views="wca"),
        ),
        Method(
            "bifta",
            "wca on views that overlap little",
            "BiFTA, TMLR 2026",
            "sentences",
            _WCA,
            sees="views",
            text_weights="similarity",
            released=Released(views="bifta"),
            own_views=True,
        ),
        Method(
            "autoclip",
            "templates weighted for each image",
            "Metzen et al., TMLR 2024",
            "many-templates",
            text_weighting.autoclip,
            options={"beta": text_weighting.AUTOCLIP_BETA},
            limits={"beta": (0.0, 1.0)},
            even_prompts=True,
        ),
        Method(
            "zero",
            "majority vote of the 30 % most confident views",
            "Farina et al., NeurIPS 2024",
            "photo",
            view_selection.zero,
            sees="views+image",
            options={"gamma": view_selection.ZERO_SHARE},
            limits={"gamma": (0.0, 1.0)},
            released=Released(views="random-resized-63"),
        ),
        Method(
            "mta",
            "robust mode of the views' features",
            "Zanella and Ben Ayed, CVPR 2024",
            "photo",
            view_selection.mta,
            sees="views+image",
            options={
                "rho": view_selection.MTA_NEIGHBOURS,
                "lambda": view_selection.MTA_AFFINITY,
                "lambda_y": view_selection.MTA_ENTROPY,
            },
            limits={"rho": (0.0, 1.0)},
            released=Released(views="random-resized-63"),
        ),
        Method(
            "awt",
            "optimal transport of confident views to confident sentences",
            "Zhu et al., NeurIPS 2024",
            "sentences",
            optimal_transport.awt,
            sees="views+image",
            options={
                "image_temperature": entropy.AWT_TEMPERATURE,
                "text_temperature": entropy.AWT_TEMPERATURE,
                **optimal_transport.OPTIONS,
            },
            limits=optimal_transport.LIMITS,
            released=Released("random-resized-50", "template-and-sentences", _ALL_CLASSES),
        ),
        Method(
            "lazsl",
            "optimal transport of views, mixed with the image, to sentences",
            "Chen et al., ICCV 2025",
            "sentences",
            optimal_transport.lazsl,
            sees="views",
            options={"alpha": optimal_transport.LAZSL_SHARE, **optimal_transport.OPTIONS},
            limits=optimal_transport.LIMITS,
            released=Released("squares-90", "descriptor_sentences", _ALL_CLASSES),
        ),
        Method(
            "soft-matching",
            "each view chooses among all sentences: the scoring of ABS on random crops, not guided by attention",
            "Cai et al., ICML 2025",
            "sentences",
            text_weighting.soft_matching,
            sees="views",
            options={"temperature": text_weighting.ABS_TEMPERATURE},
            released=Released(views="wca", prompts="first-sentences"),
        ),
        Method(
            "cgbc",
            "robust mean over prompts of several concepts",
            "CGBC, CVPR 2026",
            "concepts",
            text_weighting.cgbc,
            options={"lambda_threshold": text_weighting.CGBC_THRESHOLD},
        ),
        Method(
            "mean-views",
            "unweighted mean of views x mean of sentences",
            "control",
            "sentences",
            WeightedMean(uniform_weights),
            sees="views",
            released=Released(views="wca"),
        ),
        Method(
            "max-views",
            "the best view x mean of sentences",
            "control",
            "sentences",
            view_selection.best_view,
            sees="views",
            released=Released(views="wca"),
        ),
        Method(
            "transclip",
            "all images together: a Gaussian per class, and nearest neighbours",
            "Zanella et al., NeurIPS 2024",
            "photo",
            transclip.transclip,
            sees="set",
        ),
        Method(
            "stata",
            "as transclip, each Gaussian held near its text",
            "Zanella et al., CVPR 2025",
            "photo",
            stata.stata,
            sees="set",
            options={"alpha": stata.ALPHA, "soft_beta": 0.0},
            limits={"soft_beta": (0.0, 1.0)},
        ),
        Method(
            "carprt",
            "all images together: templates weighted for each class",
            "CARPRT, ICLR 2026",
            "many-templates",
            carprt.carprt,
            sees="set",
            options={"temperature": carprt.TEMPERATURE},
            even_prompts=True,
        ),
    )
}


def _check(name: str, method: Any) -> Method:
    if not isinstance(method, Method):
        raise InputError(f"it is a {type(method).__name__}, but must be a crossalign.methods.registry.Method")
    if method.name != name:
        raise InputError(f"it calls itself {method.name!r}")
    return method


METHODS = Extended("crossalign.methods", "method", _OWN, _check)
"""By name: the rows above, and those that installed packages add."""


def pick_methods(names: Sequence[str]) -> list[Method]:
    """Look methods up by name; "all" is every method that judges each image on its own.

    Args:
        names: options may follow a name, as in "awt:epsilon=0.05:text_temperature=1".

    Raises:
        InputError: names the unknown methods and similar known ones, or an option with a wrong value.
    """
    split = {name: name.split(":") for group in names for name in (_judge_alone() if group == "all" else [group])}
    unknown = [name for name, *_ in split.values() if name not in METHODS]
    if unknown:
        similar = [name for text in unknown for name in get_close_matches(text.lower(), METHODS, n=1)]
        hint = f", did you mean {' and '.join(dict.fromkeys(similar))}?" if similar else ";"
        raise InputError(f"unknown method {', '.join(unknown)}{hint} known are {', '.join(METHODS)}")
    picked = (with_options(METHODS[name], options) for name, *options in split.values())
    return list({method.name: method for method in picked}.values())


def pick_method(name: str) -> Method:
    """Look up one method that classifies images one at a time, on views that the caller chooses.

    Raises:
        InputError: as `pick_methods`; or the method classifies a set together, or is defined by views of its own.
    """
    if name == "all":
        raise InputError("one method is needed, but 'all' was given; name one of `crossalign methods`")
    (method,) = pick_methods([name])
    if method.transductive:
        raise InputError(f"method {name} classifies all images of a set together; use `evaluate` for it, or take wca")
    if method.own_views:
        raise InputError(f"method {name} is defined by views of its own; use `evaluate` for it, or take wca")
    return method


def _judge_alone() -> list[str]:
    return [name for name, method in METHODS.items() if not method.transductive]


def with_options(method: Method, options: Sequence[str]) -> Method:
    """Change options of a method: "zero" with "gamma=0.1" is called "zero:gamma=0.1".

    Raises:
        InputError: the method has no such option, or its value is not allowed.
    """
    changed = {}
    for option in options:
        name, _, text = option.partition("=")
        if name not in method.options:
            known = ", ".join(method.options) or "none"
            raise InputError(
                f"{method.name} has no option {name!r}; it has {known}, to be given as in {method.name}:NAME=0.5"
            )
        least, most = method.limits.get(name, (0.0, math.inf))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        # A switch is off at 0.
        switch = method.options[name] == 0
        if not (least <= value <= most and value < math.inf and (value > 0 or switch)):
            lower = f"of at least {least:g}" if least > 0 or switch else "above 0"
            upper = f" and at most {most:g}" if most < math.inf else ""
            raise InputError(f"{name} of {method.name} is {text!r}, but must be a number {lower}{upper}")
        changed[name] = value
    if not changed:
        return method
    # repr tells any two numbers apart.
    name = ":".join([method.name, *(f"{name}={value!r}".removesuffix(".0") for name, value in changed.items())])
    return replace(method, name=name, options={**method.options, **changed})


def with_prompts(method: Method, source: str) -> Method:
    """Give a method other prompts, such as a control's: "wca" with "shuffled" is called "wca+shuffled".

    Raises:
        InputError: there is no such source.
    """
    if source not in prompts.SOURCES:
        raise InputError(f"unknown prompts {source!r}; known are {', '.join(prompts.SOURCES)}")
    return replace(method, name=f"{method.name}+{source}", prompts=source)
