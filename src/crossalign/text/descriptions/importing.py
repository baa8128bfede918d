"""Published description files, {class: [text]} in one file or a folder, to this package's own kind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from crossalign.errors import InputError
from crossalign.text.descriptions import SCHEMA, normalise_name, parse_descriptions

FileStyle = Literal["descriptors", "fragments", "sentences"]
"""As in our files: "descriptors" complete "which has ..."; "fragments" are as DCLIP's and follow its grammar."""


@dataclass(frozen=True)
class Imported:
    """Descriptions of a published file, and what was amiss with it.

    Attributes:
        style: of the texts.
        classes: class name to its texts, each once; only classes that have some.
        unmatched: entries that belong to none of the wanted classes.
        missing: wanted classes that no entry describes.
        merged: classes that stand more than once.
        repeated: class name to how many repeats were left out.
    """

    style: FileStyle
    classes: Mapping[str, tuple[str, ...]]
    unmatched: tuple[str, ...]
    missing: tuple[str, ...]
    merged: tuple[str, ...]
    repeated: Mapping[str, int]


class _Object(list[tuple[str, Any]]):
    """A JSON object with all its entries, also those whose key comes again."""


def import_descriptions(
    source: Path, names: Sequence[str] = (), aliases: Sequence[Sequence[str]] = (), style: FileStyle | None = None
) -> Imported:
    """Read a JSON file {class: [text]}, or a folder of such files, of JSON lists and of text files (a text a line).

    Entries whose names differ only in case, hyphens and underscores are one class. In a folder, a list or text file is
    about the class that it is named after.

    Args:
        source: the file or folder.
        names: the wanted classes, or nothing for all there are.
        aliases: for each wanted class other names that the file may use, or nothing.
        style: what the texts are; by default guessed, or as a file of our own states.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    stated, entries = _read(source)
    texts: dict[str, list[str]] = {}
    title: dict[str, str] = {}
    merged = []
    for name, of_class in entries:
        key = _loose(name)
        if key in title:
            merged.append(title[key])
        title.setdefault(key, name)
        texts.setdefault(key, []).extend(text for text in of_class if text.strip())
    parsed = parse_descriptions({title[key]: of_class for key, of_class in texts.items()}, str(source))
    found = {key: parsed.classes[title[key]] for key in texts}
    used = _match(found, names, aliases) if names else {title[key]: key for key in found}
    classes = {name: found[key] for name, key in used.items() if found.get(key)}
    return Imported(
        style=style or stated or ("sentences" if parsed.style == "sentences" else "fragments"),
        classes=classes,
        unmatched=tuple(title[key] for key in found if key not in used.values()),
        missing=tuple(name for name in names or title.values() if name not in classes),
        merged=tuple(dict.fromkeys(merged)),
        repeated={name: n for name in classes if (n := len(texts[used[name]]) - len(classes[name]))},
    )


def import_report(imported: Imported) -> Iterator[str]:
    """Say what was amiss, a line each."""
    if imported.unmatched:
        yield f"{_count(imported.unmatched, 'entry', 'entries')} of no wanted class: {', '.join(imported.unmatched)}"
    if imported.missing:
        yield f"{_count(imported.missing, 'class', 'classes')} without descriptions: {', '.join(imported.missing)}"
    if imported.merged:
        yield f"{_count(imported.merged, 'class', 'classes')} more than once, put together: {', '.join(imported.merged)}"
    if imported.repeated:
        shown = [f"{name} {count}" for name, count in imported.repeated.items()]
        more = f" and {len(shown) - 10} more classes" if len(shown) > 10 else ""
        yield f"repeated texts left out: {', '.join(shown[:10])}{more}"


def imported_content(imported: Imported, source: str) -> dict[str, Any]:
    """What our file of imported descriptions holds."""
    classes = {name: list(texts) for name, texts in imported.classes.items()}
    return {"schema": SCHEMA, "author": "imported, not written for crossalign", "source": source} | {
        "style": imported.style,
        "missing": list(imported.missing),
        "classes": classes,
    }


def _match(found: Iterable[str], names: Sequence[str], aliases: Sequence[Sequence[str]]) -> dict[str, str]:
    """Find for each wanted class the entry that is called like it, or like one of its other names."""
    known = {normalise_name(key): key for key in found} | {key: key for key in found}
    used = {}
    for name, others in zip(names, aliases or [()] * len(names), strict=True):
        keys = [known[k] for n in (name, *others) for k in (_loose(n), normalise_name(n)) if k in known]
        if keys:
            used[name] = keys[0]
    return used


def _loose(name: str) -> str:
    """A name without its case, hyphens and underscores; "C++" and "C#" stay different."""
    return " ".join(re.sub(r"[-_]", " ", name.casefold()).split())


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
            raise InputError(f"{str(file)!r} has for {name!r} something else than a list of texts; mend that entry")
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


def _count(things: Sequence[str], one: str, many: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else many}"
