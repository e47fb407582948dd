"""Experiments by name: the package's own (a folder or a file each), those of installed packages, files where we are.

The index is read from source text, without importing anything, so that `mechlist list` is instant.
"""

import ast
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mechlist.errors import InputError, MechlistError, told
from mechlist.options import RESERVED

if TYPE_CHECKING:
    import mechlist.experiment  # torch and xarray are imported when a run starts, not for the index

ENTRY_POINTS = "mechlist.experiments"
PACKAGE = Path(__file__).parent / "experiments"

T = TypeVar("T", bound=type)

_registered: dict[str, "type[mechlist.experiment.Experiment]"] = {}


@dataclass(frozen=True)
class Entry:
    """An experiment that can be run: its name, first line, where it is from, and how to import it."""

    name: str
    summary: str
    origin: str
    file: str
    """What a person opens to rename it."""
    load: Callable[[], object]
    needs: tuple[str, ...] = ()
    """What it takes besides a model, as far as its source says."""


def register(name: str) -> Callable[[T], T]:
    """Class decorator that gives an experiment its name on the command line.

    Raises:
        InputError: a name that is malformed or taken; a class that is no frozen dataclass or no Experiment; a field
            with the name of a run-level flag.
    """

    def add(cls: T) -> T:
        from mechlist.experiment import Experiment

        where = f"{cls.__module__}.{cls.__qualname__}"
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
            raise InputError(f"{where}: an experiment's name is lower-case words joined by hyphens, not {name!r}.")
        if not issubclass(cls, Experiment):
            raise InputError(f"{where} must be a subclass of mechlist.Experiment.")
        parameters = getattr(cls, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen or "__dataclass_params__" not in vars(cls):
            raise InputError(f"{where} must be a frozen dataclass: put @dataclass(frozen=True, kw_only=True) below.")
        taken = sorted(RESERVED & vars(cls)["__dataclass_fields__"].keys())
        if taken:
            raise InputError(f"{where} has the field {taken[0]!r}, which is the name of a run-level flag; rename it.")
        other = _registered.get(name)
        if other is not None and _source(other) != _source(cls):
            raise InputError(f"Two experiments are called {name!r}: {_source(other)} and {_source(cls)}; rename one.")
        _registered[name] = cls
        return cls

    return add


def index() -> list[Entry]:
    """Every experiment at hand, by name; nothing is imported."""
    entries = [*_package(), *_installed(), *_local()]
    return sorted(entries, key=lambda e: e.name)


def find(name: str) -> "type[mechlist.experiment.Experiment]":
    """Import the experiment called `name`.

    Raises:
        InputError: no such experiment (with the nearest names), or two of that name.
    """
    entries = index()
    found = [e for e in entries if e.name == name.replace("_", "-")]
    if not found:
        for file, fault in unreadable():
            if f'"{name.replace("_", "-")}"' in file.read_text(encoding="utf-8", errors="replace").replace("'", '"'):
                raise InputError(f"{name} cannot be read: {fault}.")
        close = difflib.get_close_matches(name, [e.name for e in entries], n=2)
        hint = f" Did you mean {' or '.join(close)}?" if close else " `mechlist list` shows them all."
        raise InputError(f"There is no experiment {name!r}.{hint}")
    if len(found) > 1:
        raise InputError(f"Two experiments are called {name!r}: {found[0].file} and {found[1].file}; rename one.")
    try:
        found[0].load()
    except MechlistError:
        raise
    except Exception as error:
        raise InputError(f"{found[0].name} cannot be imported: {told(error)} (--debug shows the traceback).") from error
    if found[0].name not in _registered:
        raise InputError(f"{found[0].origin} does not register {name!r}: decorate the class with @register({name!r}).")
    return _registered[found[0].name]


def _package() -> Iterator[Entry]:
    for file in sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("*/experiment.py")]):
        module = ".".join(("mechlist", *file.relative_to(PACKAGE.parent).with_suffix("").parts))
        for name, summary, needs in _scan(file):
            yield Entry(name, summary, module, str(file), lambda m=module: importlib.import_module(m), needs)


def _installed() -> Iterator[Entry]:
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        package = point.dist.name if point.dist else "an installed package"
        origin = f"{package} ({point.value})"
        yield Entry(point.name, _summary(point), origin, origin, point.load)


def _local() -> Iterator[Entry]:
    for file in sorted(Path.cwd().glob("*.py")):
        for name, summary, needs in _scan(file):
            yield Entry(name, summary, f"./{file.name}", f"./{file.name}", lambda f=file: _import_file(f), needs)


def unreadable() -> list[tuple[Path, str]]:
    """Files where experiments are looked for that register some and are no Python, and where each stops being it."""
    found = []
    for file in sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("*/experiment.py"), *Path.cwd().glob("*.py")]):
        try:
            text = file.read_text(encoding="utf-8")
            if "@register(" in text:
                ast.parse(text, filename=str(file))
        except SyntaxError as error:
            found.append((file, told(error)))
        except (OSError, UnicodeDecodeError):
            continue
    return found


_NEEDS_OF_BASES = {
    "ListExperiment": ("tokenizer", "lists of a chat model"),
    "MadeListExperiment": ("tokenizer", "lists of a chat model"),
    "SampledListExperiment": ("tokenizer", "lists of a chat model"),
    "PairExperiment": ("tokenizer", "pairs"),
    "GridExperiment": ("tokenizer", "pairs"),
    "PromptExperiment": ("tokenizer",),
}
"""What experiments of the package's own bases take; built-in pairs and lists that are made stand in for one's own."""


def _needs(node: ast.ClassDef) -> tuple[str, ...]:
    """From the base of a class and what its body says of `needs_model` and `needs_tokenizer`."""
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    needs = [need for base in bases for need in _NEEDS_OF_BASES.get(base, ())]
    for line in node.body:
        match line:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=bool(value))):
                pass
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=bool(value))):
                pass
            case _:
                continue
        if name == "needs_model" and not value:
            needs = ["no model", *needs]
        if name == "needs_tokenizer":
            needs = [*(["tokenizer"] if value else []), *(need for need in needs if need != "tokenizer")]
    return tuple(needs)


def _scan(file: Path) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Names, first lines and needs of the registered classes in a source file."""
    try:
        text = file.read_text(encoding="utf-8")
        return _registered_in(text) if "@register(" in text else ()
    except (OSError, UnicodeDecodeError, SyntaxError):
        return ()


@functools.lru_cache(maxsize=1024)
def _registered_in(text: str) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """As `_scan`, of the source itself: a study looks for the experiment of every step."""
    return tuple(_classes(list(ast.walk(ast.parse(text)))))


def _classes(nodes: Sequence[ast.AST]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    imported = {name.name for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names}
    chat = ("chat model",) if "model_header" in imported else ()
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            for decorator in node.decorator_list:
                match decorator:
                    case ast.Call(func=ast.Name(id="register"), args=[ast.Constant(value=str(name))]):
                        yield name, (ast.get_docstring(node) or "").split("\n")[0], (*_needs(node), *chat)


def _summary(point: Any) -> str:
    """First line of an installed experiment, read from its source if that can be found without importing it.

    The entry point is one of importlib.metadata or of its backport, which takes its place once a package imports it.
    """
    file = point.module.replace(".", "/") + ".py"
    for path in point.dist.files or [] if point.dist else []:
        if path.as_posix() == file:
            lines = {name: summary for name, summary, _ in _scan(Path(str(path.locate())))}
            return lines.get(point.name, "")
    return ""


def _import_file(file: Path) -> None:
    name = f"mechlist_local_{file.stem}"
    if getattr(sys.modules.get(name), "__file__", None) == str(file):
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _source(cls: type) -> str:
    module = sys.modules.get(cls.__module__)
    return f"{getattr(module, '__file__', cls.__module__)}:{cls.__qualname__}"
