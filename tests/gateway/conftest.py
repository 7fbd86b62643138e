import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stub_upstream import StubUpstream

from understudy.gateway import GatewayConfig, Running, start

Make = Callable[..., Any]


@pytest.fixture
async def stub() -> AsyncIterator[StubUpstream]:
    upstream = StubUpstream()
    upstream.url = await upstream.start()  # type: ignore[attr-defined]
    yield upstream
    await upstream.stop()


@pytest.fixture
async def engine() -> AsyncIterator[StubUpstream]:
    upstream = StubUpstream(engine=True)
    upstream.url = await upstream.start()  # type: ignore[attr-defined]
    yield upstream
    await upstream.stop()


@pytest.fixture
async def gateway(stub: Any, engine: Any, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts gateways over both stand-ins; they are stopped at the end."""
    running: list[Running] = []

    async def make(**fields: Any) -> Running:
        config = {
            "store": str(tmp_path / "s.db"),
            "upstreams": {
                "stub": {"base_url": stub.url, "timeout_s": 0.5},
                "engine": {"base_url": engine.url, "kind": "engine"},
                "down": {"base_url": "http://127.0.0.1:9/v1"},
            },
            "models": {"m": "stub", "tiny": "engine", "gone": "down"},
            "port": 0,
            "poll_s": 0.01,
            "drain_s": 1.0,
            **fields,
        }
        running.append(await start(GatewayConfig.model_validate(config)))
        return running[-1]

    yield make
    for one in running:
        await one.aclose()


class Process:
    """A gateway process and a stand-in upstream process."""

    def __init__(self, folder: Path, capture: str) -> None:
        here = Path(__file__).parent
        self.store = str(folder / "s.db")
        self.config = folder / "gateway.json"
        self.upstream = self._run(str(here / "stub_upstream.py"))
        url = self._ready(self.upstream)["url"]
        config = {
            "store": self.store,
            "capture": capture,
            "upstreams": {"stub": {"base_url": url}},
            "models": {"m": "stub", "e": "stub"},
        }
        self.config.write_text(json.dumps(config))
        self.process = self._run("-m", "understudy.gateway", "--config", str(self.config),
                                 "--port", "0")  # fmt: skip
        self.url = self._ready(self.process)["url"]

    @staticmethod
    def _run(*args: str) -> "subprocess.Popen[str]":
        return subprocess.Popen([sys.executable, *args], stdout=subprocess.PIPE, text=True)

    @staticmethod
    def _ready(process: "subprocess.Popen[str]") -> Any:
        assert process.stdout is not None
        return json.loads(process.stdout.readline())

    def stop(self) -> None:
        for process in (self.process, self.upstream):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture(params=["durable"])
def gateway_process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    started = Process(tmp_path, request.param)
    yield started
    started.stop()
