"""What each method sees under a protocol: which views, which texts, and how many resampled runs.

Under "shared" all methods see the same views and texts, so that only the method differs. Under "released" each method sees
the views and texts of its own program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from crossalign.datasets.configs import Config
from crossalign.errors import InputError
from crossalign.images.crops import Recipe, ResizedCropRecipe, ViewRecipe
from crossalign.methods.method import Method, TextFeatures

Protocol = Literal["shared", "released"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

RELEASED_VIEWS: Mapping[str, Callable[[Config, int], Recipe]] = {
    # WCA's program never hands the crop scale of its config to the crop function.
    "wca": lambda config, seed: ViewRecipe(config.released_views, (0.1, 0.9), seed),
    "bifta": lambda config, seed: ViewRecipe(
        config.bifta_views, config.bifta_crop_scale, seed, config.bifta_candidates, config.bifta_max_iou
    ),
    "random-resized-63": lambda config, seed: ResizedCropRecipe(63, seed),
    "random-resized-50": lambda config, seed: ResizedCropRecipe(50, seed),
    "squares-90": lambda config, seed: ViewRecipe(90, (0.6, 0.9), seed),
}
"""By the keys of `Method.released.views`: from a dataset's config and a seed to the views of the methods' own programs."""


@dataclass(frozen=True)
class Saw:
    """The views and texts of a method, as results show them.

    Attributes:
        views: of an image, in words.
        prompts: key of `prompts.SOURCES`.
        prompts_per_class: the fewest and the most.
    """

    views: str
    prompts: str
    prompts_per_class: tuple[int, int]


@dataclass(frozen=True)
class Row:
    """A method, and what it sees.

    Attributes:
        method: with the prompts and options of the protocol.
        recipe: of its local views; of no views where it sees the global view alone.
        runs: resampled runs, each of `sampled` views taken with replacement; 0 for a method that scores all views once.
        sampled: views per resampled run.
    """

    method: Method
    recipe: Recipe
    runs: int = 0
    sampled: int = 0

    @property
    def views(self) -> str:
        """The views of the method, in words."""
        if not self.method.uses_views:
            return "global view"
        return str(self.recipe) + (" + global view" if self.method.sees == "views+image" else "")

    def saw(self, texts: TextFeatures) -> Saw:
        """Return the views and texts for the results."""
        return Saw(self.views, self.method.prompts, (int(texts.counts.min()), int(texts.counts.max())))

    def with_seed(self, seed: int) -> Row:
        """Place the views by another seed."""
        return replace(self, recipe=replace(self.recipe, seed=seed))


def plan(methods: Sequence[Method], config: Config, protocol: Protocol, seed: int) -> list[Row]:
    """Say what each method sees.

    Args:
        methods: as their rows have them.
        config: the dataset's views and resampled runs.
        protocol: "shared" or "released".
        seed: of the views.

    Raises:
        InputError: the protocol is unknown, or a method exists under the other one alone.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol is {protocol!r}, but must be {' or '.join(PROTOCOLS)}")
    return [_row(method, config, protocol, seed) for method in methods]


def _row(method: Method, config: Config, protocol: Protocol, seed: int) -> Row:
    if protocol == "released":
        method = method.as_released()
        place = RELEASED_VIEWS.get(method.released.views or "wca")
        if place is None:
            known = ", ".join(RELEASED_VIEWS)
            raise InputError(f"method {method.name} names the released views {method.released.views!r}; known are {known}")
        recipe = place(config, seed)
    elif method.own_views:
        raise InputError(f"method {method.name} is a way to choose views, which the protocol shared gives; use released")
    else:
        recipe = ViewRecipe(config.views, config.crop_scale, seed)
    if not method.uses_views:
        return Row(method, ViewRecipe(0, config.crop_scale, seed))
    return Row(method, recipe, *((config.runs, config.sampled_views) if method.resampled else ()))


def by_recipe(rows: Sequence[Row]) -> dict[Recipe, list[Row]]:
    """Group rows by the views that are encoded for them, so that each view is encoded once.

    Recipes that differ in their number of views alone are one, of the largest number: a shorter list of views begins the
    longer one. Rows that see the global view alone join the first group.
    """
    groups: dict[Recipe, list[Row]] = {}
    for row in rows:
        if row.method.uses_views:
            groups.setdefault(replace(row.recipe, count=0), []).append(row)
    largest = {replace(key, count=max(row.recipe.count for row in group)): group for key, group in groups.items()}
    alone = [row for row in rows if not row.method.uses_views]
    if alone and not largest:
        return {alone[0].recipe: alone}
    if alone:
        next(iter(largest.values())).extend(alone)
    return largest
