"""An agent looks ahead over MCP: what it is told is what the Python calls say."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult, TextContent
from served import ENV
from test_world_lookahead import HELD, LISTED, SKU, buying

from understudy.cli import main
from understudy.world.model import World
from understudy.world.serving.lookahead import foresee, look_ahead, read_plans

PAY = {"reservation": "R-31415", "method": "voucher"}
PLANS = {method: buying(method) for method in ("voucher", "invoice")}
PAID = """
def check(messages, ticket):
    return any(m["role"] == "tool" and '"paid"' in m["content"] for m in messages) and ticket["ok"]
"""


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "understudy.cli", "world", "ahead", str(folder), *options]


@pytest.fixture(scope="module")
def ahead_url(world_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The look-ahead of a world, served by a process of its own, with a check."""
    check = tmp_path_factory.mktemp("check") / "check.py"
    check.write_text(PAID)
    options = ["--serve", "--http", "127.0.0.1:0", "--n", "20", "--check", str(check)]
    with subprocess.Popen(
        command(world_folder, *options), stdout=subprocess.PIPE, text=True,
        env={**os.environ, **ENV},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield str(json.loads(process.stdout.readline())["url"])
        finally:
            process.kill()


async def ask(client: Client, question: str, **asked: Any) -> tuple[bool, str]:
    result = await client.call_tool(question, asked)
    assert isinstance(result, CallToolResult)
    (content,) = result.content
    assert isinstance(content, TextContent)
    return bool(result.is_error), content.text


async def test_over_http_a_call_is_foreseen_and_plans_are_compared(
    world: World, ahead_url: str
) -> None:
    async with Client(ahead_url) as client:
        tools = (await client.list_tools()).tools
        assert [t.name for t in tools] == ["foresee_call", "compare_plans"]
        for _ in range(2):  # each question stands alone: it changes nothing
            failed, text = await ask(
                client, "foresee_call", messages=HELD, name="settle", arguments=PAY
            )
            expected = asdict(foresee(world, HELD, "settle", PAY))
            assert (failed, json.loads(text)) == (False, json.loads(json.dumps(expected)))
            assert json.loads(json.loads(text)["result"]["content"])["status"] == "paid"
        for ok, well in ((True, True), (False, False)):
            failed, text = await ask(
                client,
                "compare_plans",
                messages=LISTED,
                plans=PLANS,
                metadata={"ticket": {"ok": ok}},
            )
            assert not failed
            shares = [p["success"]["mean"] for p in json.loads(text)["plans"]]
            assert (max(shares) > 0) == well


async def test_over_stdio_plans_end_well_where_no_call_fails(
    world: World, world_folder: Path
) -> None:
    program, *arguments = command(world_folder, "--serve", "--n", "20")
    server = StdioServerParameters(command=program, args=arguments, env=ENV)
    async with Client(server) as client:
        failed, text = await ask(client, "compare_plans", messages=LISTED, plans=PLANS)
    expected = look_ahead(world, LISTED, read_plans(PLANS), n=20).to_json()
    assert (failed, json.loads(text)) == (False, json.loads(json.dumps(expected)))


@pytest.mark.parametrize(
    ("question", "asked", "why"),
    [
        ("foresee_call", {"name": "part", "arguments": {}}, "give the conversation so far"),
        ("foresee_call", {"messages": [], "name": "part"}, "its arguments as an object"),
        ("foresee_call", {"messages": [{}], "name": "part", "arguments": {}}, "message 0 "),
        ("foresee_call", {"messages": [{"role": "assistant", "tool_calls": [{}]}],
                          "name": "part", "arguments": {}}, "message 0 "),
        ("foresee_call", {"messages": [], "name": "no", "arguments": {}}, "no tool no in this"),
        ("compare_plans", {"messages": []}, "plans are one JSON object"),
        ("compare_plans", {"messages": [], "plans": {"a": [{"name": "part", "arguments":
                           {"sku": "$1/x"}}]}}, "is of no earlier call"),
        ("compare_plans", {"messages": [], "plans": {"a": [{"name": "no"}]}}, "no tool no"),
        ("part", {"sku": SKU}, "no question part"),
    ],
)  # fmt: skip
async def test_a_question_without_sense_is_an_error_of_one_line(
    question: str, asked: dict[str, Any], why: str, ahead_url: str
) -> None:
    async with Client(ahead_url) as client:
        failed, text = await ask(client, question, **asked)
    assert failed
    assert text.startswith("Error: ")
    assert "\n" not in text
    assert why in text


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "give one of --call, --plans and --serve"),
        (["--serve", "--call", "part"], "give one of --call, --plans and --serve"),
        (["--call", "part", "--http", "127.0.0.1:0"], "--http is for --serve"),
        (["--serve", "--http", "0.0.0.0:0"], "is open to others"),
        (["--serve", "--http", "0.0.0.0:0", "--allow-remote"], "name the variable of the key"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_one_line(
    options: list[str], why: str, world_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["world", "ahead", str(world_folder), *options]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert why in err
