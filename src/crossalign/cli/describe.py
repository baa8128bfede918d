"""`crossalign describe`: descriptions of any classes, written by an LLM or taken from a published file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.errors import InputError
from crossalign.text.labels import check_labels

if TYPE_CHECKING:
    from crossalign.text.descriptions.answers import AnswerFile
    from crossalign.text.descriptions.importing import FileStyle
    from crossalign.text.descriptions.llm import Server
    from crossalign.text.descriptions.questions import Order

NEAR = 5
"""Near classes that are shown with a class under --contrast."""


class Classes(NamedTuple):
    """The classes to be described, with their other names, their kind and the dataset's name, if they have such."""

    names: tuple[str, ...] = ()
    aliases: tuple[tuple[str, ...], ...] = ()
    domain: str = ""
    dataset: str = ""


@click.command()
@click.option("--dataset", help="Its classes; see `crossalign datasets`.")
@click.option("--labels", help='Class names, comma separated: "cat,dog,cup of coffee".')
@click.option("--labels-file", type=click.Path(), help="Class names, one a line.")
@click.option("--from", "source", type=click.Path(), help="Import {class: [text]} from a JSON file or folder; asks no LLM.")
@click.option("--output", type=click.Path(), help="The descriptions file to write.")
@click.option(
    "--base-url", envvar="OPENAI_BASE_URL", show_envvar=True, help="Of the server, with /v1 [default: OpenAI's own]."
)
@click.option("--model", help="The LLM's name at the server.")
@click.option("--api-key-env", help="Environment variable that holds the key [default: OPENAI_API_KEY].")
@click.option("--per-class", default=10, show_default=True, type=click.IntRange(1, 100), help="Texts per class.")
@click.option("--domain", help='What kind of thing all classes are, "types of pet" [default: the dataset\'s].')
@measuring.class_names_option
@click.option(
    "--style",
    "--description-style",
    type=click.Choice(["descriptors", "sentences"]),
    help="Fragments that complete 'which has ...', or sentences that name the class [default: descriptors, or as imported].",
)
@click.option("--contrast", is_flag=True, help="Show the LLM the most similar class names, to name what differs.")
@click.option("--encoder", default="builtin", show_default=True, help="Tells how similar names are, for --contrast.")
@click.option("--concurrency", default=4, show_default=True, type=click.IntRange(1, 256), help="Classes asked at a time.")
@click.option("--dry-run", is_flag=True, help="Print the prompts and an estimate of tokens; asks no LLM.")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Have an LLM describe what classes look like, or import such descriptions.

    Any server of OpenAI's chat completions will do: OpenAI, Ollama, vLLM, llama.cpp, LM Studio. Each class is saved as it
    arrives; the same command again asks only for what is missing. The key comes from the environment and is never shown or
    stored. The exit code is 1 if some classes failed, and 0 if all are described.

    \b
    Examples:
      crossalign describe --labels "tabby cat,red fox" --dry-run
      crossalign describe --labels "tabby cat,red fox" --base-url http://localhost:11434/v1 --model llama3.1 --output a.json
      crossalign describe --dataset oxford_pet --model gpt-4.1-mini --contrast --output pets.json
      crossalign describe --dataset oxford_pet --from cupl.json --output pets.json
    """
    if options["output"] is None and not options["dry_run"]:
        raise InputError("no output file given; name one with --output FILE.json")
    file = common.check_output(options["output"]) if options["output"] else Path()
    run = _ask if options["source"] is None else _import
    if not run(options, file):
        ctx.exit(1)


def _import(options: Mapping[str, Any], file: Path) -> bool:
    """Write our file of a published one; False if a wanted class is missing."""
    from crossalign.text.descriptions.importing import import_descriptions, import_report, imported_content

    for option in ("model", "contrast", "dry_run", "domain", "api_key_env"):
        if options[option]:
            raise InputError(f"--{option.replace('_', '-')} goes with asking an LLM, not with --from; leave one out")
    if file.exists():
        raise InputError(f"output {str(file)!r} is there already; remove it or name another")
    chosen = [options[option] for option in ("dataset", "labels", "labels_file")]
    wanted = _classes(options) if any(option is not None for option in chosen) else Classes()
    style: FileStyle | None = "fragments" if options["style"] == "descriptors" else options["style"]
    imported = import_descriptions(Path(options["source"]), wanted.names, wanted.aliases, style)
    for line in import_report(imported):
        click.echo(line, err=True)
    if not imported.classes:
        raise InputError(f"{options['source']!r} describes none of the wanted classes; check --dataset or --labels")

    from crossalign.store.files import write_atomically
    from crossalign.text.descriptions.answers import to_text

    write_atomically(file, to_text(imported_content(imported, Path(options["source"]).name)).encode())
    click.echo(f"{file}: {len(imported.classes)} classes described, {len(imported.missing)} missing; {imported.style}")
    return not imported.missing


def _ask(options: Mapping[str, Any], file: Path) -> bool:
    """Have the classes described; False if one failed."""
    from crossalign.text.descriptions.questions import Order

    wanted = _classes(options)
    domain = wanted.domain if options["domain"] is None else options["domain"]
    order = Order(options["style"] or "descriptors", options["per_class"], domain)
    server = None if options["dry_run"] else _server(options)
    answers = None if server is None else _answers(file, options, server, order, wanted.dataset)
    near = _near(wanted.names, options["encoder"]) if options["contrast"] else {}
    questions = {name: order.question(name, near.get(name, ())) for name in wanted.names}
    if server is None or answers is None:
        _show(order, list(questions.values()))
        return True
    lacking = answers.lacking(wanted.names, near)
    failures = _fill(answers, {name: questions[name] for name in lacking}, near, server, order, options["concurrency"])
    if answers.classes and (lacking or not answers.finished):
        answers.finish(wanted.names, failures)
    for name, reason in failures.items():
        click.echo(f"{name}: {reason}", err=True)
    click.echo(f"{file}: {len(wanted.names) - len(failures)} of {len(wanted.names)} classes described")
    if failures:
        click.echo(f"{len(failures)} classes failed; the same command again asks about them", err=True)
    return not failures


def _answers(file: Path, options: Mapping[str, Any], server: Server, order: Order, dataset: str) -> AnswerFile:
    """Begin the file, or take it up where an earlier run left it."""
    from crossalign import __version__
    from crossalign.text.descriptions.answers import AnswerFile

    settings = {
        "style": order.style,
        "model": server.model,
        "server": server.address,
        "per_class": order.count,
        "domain": order.domain,
        "contrast": options["encoder"] if options["contrast"] else None,
        "instruction": order.instruction,
        "prompt": order.question("{class}", ["{near classes}"] if options["contrast"] else []),
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
    """Ask the questions and save what comes; for each class that failed, why."""
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


def _classes(options: Mapping[str, Any]) -> Classes:
    dataset, labels, labels_file = options["dataset"], options["labels"], options["labels_file"]
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
    if options["class_names"] != "published":
        return Classes(classes.names, classes.aliases, config.domain, config.name)
    rows = {name: row for row, name in reversed(list(enumerate(classes.published)))}  # Classes with one name are one.
    named = classes.take(sorted(rows.values()))
    return Classes(named.published, named.aliases, config.domain, config.name)


def _server(options: Mapping[str, Any]) -> Server:
    from crossalign.text.descriptions.llm import NO_KEY, OPENAI_URL, Server

    if not options["model"]:
        raise InputError("no model given; name one that the server has with --model")
    variable = options["api_key_env"] or "OPENAI_API_KEY"
    key = os.environ.get(variable, "").strip()
    if not key and (options["api_key_env"] or not options["base_url"]):
        raise InputError(f"the environment variable {variable} holds no API key; set it, or give a local --base-url")
    return Server(options["model"], options["base_url"] or OPENAI_URL, key or NO_KEY)


def _near(names: Sequence[str], encoder: str) -> dict[str, list[str]]:
    """Find for each class those whose names mean the most similar, by the cosine of their text features (C, D)."""
    from crossalign.encoders import load_encoder

    features = load_encoder(encoder).encode_texts(names)
    similarity = (features @ features.T).fill_diagonal_(-float("inf"))
    nearest = similarity.topk(min(NEAR, len(names) - 1)).indices.tolist()
    return {name: [names[i] for i in row] for name, row in zip(names, nearest, strict=True)}


def _show(order: Order, questions: Sequence[str]) -> None:
    sent, received = order.tokens(questions)
    click.echo("\n\n".join([order.instruction, *questions]))
    click.echo(
        f"\n{len(questions)} requests, about {sent} tokens sent and {received} received; "
        "answers that are asked for again come on top",
        err=True,
    )
