"""Look ahead in a world from where a running agent stands."""

import asyncio
import json
import signal
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.data import JsonOption
from understudy.cli.world_language import KeyOption, ModelOption, RunOption, UrlOption, language
from understudy.cli.world_serving import address_of, key_of, until_told
from understudy.core.openai_wire import message_problem

_WIDTH, _NAME = 100, 40  # columns of what is printed, and of a plan's name


def ahead(
    world: Annotated[Path, typer.Argument(help="A folder that `world learn` wrote.")],
    history: Annotated[
        Path | None,
        typer.Option(help="The conversation so far: JSON, OpenAI chat messages or a row of them."),
    ] = None,
    call: Annotated[
        str | None, typer.Option(help="What this call would return: TOOL name=value ... or JSON.")
    ] = None,
    plans: Annotated[
        Path | None,
        typer.Option(help='Which ends well: JSON, {"plan": [{"name", "arguments"}, ...], ...}.'),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="A Python file whose check(messages, ticket) says so.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="Rollouts of each plan.")] = 50,
    retries: Annotated[
        int, typer.Option(min=0, help="How often a failure that passes is tried again.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the first rollout.")] = 0,
    as_json: JsonOption = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Answer both questions over MCP, to a running agent.")
    ] = False,
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve over HTTP; else on stdin and stdout."),
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option(help="Let others who can reach the host ask, with a key.")
    ] = False,
    key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The variable that holds the key that clients bear."),
    ] = None,
    run: RunOption = None,
    language_url: UrlOption = None,
    language_model: ModelOption = None,
    language_key_env: KeyOption = None,
) -> None:
    """Ask what a call would return, or which plan ends well.

    A plan's argument "$1/parts/0/sku" is the value at /parts/0/sku in the result of its first
    call; "$$" stands for a dollar sign. Without --check a plan ends well where no call fails.

    With a model for what the world leaves open, results hold its values; they count as invented.

    With --serve an agent asks by itself, of tools beside those that it works with: foresee_call
    takes the conversation so far (OpenAI chat messages), a tool's name and its arguments;
    compare_plans the conversation and plans as in --plans. Nothing that is asked changes anything,
    and each question stands alone. What is printed with --http is the URL.

    Example: understudy world ahead build/world --history so-far.json --call 'get_order id=17'

    Example: understudy world ahead build/world --history so-far.json --plans plans.json --n 100

    Example: understudy world ahead build/world --serve --http 127.0.0.1:8403
    """
    from understudy.recipes.world_language import filling_here
    from understudy.world.model import World

    if [call is not None, plans is not None, serve].count(True) != 1:
        raise ValueError("give one of --call, --plans and --serve")
    if http is not None and not serve:
        raise ValueError("--http is for --serve")
    if (key_env is not None or allow_remote) and http is None:
        raise ValueError("--key-env and --allow-remote are for --serve --http")
    model = language(run, language_url, language_model, language_key_env)
    row, address, key = _row(history), address_of(http), key_of(key_env, http)
    with filling_here(model) as filled:
        played = filled(World.load(world))
        if call is not None:
            _foresee(played, row, call, as_json)
        elif plans is not None:
            _plans(played, row, plans, check, n, retries, seed, as_json)
        else:
            _serve(played, check, n, retries, seed, address, allow_remote, key)


def _serve(
    played: Any,
    check: Path | None,
    n: int,
    retries: int,
    seed: int,
    address: tuple[str, int] | None,
    allow_remote: bool,
    key: str | None,
) -> None:
    from understudy.judges.check import Check
    from understudy.world.serving.ahead_server import make_server, serve_stdio
    from understudy.world.serving.mcp_http import streamable_http

    judge = Check.from_file(check).judge_episode if check is not None else None
    server = make_server(played, judge, n=n, retries=retries, seed=seed)
    if address is None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a read of stdin cannot be interrupted
        asyncio.run(serve_stdio(server))
    else:
        served = streamable_http(server, *address, allow_remote=allow_remote, key=key)
        asyncio.run(until_told(served))


def _row(path: Path | None) -> dict[str, Any]:
    """Messages and metadata of a history file; raises ValueError that says what is wrong."""
    data = _json(path) if path is not None else []
    row = data if isinstance(data, dict) else {"messages": data}
    messages = row.get("messages")
    if not isinstance(messages, list):
        raise ValueError(f"{path} is neither a list of messages nor an object with `messages`")
    for i, message in enumerate(messages):
        problem = message_problem(message)
        if problem is not None:
            raise ValueError(f"{path}: message {i} {problem}")
    return row


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def _foresee(played: Any, row: Mapping[str, Any], call: str, as_json: bool) -> None:
    from understudy.cli.world_try import arguments_of, pretty, sources_text
    from understudy.world.serving.lookahead import foresee

    name, _, rest = call.strip().partition(" ")
    seen = foresee(played, row["messages"], name, arguments_of(rest.strip()))
    if as_json:
        print(json.dumps(asdict(seen)))
        return
    for outcome, chance in seen.chances.items():
        print(textwrap.fill(f"{100 * chance:5.1f}%  {outcome}", _WIDTH, subsequent_indent=" " * 10))
    print(("error " if seen.result.is_error else "") + pretty(seen.result.content))
    print(sources_text(seen.result.provenance))
    print(f"  doubt {seen.result.doubt:.2f}")
    for c in seen.changes:
        after = json.dumps(c.after, ensure_ascii=False)
        if c.before is None:
            print(f"makes {c.thing}: {c.field} {after}")
        else:
            before = json.dumps(c.before, ensure_ascii=False)
            print(f"changes {c.thing}: {c.field} {before} -> {after}")
    for thing in seen.unlisted:
        print(f"no longer listed: {thing}")


def _plans(
    played: Any,
    row: Mapping[str, Any],
    plans: Path,
    check: Path | None,
    n: int,
    retries: int,
    seed: int,
    as_json: bool,
) -> None:
    from understudy.judges.check import Check
    from understudy.runs.progress import Progress
    from understudy.world.serving.lookahead import look_ahead, read_plans

    read = read_plans(_json(plans))
    judge = Check.from_file(check).judge_episode if check is not None else None
    with Progress("ahead", total=n * len(read), unit="rollouts") as progress:
        found = look_ahead(
            played,
            row["messages"],
            read,
            judge,
            n=n,
            seed=seed,
            retries=retries,
            metadata=row.get("metadata"),
            progress=progress,
        )
    if as_json:
        print(json.dumps(found.to_json()))
        return
    width = min(_NAME, max(4, *(len(r.name) for r in found.plans)))
    print(f"{'plan':{width}}  ends well  95% interval  on invented  calls  doubt")
    for r in found.plans:
        s = r.success
        interval = f"{100 * s.low:.0f} to {100 * s.high:.0f}%"
        print(
            f"{_short(r.name, width):{width}}  {100 * s.mean:8.0f}%  {interval:>12}  "
            f"{100 * r.invented / s.n:10.0f}%  {r.calls:5.1f}  {r.doubt:5.2f}"
        )
        if r.failures:
            (number, tool, said), times = r.failures.most_common(1)[0]
            where = f"  fails at call {number}, {tool}, in {times} of {s.n} rollouts: "
            print(where + _short(" ".join(said.split()), max(20, _WIDTH - len(where))))
        for reason, count in r.unjudged.items():
            print(f"  {count} rollouts not judged: {reason}")
    print(found.verdict)
    for reason, count in found.left_out.items():
        print(f"left out of the history: {count} calls, {reason}")


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
