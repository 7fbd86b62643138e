"""A pytest fixture for end-to-end tests of an agent: the world that was learned from its traffic.

    from understudy.testing import world            # in conftest.py

    def test_it_reserves_what_is_asked_for(world):
        my_agent("two pumps, please", call=world.call)
        assert [c.name for c in world.calls] == ["find_parts", "reserve"]

The world's folder (`understudy world learn` wrote it) is the first that is named: by an indirect
parameter, the marker `world`, the environment variable UNDERSTUDY_WORLD, the ini option
`understudy_world`; relative ones are below pytest's root. The marker and the ini option need
`pytest_plugins = ["understudy.testing"]` in the top conftest.py in place of the import. Each test
is a life of its own; its seed is a hash of the test's node id.

A model for what the world leaves open is a run of `understudy train world`, named in the same ways:
by the marker's `language`, UNDERSTUDY_LANGUAGE, the ini option `understudy_language`. It is opened
once, before the first test that it is for, and closed at the end.
"""

import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from os import environ
from pathlib import Path
from typing import Any

import pytest

from understudy.testing.life import DOUBT, User, WorldFixture
from understudy.testing.session import Call, Change, Snapshot
from understudy.world.language.filler import Answering
from understudy.world.model import World

__all__ = ["Call", "Change", "DoubtWarning", "Snapshot", "User", "WorldFixture", "world"]

VARIABLE, OPTION, REPORTS = "UNDERSTUDY_WORLD", "understudy_world", "understudy-world-reports"
LANGUAGE_VARIABLE, LANGUAGE_OPTION = "UNDERSTUDY_LANGUAGE", "understudy_language"
MARKER = (
    "world(folder=None, seed=None, doubt=0.5, language=None): the learned world that the test's"
    " agent meets, the seed of its life, the doubt of an answer above which the test warns, and the"
    " run whose model fills what the world leaves open ('': none)"
)
_LOADED = pytest.StashKey[dict[Path, World]]()
_OPENED = pytest.StashKey[dict[Path, Callable[[World], Answering]]]()
_PLAYED = pytest.StashKey[dict[tuple[Path, Path | None], Answering]]()


class DoubtWarning(UserWarning):
    """A test rests on answers that the traffic hardly supports."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(OPTION, "folder of the learned world that the fixture `world` is made of")
    parser.addini(LANGUAGE_OPTION, "run whose model fills what that world leaves open")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[WorldFixture]:
    """A life of the learned world for this test. An indirect parameter is a folder or a seed.

    A test that ends with answers of more than 0.5 doubt warns with DoubtWarning: pytest's own
    `-W error::understudy.testing.DoubtWarning` makes that a failure, its mark `filterwarnings`
    silences it. A failed test shows the calls.
    """
    asked = request.node.get_closest_marker("world")
    options = _options(**asked.kwargs) if asked else {}
    given = getattr(request, "param", None)
    seed = given if isinstance(given, int) else options.get("seed")
    folder = given if isinstance(given, (str, Path)) else None
    if given is not None and seed is None and folder is None:
        pytest.fail(f"a parameter of `world` is a folder or a seed, not {given!r}", pytrace=False)
    folder = folder or (asked.args[0] if asked and asked.args else options.get("folder"))
    path = request.config.rootpath / (folder or _named(request.config))
    run = options.get("language")
    run = _known(request.config, LANGUAGE_VARIABLE, LANGUAGE_OPTION) if run is None else str(run)
    plugins = request.config.pluginmanager
    if not plugins.has_plugin(REPORTS):
        plugins.register(_Reports(), REPORTS)
    life = WorldFixture(
        _played(request.config, path, request.config.rootpath / run if run else None),
        zlib.crc32(request.node.nodeid.encode()) if seed is None else seed,
        path,
    )
    yield life
    life.close()
    doubtful = life.doubtful(options.get("doubt", DOUBT))
    if doubtful:
        shown = "\n".join(f"  {call}" for call in doubtful)
        warnings.warn(f"the traffic hardly supports\n{shown}", DoubtWarning, stacklevel=1)


def _options(
    folder: str | Path | None = None,
    seed: int | None = None,
    doubt: float = DOUBT,
    language: str | Path | None = None,
) -> dict[str, Any]:
    """What the marker says."""
    return {"folder": folder, "seed": seed, "doubt": doubt, "language": language}


def _named(config: pytest.Config) -> str:
    """The world that environment or configuration name."""
    known = _known(config, VARIABLE, OPTION)
    if not known:
        pytest.fail(
            f"no world: set {VARIABLE} to a folder that `understudy world learn` wrote"
            f" (or the ini option {OPTION}, with pytest_plugins = ['understudy.testing'])",
            pytrace=False,
        )
    return known


def _known(config: pytest.Config, variable: str, option: str) -> str:
    """The folder in an environment variable or an ini option; none where there is none."""
    try:
        return environ.get(variable) or str(config.getini(option) or "")
    except ValueError:  # not loaded as a plugin
        return ""


def _played(config: pytest.Config, path: Path, run: Path | None) -> Answering:
    """A world as it is played, with the model of a run in its gaps where one is named."""
    played = config.stash.setdefault(_PLAYED, {})
    if (path, run) not in played:
        world = _loaded(config, path)
        played[path, run] = world if run is None else _opened(config, run)(world)
    return played[path, run]


def _opened(config: pytest.Config, run: Path) -> Callable[[World], Answering]:
    """The model of a run, opened once for all tests and worlds, until they are done."""
    from understudy.recipes.world_language import filling_here, language_of

    opened = config.stash.setdefault(_OPENED, {})
    if run not in opened:
        stack = ExitStack()
        try:
            opened[run] = stack.enter_context(filling_here(language_of(run)))
        except (FileNotFoundError, ValueError) as wrong:
            pytest.fail(str(wrong), pytrace=False)
        config.add_cleanup(stack.close)
    return opened[run]


def _loaded(config: pytest.Config, path: Path) -> World:
    """A world, read once for all tests: sessions hold all that changes."""
    loaded = config.stash.setdefault(_LOADED, {})
    if path not in loaded:
        try:
            loaded[path] = World.load(path)
        except (FileNotFoundError, ValueError) as wrong:
            pytest.fail(str(wrong), pytrace=False)
    return loaded[path]


class _Reports:
    """Shows a failed test's calls."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Any:
        report = yield
        life = getattr(item, "funcargs", {}).get("world")
        if report.when == "call" and report.failed and isinstance(life, WorldFixture):
            calls = [f"{n} {call}" for n, call in enumerate(life.calls, 1)]
            said = "\n".join([f"seed {life.seed} of {life.folder}", *calls])
            report.sections.append(("calls of the world", said))
        return report
