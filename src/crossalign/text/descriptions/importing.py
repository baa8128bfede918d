"""Published description files, {class: [text]} in one file or a folder, to this package's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from crossalign.errors import InputError
from crossalign.text.descriptions import SCHEMA, parse_descriptions
from crossalign.text.descriptions.style import DescribedClass, says_something, style_of, tidy_descriptor, tidy_sentence
from crossalign.text.names import loose_name, match_names

FileStyle = Literal["descriptors", "fragments", "sentences"]
"""As in our files: "descriptors" complete "which has ..."; "fragments" are as DCLIP's and follow its grammar."""


@dataclass(frozen=True)
class Imported:
    """Descriptions of a published file, and what was wrong with it.

    Attributes:
        style: of the texts.
        classes: class name to its texts, tidied, repeats included; only classes that have some.
        unmatched: entries that belong to none of the wanted classes.
        missing: wanted classes that no entry describes.
        merged: classes that stand more than once.
        tidied: how many texts had marks or the like, which were taken out.
    """

    style: FileStyle
    classes: Mapping[str, tuple[str, ...]]
    unmatched: tuple[str, ...]
    missing: tuple[str, ...]
    merged: tuple[str, ...]
    tidied: int = 0


class _Object(list[tuple[str, Any]]):
    """A JSON object with all its entries, also those whose key comes again."""


def import_descriptions(
    source: Path, names: Sequence[str] = (), aliases: Sequence[Sequence[str]] = (), style: FileStyle | None = None
) -> Imported:
    """Read a JSON file {class: [text]}, or a folder of such files, of JSON lists and of text files (one text per line).

    Entries whose names differ only in case, hyphens and underscores are one class. In a folder, a list or text file is
    about the class that it is named after. Texts are tidied as for prompts, but for those of our own
    files that complete "which has ...".

    Args:
        source: the file or folder.
        names: the wanted classes, or nothing for all there are.
        aliases: for each wanted class other names that the file may use, or nothing.
        style: what the texts are; by default as a file of our own states, or as the texts tell.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    stated, entries = _read(source)
    texts: dict[str, list[str]] = {}
    title: dict[str, str] = {}
    merged = []
    for name, of_class in entries:
        key = loose_name(name)
        if key in title:
            merged.append(title[key])
        title.setdefault(key, name)
        texts.setdefault(title[key], []).extend(of_class)
    read = {name: tuple(filter(says_something, t)) for name, t in parse_descriptions(texts, str(source)).classes.items()}
    described = {name: of_class for name, of_class in read.items() if of_class}
    wanted = list(names or texts)
    used = dict(zip(wanted, match_names(described, wanted, aliases), strict=True))
    matched = {*used.values(), *match_names(texts, wanted, aliases)}
    called = {
        name: (name, *others, used[name] or name) for name, others in zip(wanted, aliases or [()] * len(wanted), strict=True)
    }
    usable = {name: described[entry] for name, entry in used.items() if entry is not None}
    style = style or stated or _told([(called[name], of_class) for name, of_class in usable.items()], source)
    tidy = {name: tuple(_tidied(text, style, called[name]) for text in of_class) for name, of_class in usable.items()}
    return Imported(
        style=style,
        classes=tidy,
        unmatched=tuple(name for name in texts if name not in matched),
        missing=tuple(name for name in wanted if name not in usable),
        merged=tuple(dict.fromkeys(merged)),
        tidied=sum(
            " ".join(before.split()) != after
            for name in usable
            for before, after in zip(usable[name], tidy[name], strict=True)
        ),
    )


def _told(described: Sequence[DescribedClass], source: Path) -> FileStyle:
    return "sentences" if style_of(described, str(source)) == "sentences" else "fragments"


def _tidied(text: str, style: FileStyle, names: Sequence[str]) -> str:
    if style == "descriptors":
        return " ".join(text.split())
    return tidy_sentence(text) if style == "sentences" else tidy_descriptor(text, names)


def import_report(imported: Imported) -> Iterator[str]:
    """Describe what was wrong, one line per problem."""
    if imported.unmatched:
        yield f"{_count(imported.unmatched, 'entry', 'entries')} of no wanted class: {', '.join(imported.unmatched)}"
    if imported.missing:
        yield f"{_count(imported.missing, 'class', 'classes')} without descriptions: {', '.join(imported.missing)}"
    if imported.merged:
        yield f"{_count(imported.merged, 'class', 'classes')} more than once, put together: {', '.join(imported.merged)}"
    if imported.tidied:
        count = "1 text" if imported.tidied == 1 else f"{imported.tidied} texts"
        yield f"{count} tidied: marks of lists and bold type, subjects of fragments, full stops behind them"


def imported_content(imported: Imported, source: str) -> dict[str, Any]:
    """Content of the file of imported descriptions."""
    classes = {name: list(texts) for name, texts in imported.classes.items()}
    return {"schema": SCHEMA, "author": "imported, not written for crossalign", "source": source} | {
        "style": imported.style,
        "missing": list(imported.missing),
        "classes": classes,
    }


def _read(source: Path) -> tuple[FileStyle | None, list[tuple[str, list[str]]]]:
    """Read all entries, and the style if they state one."""
    if not source.is_dir():
        return _entries(_parse(source), source)
    files = sorted(p for p in source.iterdir() if p.suffix.lower() in (".json", ".txt") and not p.name.startswith("."))
    if not files:
        raise InputError(f"folder {str(source)!r} holds no .json or .txt files; give one of descriptions")
    styles: set[FileStyle | None] = set()
    entries = []
    for file in files:
        content = _text(file).splitlines() if file.suffix.lower() == ".txt" else _parse(file)
        if isinstance(content, list) and not isinstance(content, _Object):
            content = _Object([(file.stem, content)])
        style, some = _entries(content, file)
        styles.add(style)
        entries += some
    if len(styles) > 1:
        raise InputError(f"folder {str(source)!r} holds files of several styles; import them one by one")
    return styles.pop(), entries


def _entries(content: Any, file: Path) -> tuple[FileStyle | None, list[tuple[str, list[str]]]]:
    style: FileStyle | None = None
    if isinstance(content, _Object) and "schema" in dict(content):
        ours = dict(content)
        content = ours.get("classes")
        parse_descriptions(ours | {"classes": dict(content) if isinstance(content, _Object) else content}, str(file))
        style = next(known for known in get_args(FileStyle) if known == ours["style"])
    if not isinstance(content, _Object):
        raise InputError(f"{str(file)!r} does not hold {{class: [text]}}; give such a file")
    for name, texts in content:
        if isinstance(texts, _Object) or not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
            raise InputError(f"{str(file)!r} has for {name!r} something else than a list of texts; fix that entry")
    return style, list(content)


def _parse(file: Path) -> Any:
    try:
        return json.loads(_text(file), object_pairs_hook=_Object)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"descriptions {str(file)!r} are no JSON ({error}); give a file {{class: [text]}}") from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"descriptions {str(file)!r} cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"descriptions {str(file)!r} are no UTF-8 text; save them as UTF-8") from None


def _count(things: Sequence[str], singular: str, plural: str) -> str:
    return f"{len(things)} {singular if len(things) == 1 else plural}"
