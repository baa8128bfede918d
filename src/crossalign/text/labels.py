"""Read labels from lists in JSON, lines or commas, also numbered ones; and find labels that are the same name."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from crossalign.errors import InputError

WANTED = 'give a label per line, "cat, dog", or JSON ["cat", "dog"]'

_NUMBER = re.compile(r"\(?(\d+)([-_.:),;\s]+)(?=\S)")
_BULLET = re.compile(r"[-*•]\s+(?=\S)")
_COLUMNS = {"id", "index", "number", "label", "name", "class", "class_id", "class_name", "label_name", "wnid", "synset"}
"""Names in the first line of a table of classes."""
_PLAIN = re.compile(r"[^\W\d_][^,\"'\[\]{}():]*")
"""Labels that need no quotes."""
_APOSTROPHES = str.maketrans("", "", "'’`´")


def read_labels_file(path: str | Path) -> list[str]:
    """Read labels from a text file: one per line, JSON, or commas in a single line.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    what = f"labels file {str(path)!r}"
    try:
        text = decoded(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{what} cannot be read ({error.strerror}); give a text file with a label per line") from None
    except UnicodeDecodeError:
        raise InputError(f"{what} cannot be read (it is no UTF-8 text); give a text file with a label per line") from None
    return split_labels(text, what, lines_only=True)


def decoded(content: bytes) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark, as Windows PowerShell writes it.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def split_labels(text: str, what: str = "the text of labels", *, lines_only: bool = False) -> list[str]:
    """Split a text into labels by its notation: a JSON list, lines, or commas outside double quotes.

    Numbers and bullets that only number a list ("1. cat", "- cat") are left out.

    Args:
        text: as it was typed, sent or read.
        what: names it in errors.
        lines_only: commas belong to labels, unless there is but one line, or every line ends in one.

    Raises:
        InputError: it is something else, such as broken JSON or a table; says what was seen.
    """
    if text.lstrip().startswith(("[", "{")):
        return _from_json(text, what)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    _check_no_table(lines, what)
    ends = [line.endswith(",") for line in lines[:-1]]
    if lines_only and len(lines) > 1 and not all(ends):
        quoted = all(len(line) > 1 and line[0] == line[-1] == '"' for line in lines)
        labels = _cells(lines, what) if quoted else lines
    else:
        labels = _cells(lines, what)
    if len(labels) > 1 and all(len(label) > 2 and label[0] == label[-1] == "'" for label in labels):
        labels = [label[1:-1] for label in labels]
    # Quoted text is taken literally.
    _check_brackets([label for label in labels if _quoted(label) not in text], what)
    return labels if '"' in text else _without_marks(labels)


def joined_labels(labels: Iterable[str]) -> str:
    """Write labels one per line, so that `split_labels` gives them back."""
    return "\n".join(label if _PLAIN.fullmatch(label) else _quoted(label) for label in labels)


def _quoted(label: str) -> str:
    return '"' + label.replace('"', '""') + '"'


def check_labels(labels: Iterable[str], least: int = 2) -> list[str]:
    """Tidy the blanks of labels and make sure that they are different names.

    Args:
        labels: class names.
        least: how many there must be.

    Raises:
        InputError: a label is empty or no text, two are one name, or there are too few.
    """
    if isinstance(labels, (str, bytes)):
        raise InputError(f"labels is the text {labels!r}; give a list of class names")
    tidy = []
    for number, label in enumerate(labels, start=1):
        if not isinstance(label, str):
            raise InputError(f"label number {number} is {label!r:.80} ({type(label).__name__}), but must be text")
        if any("\ud800" <= letter <= "\udfff" for letter in label):
            raise InputError(f"label number {number} ({label!r}) is no valid text; give it as UTF-8")
        tidy.append(" ".join(label.split()))
        if not tidy[-1]:
            raise InputError(f"label number {number} is empty; remove it")
    counts = Counter(tidy)
    if repeated := sorted(label for label, count in counts.items() if count > 1):
        raise InputError(f"labels must differ, but {', '.join(repeated)} stands more than once; remove the repeats")
    if twins := alike(tidy):
        shown = "; ".join(" and ".join(repr(tidy[position]) for position in group) for group in twins[:3])
        raise InputError(
            f"labels must differ in more than case, blanks, hyphens and how accents are coded, but {shown} are one name; "
            "leave one of each"
        )
    if len(tidy) < least:
        if least < 2:
            raise InputError(f"no labels were given; {WANTED}")
        few = f"{len(tidy)} label{'s' * (not tidy)} given, but classifying takes two or more"
        raise InputError(f"{few}; add some, one per line or separated by commas")
    _warn_of_accents(tidy)
    return tidy


def alike(names: Sequence[str]) -> list[tuple[int, ...]]:
    """Find names that look the same to readers and tokenizers: the positions of each group."""
    groups: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        groups.setdefault(label_key(name), []).append(position)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def label_key(name: str) -> str:
    """Normalise a name: ignore case, apostrophes, how letters are composed, and what joins words.

    Signs stay, so that C, C++ and C# differ.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).translate(_APOSTROPHES)
    return " ".join(re.sub(r"(?<=\w)[\s_\-\u2010-\u2015]+(?=\w)", " ", text.replace("_", " ")).split())


def without_numbers(names: Sequence[str]) -> list[str]:
    """Remove the numbers that sort names ("001.ak47", "1) cat"); names without one stay as they are.

    A number belongs to its name ("18 wheeler") unless the numbers all differ and count from 0 or 1, are padded with zeros,
    or are set off by a sign, and unless names would become alike without them ("1 euro", "2 euro").
    """
    matches = {place: match for place, name in enumerate(names) if (match := _NUMBER.match(name))}
    numbered = {place: match for place, match in matches.items() if _sets_off(match, names[place])}
    separators = Counter(match[2] for match in numbered.values())
    if not separators:
        return list(names)
    separator = separators.most_common(1)[0][0]
    numbered = {place: match for place, match in numbered.items() if match[2] == separator}
    texts = [match[1] for match in numbered.values()]
    numbers = sorted(map(int, texts))
    padded = any(text[0] == "0" and len(text) > 1 for text in texts) and len(set(map(len, texts))) == 1
    counted = len(numbers) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] < 2
    if len(set(numbers)) < len(numbers) or not (padded or counted or any(sign in separator for sign in ".:)\t")):
        return list(names)
    bare = [name[numbered[place].end() :] if place in numbered else name for place, name in enumerate(names)]
    return list(names) if alike(bare) else bare


def _sets_off(match: re.Match[str], name: str) -> bool:
    """Tell whether what follows the number separates it, rather than going on with it, as in "1.5 litres" or "7:30"."""
    return match[2].isspace() or not name[match.end()].isdigit()


def _from_json(text: str, what: str) -> list[str]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} begins like JSON, but is none ({error}); {WANTED}") from None
    if not isinstance(content, list) or not all(isinstance(label, str) for label in content):
        kind = "an object" if isinstance(content, dict) else "a list of other things than texts"
        raise InputError(f'{what} is JSON, but {kind}; give a list of texts, ["cat", "dog"]')
    return content


def _cells(lines: Sequence[str], what: str) -> list[str]:
    """Split lines at commas; a comma at the end of a line ends its last label."""
    try:
        rows = list(csv.reader(lines, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InputError(
            f'{what} cannot be split at its commas ({error}); write a label with quotes as "a ""b"" c"'
        ) from None
    cells = [cell.strip() for row in rows for cell in (row[:-1] if len(row) > 1 and not row[-1].strip() else row)]
    return cells


def _check_no_table(lines: Sequence[str], what: str) -> None:
    columns = [column.strip().strip('"').casefold() for column in re.split(r"[,;\t]", lines[0])] if lines else []
    if len(lines) > 1 and len(columns) > 1 and set(columns) <= _COLUMNS:
        raise InputError(f"{what} is a table with the columns {', '.join(columns)}; {WANTED}")


def _check_brackets(labels: Sequence[str], what: str) -> None:
    """Refuse lists in the notation of a program or a configuration."""
    for label in labels:
        pairs = ("[]", "{}", "()") if label is labels[0] and label.startswith("(") else ("[]", "{}")
        if any(label.count(pair[0]) != label.count(pair[1]) for pair in pairs):
            raise InputError(
                f"{what} has the label {label!r} with half a bracket, as in a list of another notation; {WANTED}"
            )


def _without_marks(labels: list[str]) -> list[str]:
    """Remove bullets or numbers of a list in which every label has one."""
    items = labels[1:] if len(labels) > 1 and labels[0].endswith(":") else labels
    if items and all(_BULLET.match(label) for label in items):
        return [_BULLET.sub("", label, count=1) for label in items]
    bare = items
    for _ in range(2):  # CUB's list has both: "1 001.Black_footed_Albatross".
        if not all(_NUMBER.match(label) for label in bare):
            break
        bare = without_numbers(bare)
    if bare == items:
        return labels
    return [label if " " in label else label.replace("_", " ") for label in bare]


def _warn_of_accents(labels: Sequence[str]) -> None:
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(_without_accents(label_key(label)), []).append(label)
    if pairs := [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]:
        warnings.warn(f"labels {'; '.join(pairs[:3])} differ in accents alone, which some encoders do not see", stacklevel=3)


def _without_accents(key: str) -> str:
    """Drop accents on Latin letters; in other scripts such marks are letters."""
    return re.sub(r"(?<=[a-z])[\u0300-\u036f]+", "", unicodedata.normalize("NFD", key))
