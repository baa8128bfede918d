"""Which views of an image a classifier encodes, by its method."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from crossalign.datasets.configs import Config
from crossalign.errors import InputError
from crossalign.features.adaptive import Rounds
from crossalign.features.streaming import ViewPolicy
from crossalign.images.crops import ViewRecipe
from crossalign.methods.method import Method


def check_adaptive(method: Method) -> None:
    """Refuse a method that has no adaptive views.

    Raises:
        InputError: names it.
    """
    if not method.resampled:
        raise InputError(
            f"method {method.name} has no adaptive views, since its score is no weighted mean over local views; "
            "use wca or mean-views, or a number of views"
        )


def with_views(policy: ViewPolicy, method: Method, views: int | Literal["adaptive"] | None) -> ViewPolicy:
    """Take other views of an image, by the same recipe.

    Args:
        policy: gives crop scale and seed, and what None stands for.
        method: what they are for.
        views: local views per image, "adaptive", or None for no change.

    Raises:
        InputError: the method has no adaptive views.
    """
    if views is None or (views != "adaptive" and not method.uses_views):
        return policy
    if views == "adaptive":
        check_adaptive(method)
        rounds = policy.rounds or Rounds()
        return ViewPolicy(replace(policy.recipe, count=rounds.max_views), rounds)
    return policy.with_count(views)


def view_policy(
    method: Method,
    config: Config,
    views: int | Literal["adaptive"] | None,
    rounds: Rounds,
    crop_scale: tuple[float, float] | None,
    seed: int,
) -> ViewPolicy:
    """Choose the views that a user asked for, or the default ones of a method; arguments as for `Classifier`.

    Raises:
        InputError: the method has no adaptive views, or needs a view.
    """
    if views == "adaptive":
        check_adaptive(method)
    adaptive = views == "adaptive" or (views is None and method.resampled)
    count = rounds.max_views if adaptive else config.views if views is None else views
    assert isinstance(count, int)
    if method.uses_views and count < 1:
        raise InputError(f"method {method.name} needs at least one view, but views is {count}")
    recipe = ViewRecipe(count if method.uses_views else 0, crop_scale or config.crop_scale, seed)
    return ViewPolicy(recipe, rounds if adaptive else None)
