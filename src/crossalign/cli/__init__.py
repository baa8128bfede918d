"""The command line: one module per command, imported when it is called."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from typing import Any

import click

from crossalign import __version__
from crossalign.cli._console import set_up_console
from crossalign.cli._interruption import Interrupted, quick_end
from crossalign.cli._logging import open_log
from crossalign.errors import InputError
from crossalign.process import tune_process

log = logging.getLogger("crossalign")


class Commands(click.Group):
    """Finds commands as modules with a `command`, and turns an InputError into one sentence and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands."""
        return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, without a traceback for input errors and interruptions."""
        # Before the command is imported, since torch listens only once.
        tune_process()
        try:
            with quick_end(lambda: ctx.invoked_subcommand):
                result = super().invoke(ctx)
        except InputError as error:
            log.error("%s", error, exc_info=True)
            raise _WrongInput(str(error)) from error
        except Interrupted as error:
            log.warning("%s", error.message)
            raise
        except (click.exceptions.Exit, click.ClickException) as error:
            log.info("ended with exit code %d", error.exit_code)
            raise
        except (click.Abort, SystemExit) as error:
            log.info("ended with exit code %s", getattr(error, "code", 1))
            raise
        except Exception:
            log.exception("crossalign failed")
            raise
        log.info("done")
        return result


class _WrongInput(click.ClickException):
    exit_code = 2


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False),
    help="Append warnings, errors with tracebacks, and progress to this file; comes before the command.",
)
def main(log_file: str | None) -> None:
    """Training-free, explainable image classification with vision-language models.

    WCA (arXiv 2406.02915) compares many local views of an image with many descriptions of each class, and sums the
    similarities with weights.

    \b
    Start here:
      crossalign demo
      crossalign classify photos/ --labels "cat,dog,cup of coffee"
      crossalign evaluate --dataset folder --data-path photos-by-class/ --encoder builtin
      crossalign --log-file run.log evaluate --dataset folder --data-path photos-by-class/
    """
    if log_file is not None:
        open_log(log_file, sys.argv[1:])
    set_up_console()
