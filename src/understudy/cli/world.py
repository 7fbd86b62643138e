"""Learn a world from captured episodes, look at how faithful it is, serve it, try it by hand."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.data import DEFAULT_STORE, StoreOption, open_store
from understudy.cli.world_ahead import ahead
from understudy.cli.world_describe import describe
from understudy.cli.world_export import export
from understudy.cli.world_language import (
    KeyOption,
    ModelOption,
    RunOption,
    UrlOption,
    for_bench,
    language,
)
from understudy.cli.world_paths import paths
from understudy.cli.world_report import report
from understudy.cli.world_users import users
from understudy.core.types import HELDOUT_SHARE

app = typer.Typer(help="A world learned from traffic.", no_args_is_help=True, rich_markup_mode=None)
for command in (describe, ahead, paths, users, export):
    app.command()(command)


@app.command()
def learn(
    out: Annotated[Path, typer.Argument(help="The folder that the world is written to.")],
    store: StoreOption = DEFAULT_STORE,
    workload: Annotated[str | None, typer.Option(help="Only this workload's episodes.")] = None,
    heldout: Annotated[
        float, typer.Option(min=0, max=0.9, help="The share kept aside to measure fidelity on.")
    ] = HELDOUT_SHARE,
    second: Annotated[
        Path | None,
        typer.Option(help="Also a second world, of half the scenarios; the first has the others."),
    ] = None,
    isolated: Annotated[
        bool, typer.Option(help="Refuse everything but the store, for the process's life.")
    ] = False,
) -> None:
    """Learn a world model from the store's episodes, and measure it on those kept aside.

    With --second, the traffic is split by scenario and each half gives a world: the second one
    looks over what is played in the first (`train grpo --second`).

    Example: understudy world learn build/world --store understudy.db --workload support
    """
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.world import learn_world

    if isolated:
        only_the_store([store])
    with open_store(store) as db:
        found = list(db.read_episodes(**({"workload": workload} if workload else {})))
    report = learn_world(found, out, heldout, second)
    print(report.table())
    print(f"world in {out}" + (f", a second one in {second}" if second else ""))


app.command()(report)


@app.command()
def bench(
    folder: Annotated[Path, typer.Argument(help="A folder that holds replays.jsonl.gz.")],
    predictions: Annotated[Path, typer.Option(help="The file that predictions are written to.")],
    rename: Annotated[
        int | None,
        typer.Option(help="Seed of random names for all tools, arguments and fields."),
    ] = None,
    run: RunOption = None,
    language_url: UrlOption = None,
    language_model: ModelOption = None,
    language_key_env: KeyOption = None,
) -> None:
    """Learn from the train split of recorded episodes, and predict each call of the test split.

    A prediction a line: episode, step, content, is_error, doubt, provenance. What is printed is
    a line of JSON: how many calls, the seconds of learning, the milliseconds of a prediction, and
    of free-running rollouts of five calls the survival and the F1 of what they changed, those of
    the retrieval floor beside them.

    With --rename the world sees none of the real names; the predictions have them back.

    A model for what the world leaves open is first taught (--language, a run that is begun or gone
    on with) or tried (--language-url) on the train split alone; what became of its values is told.

    Example: understudy world bench recordings --predictions build/predictions.jsonl
    """
    from understudy.world.bench import bench as measure

    if not (folder / "replays.jsonl.gz").exists():
        raise ValueError(f"{folder} has no replays.jsonl.gz")
    predictions.parent.mkdir(parents=True, exist_ok=True)
    filling = for_bench(run, language_url, language_model, language_key_env)
    print(json.dumps(measure(folder, predictions, rename=rename, language=filling)))


@app.command("try")
def try_(
    world: Annotated[Path, typer.Argument(help="A folder that `world learn` wrote.")],
    seed: Annotated[int, typer.Option(help="Of the first session.")] = 0,
    run: RunOption = None,
    language_url: UrlOption = None,
    language_model: ModelOption = None,
    language_key_env: KeyOption = None,
) -> None:
    """Call the world's tools by hand; see state, provenance and doubt after each call.

    Example: understudy world try build/world
    """
    from understudy.cli.world_try import HELP, play
    from understudy.world.model import World

    model = language(run, language_url, language_model, language_key_env)
    learned = World.load(world)
    if sys.stdin.isatty():
        print(HELP)
    if model is None:
        play(learned, _lines(), seed=seed)
        return
    with asyncio.Runner() as runner, _opened(runner, model.world(learned)) as owner:
        play(owner, _lines(), seed=seed, run=runner.run)


@contextlib.contextmanager
def _opened(runner: asyncio.Runner, manager: Any) -> Iterator[Any]:
    """An asynchronous context, entered and left on a runner's loop."""
    value = runner.run(manager.__aenter__())
    try:
        yield value
    finally:
        runner.run(manager.__aexit__(None, None, None))


def _lines() -> Iterator[str]:
    """Lines from a person, or from a file, until there are no more."""
    while True:
        try:
            yield input("world> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return


@app.command()
def serve(
    world: Annotated[Path, typer.Argument(help="A folder that `world learn` wrote.")],
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Over HTTP; port 0: any free one.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The first client's; the next one has the next.")] = 0,
    allow_remote: Annotated[
        bool, typer.Option(help="Let whoever can reach the host use the world.")
    ] = False,
    run: RunOption = None,
    language_url: UrlOption = None,
    language_model: ModelOption = None,
    language_key_env: KeyOption = None,
) -> None:
    """Serve a world's tools over MCP: on stdin and stdout, or over HTTP.

    Each client session is a life of its own. Over HTTP, a URL that ends in ?seed=N asks for that
    life; what is printed is the URL.

    Example: understudy world serve build/world --http 127.0.0.1:8402
    """
    from understudy.world.model import World

    address = None if http is None else _address(http)
    model = language(run, language_url, language_model, language_key_env)
    learned = World.load(world)
    if address is None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a read of stdin cannot be interrupted
    asyncio.run(_serve(learned, address, seed, allow_remote, model))


async def _serve(
    world: Any, address: tuple[str, int] | None, seed: int, allow_remote: bool, model: Any
) -> None:
    """Serve until the client or a signal ends it; with a model for the world's gaps where there
    is one."""
    from understudy.world.serve import serve_http, serve_stdio

    async with contextlib.AsyncExitStack() as stack:
        owner = await stack.enter_async_context(model.world(world)) if model else world
        if address is None:
            await serve_stdio(world, seed, owner.session)
            return
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        serving = serve_http(world, *address, seed, allow_remote=allow_remote, begin=owner.session)
        url = await stack.enter_async_context(serving)
        print(json.dumps({"url": url}), flush=True)
        await stop.wait()


def _address(text: str) -> tuple[str, int]:
    """HOST:PORT, an IPv6 host in brackets."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"--http {text!r} is not of the form HOST:PORT")
    return host, int(port)
