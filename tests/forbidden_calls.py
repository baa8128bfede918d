"""Finds calls that run what they are given, or undo a protection. It is for accidents: malice would find another way."""

import ast
import re

MODULES = ("pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "pty")
"""Never to be imported."""
BUILTINS = ("eval", "exec", "compile", "__import__")
NAMES = re.compile(
    r"eval|exec|compile|__import__|os\.(system|popen|startfile|exec\w+|(posix_)?spawn\w*)|tempfile\.mktemp"
    r"|subprocess\.get(status)?output|asyncio\.create_subprocess_shell|shutil\.unpack_archive|markupsafe\.Markup"
    r"|jinja2\.Template|torch\.(hub|jit)\.load|torch\.serialization\.\w+|ssl\._create_unverified_context"
    r"|pandas\.read_pickle|yaml\.(?!(safe_load|safe_dump|parse|YAMLError|AliasEvent|SafeLoader)$)\w+"
)
"""Never to be named."""
NEEDED = {
    "torch.load": {"weights_only": True},
    "jinja2.Environment": {"autoescape": True},
    "extractall": {"filter": "data"},
}
"""Only to be called, and with these arguments; the last is a method of any object."""
GIVEN = {"shell": False, "allow_pickle": False, "trust_remote_code": False, "verify": True, "weights_only": True}
"""What an argument of this name must be, whoever it is given to."""


def forbidden_calls(source):
    """List (line, what) of all that a module's source must not hold."""
    tree = ast.parse(source)
    found, known = set(), {}
    for node in ast.walk(tree):
        for name in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            whole = name.name if isinstance(node, ast.Import) else f"{'.' * node.level}{node.module or ''}.{name.name}"
            root = whole.split(".")[0]
            # `import a.b` binds a; all others bind what they name.
            plain = isinstance(node, ast.Import) and not name.asname
            known[root if plain else name.asname or name.name] = root if plain else whole
            if root in MODULES:
                found.add((node.lineno, root))
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            found |= {(node.lineno, what) for what in _wrong_name(_name(node, known), called.get(id(node)))}
        elif isinstance(node, ast.Call):
            given = _given(node)
            found |= {(node.lineno, word) for word in given if word in GIVEN and given[word] is not GIVEN[word]}
    return sorted(found)


def _wrong_name(name, call):
    if NAMES.fullmatch(name):
        yield name
    rule = name if name in NEEDED else name.rpartition(".")[2]
    for word, value in NEEDED.get(rule, {}).items():
        if call is None or _given(call).get(word) != value:
            yield f"{name} without {word}={value}"


def _given(call):
    return {word.arg: getattr(word.value, "value", word.value) for word in call.keywords}


def _name(node, known):
    """Write a name or attribute with the module that it comes from; what is no module's begins with a question mark."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id if node.id in BUILTINS else "?")
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value, known)}.{node.attr}".removeprefix("builtins.")
    return "?"
