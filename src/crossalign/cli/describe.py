"""`crossalign describe`: descriptions of any classes, written by an LLM or imported from a published file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.cli._help import GroupedCommand
from crossalign.errors import InputError, need_package
from crossalign.text.labels import check_labels

if TYPE_CHECKING:
    from crossalign.datasets import ClassNames
    from crossalign.text.descriptions.answers import AnswerFile
    from crossalign.text.descriptions.importing import FileStyle
    from crossalign.text.descriptions.llm import Server
    from crossalign.text.descriptions.questions import Order

NEAR = 5
"""Number of similar classes that the LLM is shown under --contrast."""


@dataclass(frozen=True)
class Options:
    """The values of the command's options."""

    dataset: str | None
    labels: str | None
    labels_file: str | None
    class_names: ClassNames | None
    source: str | None
    domain: str | None
    style: Literal["descriptors", "sentences"] | None
    per_class: int
    contrast: bool
    encoder: str
    base_url: str | None
    model: str | None
    api_key_env: str | None
    concurrency: int
    dry_run: bool
    output: str | None

    @property
    def names_classes(self) -> bool:
        """Whether an option names the classes."""
        return any(value is not None for value in (self.dataset, self.labels, self.labels_file))


class Classes(NamedTuple):
    """The classes to describe, with their other names, their kind and the name of the dataset, if they have these."""

    names: tuple[str, ...] = ()
    aliases: tuple[tuple[str, ...], ...] = ()
    domain: str = ""
    dataset: str = ""


@click.command(cls=GroupedCommand)
@click.option("--dataset", help="Describe the classes of this dataset; see `crossalign datasets`.")
@click.option("--labels", help='Class names, comma separated: "cat,dog,cup of coffee".')
@click.option("--labels-file", type=click.Path(), help="Class names, one per line.")
@measuring.class_names_option("ours")
@click.option(
    "--from", "source", type=click.Path(), help="Import {class: [text]} from this JSON file or folder, without an LLM."
)
@click.option("--model", help="Name of the LLM at the server.")
@click.option(
    "--base-url", envvar="OPENAI_BASE_URL", show_envvar=True, help="URL of the server, with /v1 [default: OpenAI's]."
)
@click.option("--api-key-env", help="Environment variable that holds the key [default: OPENAI_API_KEY].")
@click.option(
    "--style",
    "--description-style",
    type=click.Choice(["descriptors", "sentences"]),
    help="descriptors: fragments that complete 'which has ...'. sentences: sentences that name the class "
    "[default: descriptors; with --from, as in the file].",
)
@click.option("--per-class", default=10, show_default=True, type=click.IntRange(1, 100), help="Number of texts per class.")
@click.option("--domain", help='Kind of thing that all classes are, such as "types of pet" [default: the dataset\'s].')
@click.option("--contrast", is_flag=True, help="Show the LLM the most similar class names, so that it names differences.")
@click.option(
    "--encoder", default="builtin", show_default=True, help="With --contrast: the encoder that compares the names."
)
@click.option(
    "--concurrency", default=4, show_default=True, type=click.IntRange(1, 256), help="Number of requests at a time."
)
@click.option("--output", type=click.Path(), help="The descriptions file to write.")
@click.option("--dry-run", is_flag=True, help="Print the prompts and an estimate of the tokens, without an LLM.")
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Let an LLM describe what classes look like, or import such descriptions.

    Any server with OpenAI's chat completions works: OpenAI, Ollama, vLLM, llama.cpp, LM Studio. Each class is saved as it
    arrives, and the same command again asks only for the missing classes. The key is read from the environment; it is never
    shown or stored. Exit code: 0 if all classes are described, 1 if some failed.

    \b
    Examples:
      crossalign describe --labels "tabby cat,red fox" --dry-run
      crossalign describe --labels "tabby cat,red fox" --base-url http://localhost:11434/v1 --model llama3.1 --output a.json
      crossalign describe --dataset oxford_pet --model gpt-4.1-mini --contrast --output pets.json
      crossalign describe --dataset oxford_pet --from cupl.json --output pets.json
    """
    options = Options(**values)
    if options.output is None and not options.dry_run:
        raise InputError("no output file given; name one with --output FILE.json")
    file = common.check_output(options.output) if options.output else Path()
    complete = _ask(options, file) if options.source is None else _import(options, options.source, file)
    if not complete:
        ctx.exit(1)


def _import(options: Options, source: str, file: Path) -> bool:
    """Write a descriptions file from a published one; False if a wanted class is missing."""
    from crossalign.text.descriptions.importing import import_descriptions, import_report, imported_content

    for option in ("model", "contrast", "dry_run", "domain", "api_key_env"):
        if getattr(options, option):
            flag = f"--{option.replace('_', '-')}"
            raise InputError(f"{flag} is for asking an LLM, and --from asks none; omit one of them")
    if file.exists():
        raise InputError(f"output {str(file)!r} already exists; remove it or name another")
    wanted = _classes(options) if options.names_classes else Classes()
    style: FileStyle | None = "fragments" if options.style == "descriptors" else options.style
    imported = import_descriptions(Path(source), wanted.names, wanted.aliases, style)
    for line in import_report(imported):
        click.echo(line, err=True)
    if not imported.classes:
        raise InputError(f"{source!r} describes none of the wanted classes; check --dataset or --labels")

    from crossalign.store.files import write_atomically
    from crossalign.text.descriptions.answers import to_text

    write_atomically(file, to_text(imported_content(imported, Path(source).name)).encode())
    click.echo(f"{file}: {len(imported.classes)} classes described, {len(imported.missing)} missing; {imported.style}")
    return not imported.missing


def _ask(options: Options, file: Path) -> bool:
    """Let the LLM describe the classes; False if one failed."""
    from crossalign.text.descriptions.questions import Order

    wanted = _classes(options)
    domain = wanted.domain if options.domain is None else options.domain
    order = Order(options.style or "descriptors", options.per_class, domain)
    server = None if options.dry_run else _server(options)
    answers = None if server is None else _answers(file, options, server, order, wanted.dataset)
    near = _near(wanted.names, options.encoder) if options.contrast else {}
    questions = {name: order.question(name, near.get(name, ())) for name in wanted.names}
    if server is None or answers is None:
        _show(order, list(questions.values()))
        return True
    lacking = answers.lacking(wanted.names, near)
    failures = _fill(answers, {name: questions[name] for name in lacking}, near, server, order, options.concurrency)
    if answers.classes and (lacking or not answers.finished):
        answers.finish(wanted.names, failures)
    for name, reason in failures.items():
        click.echo(f"{name}: {reason}", err=True)
    click.echo(f"{file}: {len(wanted.names) - len(failures)} of {len(wanted.names)} classes described")
    if failures:
        click.echo(f"{len(failures)} classes failed; run the same command again to ask for them", err=True)
    return not failures


def _answers(file: Path, options: Options, server: Server, order: Order, dataset: str) -> AnswerFile:
    """Open the answers of an earlier run with the same settings, or begin."""
    from crossalign import __version__
    from crossalign.text.descriptions.answers import AnswerFile

    settings = {
        "style": order.style,
        "model": server.model,
        "server": server.address,
        "per_class": order.count,
        "domain": order.domain,
        "contrast": options.encoder if options.contrast else None,
        "instruction": order.instruction,
        "prompt": order.question("{class}", ["{near classes}"] if options.contrast else []),
    }
    author = {"author": f"written by {server.model} for crossalign {__version__}"}
    return AnswerFile(file, settings, ({"dataset": dataset} if dataset else {}) | author)


def _fill(
    answers: AnswerFile,
    questions: Mapping[str, str],
    near: Mapping[str, Sequence[str]],
    server: Server,
    order: Order,
    concurrency: int,
) -> dict[str, str]:
    """Ask the questions and save the answers; return the reason for each class that failed."""
    import asyncio

    from crossalign.text.descriptions.llm import Answer, describe

    if not questions:
        return {}
    if answers.classes:
        click.echo(f"{len(answers.classes)} classes were described before", err=True)
    failures: dict[str, str] = {}
    with common.progress_bar(len(questions), "classes") as bar:

        def arrived(answer: Answer) -> None:
            if answer.texts:
                answers.add(answer.name, answer.texts, near.get(answer.name, ()))
            else:
                failures[answer.name] = answer.failure
            bar.update(1)

        def say(text: str) -> None:
            click.echo(text, err=True)

        asyncio.run(describe(server, order, questions, arrived, concurrency=concurrency, say=say))
    return {name: failures[name] for name in questions if name in failures}


def _classes(options: Options) -> Classes:
    dataset, labels, labels_file = options.dataset, options.labels, options.labels_file
    if sum(given is not None for given in (dataset, labels, labels_file)) != 1:
        raise InputError("give the classes either as --dataset NAME, as --labels or as --labels-file FILE")
    if dataset is None:
        names = check_labels(common.read_labels(labels, labels_file), least=1)
        return Classes(tuple(names))
    from crossalign.datasets import classes_of
    from crossalign.datasets.configs import load_config

    config = load_config(dataset)
    if not config.classes:
        raise InputError(f"dataset {dataset!r} has no class list of its own; give --labels or --labels-file instead")
    classes = classes_of(config)
    if options.class_names != "published":
        return Classes(classes.names, classes.aliases, config.domain, config.name)
    rows = {name: row for row, name in reversed(list(enumerate(classes.published)))}  # The first of classes with one name.
    published = classes.take(sorted(rows.values()))
    return Classes(published.published, published.aliases, config.domain, config.name)


def _server(options: Options) -> Server:
    from crossalign.text.descriptions.llm import NO_KEY, OPENAI_URL, Server

    if not options.model:
        raise InputError("no model given; name a model of the server with --model")
    variable = options.api_key_env or "OPENAI_API_KEY"
    key = os.environ.get(variable, "").strip()
    if not key and (options.api_key_env or not options.base_url):
        raise InputError(f"the environment variable {variable} holds no API key; set it, or give a local --base-url")
    need_package("openai", "llm", "asking an LLM")
    return Server(options.model, options.base_url or OPENAI_URL, key or NO_KEY)


def _near(names: Sequence[str], encoder: str) -> dict[str, list[str]]:
    """List for each class those with the most similar names, by the cosine of their text features (C, D)."""
    from crossalign.encoders import load_encoder

    features = load_encoder(encoder).encode_texts(names)
    similarity = (features @ features.T).fill_diagonal_(-float("inf"))
    nearest = similarity.topk(min(NEAR, len(names) - 1)).indices.tolist()
    return {name: [names[i] for i in row] for name, row in zip(names, nearest, strict=True)}


def _show(order: Order, questions: Sequence[str]) -> None:
    sent, received = order.tokens(questions)
    click.echo("\n\n".join([order.instruction, *questions]))
    click.echo(
        f"\n{len(questions)} requests, about {sent} tokens sent and {received} received; repeated requests add to this",
        err=True,
    )
