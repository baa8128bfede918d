"""The command line: one module of this package a verb, imported only when it is called."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from typing import Any

import click

from crossalign import __version__
from crossalign.errors import InputError


class Verbs(click.Group):
    """Finds verbs as modules that hold a `command`, and turns wrong input into one sentence and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs."""
        return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a verb."""
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; no traceback for what the user can mend."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise _WrongInput(str(error)) from error


class _WrongInput(click.ClickException):
    exit_code = 2


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Training-free, explainable image classification with vision-language models.

    A picture is looked at through many local views, a class is described in many sentences, and the weighted similarity
    of all views to all sentences tells the class (WCA, arXiv 2406.02915).

    \b
    Start here:
      crossalign demo
      crossalign classify photos/ --labels "cat,dog,cup of coffee"
      crossalign evaluate --dataset folder --data-path photos-by-class/ --encoder builtin
    """
    warnings.showwarning = _one_line


def _one_line(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"Warning: {message}", file=sys.stderr)
