import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "gateway"))

from stub_upstream import StubUpstream

from understudy.gateway import GatewayConfig, Running, start


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    stub = StubUpstream()
    url = await stub.start()
    config = {
        "store": str(tmp_path / "s.db"),
        "upstreams": {"stub": {"base_url": url}},
        "models": {"m": "stub"},
        "port": 0,
    }
    gateway = await start(GatewayConfig.model_validate(config))
    yield gateway
    await gateway.aclose()
    await stub.stop()
