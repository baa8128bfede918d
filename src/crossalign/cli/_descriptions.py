"""The options that give descriptions of labels, and the line that says which ones are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from crossalign.cli._common import options
from crossalign.cli._measuring import description_style_option

if TYPE_CHECKING:
    from crossalign.classifier import Classifier
    from crossalign.text.descriptions.choosing import Given

descriptions_options = options(
    click.option(
        "--descriptions",
        type=click.Path(),
        help="JSON {class: [text]}, a bundled name, or none for hand-written templates [default: the bundled ones that have "
        "all labels, else none].",
    ),
    description_style_option,
    click.option(
        "--allow-missing", is_flag=True, help="Labels that --descriptions lack get hand-written templates, not an error."
    ),
)
"""What names the descriptions of labels; `_measuring.styled_descriptions` reads the first two."""


def say_descriptions(given: Given, *classifiers: Classifier) -> None:
    """Say on standard error which bundled descriptions are used, if none were given and a method reads any."""
    if given is None and any(classify.scorer.method.needs_descriptions for classify in classifiers):
        say_bundled(classifiers[0].labels, "--descriptions none takes hand-written templates")


def say_bundled(labels: Sequence[str], way_out: str) -> None:
    """Say on standard error which bundled descriptions have all labels, if there are any."""
    from crossalign.text.descriptions.choosing import bundled_for

    if name := bundled_for(labels):
        click.echo(f"descriptions: bundled {name!r} (all {len(labels)} labels are among its classes); {way_out}", err=True)
