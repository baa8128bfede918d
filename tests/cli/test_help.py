"""`--help`: each option in its group, and words that newcomers know."""

import re

import click
import pytest
from click.testing import CliRunner

from crossalign.cli import main
from crossalign.cli._help import GROUPS


def leaves():
    """All commands with options, by their names."""
    for name in main.list_commands(click.Context(main)):
        command = main.get_command(click.Context(main), name)
        inner = command.commands if isinstance(command, click.Group) else {}
        yield from ([name, part] for part in inner)
        if not inner:
            yield [name]


def shown(words):
    done = CliRunner().invoke(main, [*words, "--help"], terminal_width=200)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("words", list(leaves()), ids=" ".join)
def test_each_option_is_in_its_group(words):
    titles = re.findall(r"^([A-Z][a-z ]+):$", shown(words), re.MULTILINE)
    assert titles == [title for title in (*GROUPS, "Help") if title in titles]
    # An option that no group names would stand beside --help.
    assert re.search(r"^Help:\n  (-h, )?--help +Show this message and exit\.\n\Z", shown(words), re.MULTILINE)


def test_groups_follow_the_order_of_use():
    titles = re.findall(r"^([A-Z][a-z ]+):$", shown(["evaluate"]), re.MULTILINE)
    assert titles == ["What", "How", "Output", "Encoder and speed", "Cluster", "Cache", "Help"]
    lines = [line.strip() for line in shown(["evaluate"]).splitlines()]
    starts = ["What:", "--dataset,", "--descriptions ", "How:", "--methods ", "Encoder and speed:", "--device ", "Cluster:"]
    places = [next(place for place, line in enumerate(lines) if line.startswith(start)) for start in starts]
    assert places == sorted(places)


def test_every_name_in_a_group_is_an_option():
    named = [name for names in GROUPS.values() for name in names.split()]
    assert len(named) == len(set(named))
    known = set()
    for words in leaves():
        command = main
        for word in words:
            command = command.get_command(click.Context(command), word)
        known |= {option.name for option in command.params}
    assert set(named) <= known


@pytest.mark.parametrize("words", [[], *(words for words in leaves() if words != ["classify"])], ids=" ".join)
def test_help_uses_the_words_of_the_field(words):
    assert not re.findall(
        r"\b(picture|verb|mend|whole ones|likeness|re-draw)\w*",
        shown(words).replace("classify   Label pictures", ""),
        re.IGNORECASE,
    )
