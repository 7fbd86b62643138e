"""MCP servers for the tests: processes, each told to end when its test is over."""

from collections.abc import AsyncIterator, Iterator

import pytest
from mcp_processes import Lifeline, listening, serving


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """A server over HTTP."""
    with serving() as found:
        yield found


@pytest.fixture
async def lifeline() -> AsyncIterator[Lifeline]:
    async with listening() as line:
        yield line
