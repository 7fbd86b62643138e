"""The walls between the rooms, read from the source: who imports whom, and what stays out."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "understudy"
ROOMS = {
    "core", "runs", "store", "gateway", "models", "engine",
    "envs", "world", "judges", "train", "recipes", "sdk", "demo", "cli", "testing",
}  # fmt: skip
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "runs": {"core"},
    "store": {"core"},
    "gateway": {"core", "store"},
    "models": {"core"},
    "engine": {"core", "models"},
    "envs": {"core"},
    "world": {"core", "runs"},
    "judges": {"core", "runs"},
    "train": {"core", "runs", "models"},
    "recipes": ROOMS - {"gateway", "demo", "cli", "testing"},
    "sdk": {"core"},
    "testing": {"core", "envs", "recipes", "world"},
    "demo": ROOMS - {"testing"},
    "cli": ROOMS - {"testing"},
    "__init__": {"core", "sdk"},
    "__main__": {"cli"},
}
WORLD_BELOW: dict[str, set[str]] = {  # rooms within world that its model rests on
    "data": set(),
    "traffic": {"data"},
    "known": {"data", "traffic"},
    "lists": {"data", "traffic", "known"},
    "outcomes": {"data", "traffic", "known"},
    "results": {"data", "traffic", "known", "lists", "outcomes"},
    "users": {"data", "traffic"},
}
WITHOUT_TORCH = ("core", "store", "gateway", "judges", "sdk")
HEAVY = {"torch", "transformers", "peft", "safetensors", "tokenizers", "vllm", "ray"}
LIBRARY = ROOMS - {"cli", "demo"}
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
DOMAIN_FREE = ("world", "envs", "train", "judges")
DOMAIN_WORDS = re.compile(
    r"(?<![a-z])(?:(?<!in )(?<!in-)(?<!in_)flights?|hotels?|bookings?|airlines?|airports?|guests?"
    r"|passengers?|reservations?|itinerar(?:y|ies)|travel(?:l?ers?)?|baggage|apartments?)(?![a-z])",
    re.IGNORECASE,
)
DOMAIN_NAMES = {"nights", "city", "cities"}
VERBS_TOO = {"stay", "stays"}  # no domain alone, but in names of several words (`stay_id`)
LINES_LIMIT = 400


def sources(*rooms: str) -> list[Path]:
    """The Python files of the rooms given, all rooms where none is."""
    return [p for p in sorted(PACKAGE.rglob("*.py")) if not rooms or room_of(p) in rooms]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text())))


def imports(path: Path, source: str | None = None) -> Iterator[tuple[int, str]]:
    """(line, module) of each import in a file, wherever in it, relative ones resolved."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in nodes(path) if source is None else ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield node.lineno, base
            # `from understudy import world` and `from understudy.core import types`
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and _imports_by_name(node):
            yield node.lineno, str(getattr(node.args[0], "value", ""))


def _imports_by_name(node: ast.Call) -> bool:
    return ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")


def wall_breaks(path: Path, source: str | None = None) -> list[str]:
    room = room_of(path)
    found = []
    for line, name in imports(path, source):
        parts = name.split(".")
        if parts[0] != "understudy" or len(parts) < 2 or parts[1] not in ROOMS:
            continue
        if parts[1] != room and parts[1] not in ALLOWED[room]:
            found.append(f"{path.relative_to(ROOT)}:{line} {room} imports {parts[1]}")
    return sorted(set(found))


def test_the_layout_is_the_designs() -> None:
    present = {room_of(p) for p in sources()}
    assert present <= set(ALLOWED), f"unknown rooms: {present - set(ALLOWED)}"


def test_rooms_import_only_what_the_design_allows() -> None:
    assert [b for path in sources() for b in wall_breaks(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        "from understudy.demo import service",
        "from understudy import demo",
        "def f():\n    from ..demo.service import Service",
        "import understudy.demo.service as s",
        "import importlib\nimportlib.import_module('understudy.demo')",
    ],
)
def test_a_broken_wall_is_seen(line: str) -> None:
    assert wall_breaks(PACKAGE / "world" / "example.py", line)


def inner_breaks(path: Path, source: str | None = None) -> list[str]:
    """What a file of a room within world imports of world but its own room and those below it."""
    room = path.relative_to(PACKAGE / "world").parts[0]
    found = []
    for line, name in imports(path, source):
        parts = name.split(".")
        inner = parts[2] if len(parts) > 2 else ""
        if parts[:2] == ["understudy", "world"] and inner not in WORLD_BELOW[room] | {room, ""}:
            found.append(f"{path.relative_to(ROOT)}:{line} {room} imports {inner}")
    return sorted(set(found))


def test_what_the_worlds_model_rests_on_imports_only_what_lies_below() -> None:
    rooms = [PACKAGE / "world" / room for room in WORLD_BELOW]
    files = [p for room in rooms for p in sorted(room.rglob("*.py"))]
    assert all(room.is_dir() for room in rooms)
    assert [b for path in files for b in inner_breaks(path)] == []
    values = PACKAGE / "world" / "data" / "values.py"
    assert inner_breaks(values, "from understudy.world.known.state import State")
    assert inner_breaks(values, "from understudy.world.model import World")


def test_light_rooms_name_no_heavy_library() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(*WITHOUT_TORCH, "runs")
        for line, name in imports(path)
        if name.split(".")[0] in HEAVY
    ]
    assert found == []


def test_importing_light_rooms_never_imports_torch() -> None:
    modules = [module_of(p) for p in sources(*WITHOUT_TORCH) if p.name != "__main__.py"]
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_are_short_enough_to_read() -> None:
    files = [p for folder in ("src", "tests", "scripts") for p in (ROOT / folder).rglob("*.py")]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in files}
    assert {p: n for p, n in lengths.items() if n > LINES_LIMIT} == {}


def test_library_rooms_do_not_print() -> None:
    """A `__main__.py` is a command line, and says there that it is ready."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(*LIBRARY)
        if path.name != "__main__.py"
        for node in nodes(path)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("print", "breakpoint")
    ]
    assert found == []


def test_nothing_is_pickled() -> None:
    assert [found for path in sources() for found in pickles(path)] == []


def pickles(path: Path) -> Iterator[str]:
    where = path.relative_to(ROOT)
    for line, name in imports(path):
        if name.split(".")[0] in PICKLES:
            yield f"{where}:{line} imports {name}"
    for node in nodes(path):
        if not isinstance(node, ast.Call):
            continue
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if options.get("allow_pickle") == "True":
            yield f"{where}:{node.lineno} allows pickle"
        if ast.unparse(node.func) == "torch.load" and options.get("weights_only") != "True":
            yield f"{where}:{node.lineno} torch.load without weights_only=True"


def domain_words(path: Path) -> Iterator[str]:
    where = path.relative_to(ROOT)
    text = path.read_text()
    for number, line in enumerate(text.splitlines(), 1):
        yield from (f"{where}:{number} {word}" for word in DOMAIN_WORDS.findall(line))
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
        else:
            name = getattr(node, "id", None) or getattr(node, "arg", None) or ""
            name = name or getattr(node, "name", None) or getattr(node, "attr", None) or ""
        parts = set(str(name).lower().split("_"))
        if parts & DOMAIN_NAMES or (len(parts) > 1 and parts & VERBS_TOO):
            yield f"{where}:{getattr(node, 'lineno', 0)} {name}"


def test_general_rooms_name_no_domain() -> None:
    assert [found for path in sources(*DOMAIN_FREE) for found in domain_words(path)] == []


def test_what_is_in_flight_is_no_domain() -> None:
    assert DOMAIN_WORDS.findall("calls in flight, a Flight, hotel_id") == ["Flight", "hotel"]
