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
"""

import warnings
import zlib
from collections.abc import Iterator
from os import environ
from pathlib import Path
from typing import Any

import pytest

from understudy.testing.life import DOUBT, User, WorldFixture
from understudy.testing.session import Call, Change, Snapshot
from understudy.world.model import World

__all__ = ["Call", "Change", "DoubtWarning", "Snapshot", "User", "WorldFixture", "world"]

VARIABLE, OPTION, REPORTS = "UNDERSTUDY_WORLD", "understudy_world", "understudy-world-reports"
MARKER = (
    "world(folder=None, seed=None, doubt=0.5): the learned world that the test's agent meets, the"
    " seed of its life, and the doubt of an answer above which the test warns"
)
_LOADED = pytest.StashKey[dict[Path, World]]()


class DoubtWarning(UserWarning):
    """A test rests on answers that the traffic hardly supports."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(OPTION, "folder of the learned world that the fixture `world` is made of")


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
    plugins = request.config.pluginmanager
    if not plugins.has_plugin(REPORTS):
        plugins.register(_Reports(), REPORTS)
    life = WorldFixture(
        _loaded(request.config, path),
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
    folder: str | Path | None = None, seed: int | None = None, doubt: float = DOUBT
) -> dict[str, Any]:
    """What the marker says."""
    return {"folder": folder, "seed": seed, "doubt": doubt}


def _named(config: pytest.Config) -> str:
    """The folder that environment or configuration name."""
    known = environ.get(VARIABLE)
    if known:
        return known
    try:
        known = str(config.getini(OPTION) or "")
    except ValueError:  # not loaded as a plugin
        known = ""
    if not known:
        pytest.fail(
            f"no world: set {VARIABLE} to a folder that `understudy world learn` wrote"
            f" (or the ini option {OPTION}, with pytest_plugins = ['understudy.testing'])",
            pytrace=False,
        )
    return known


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
