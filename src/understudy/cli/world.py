"""Learn a world from captured episodes, look at how faithful it is, serve it, try it by hand."""

import asyncio
import json
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.data import DEFAULT_STORE, StoreOption, captured
from understudy.cli.places import ready_file, ready_folder
from understudy.cli.tools_file import ToolsOption, world_shown
from understudy.cli.world_ahead import ahead
from understudy.cli.world_compare import compare
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
from understudy.cli.world_serving import address_of, key_of, until_told
from understudy.cli.world_users import users
from understudy.core.types import HELDOUT_SHARE

app = typer.Typer(help="A world learned from traffic.", no_args_is_help=True, rich_markup_mode=None)


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
    """Learn a world from a store's episodes, and measure it.

    It is measured on the share kept aside; the world that is written has learned from all.

    With --second, the traffic is split by scenario and each half gives a world: the second one
    looks over what is played in the first (`train grpo --second`).

    Example: understudy world learn build/world --store understudy.db --workload support
    """
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.world import learn_world

    ready_folder(out)
    ready_folder(second)
    if isolated:
        only_the_store([store])
    found = captured(store, workload)
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
    bound: Annotated[
        bool, typer.Option("--bound", help="Instead: the truth of all that a world could know.")
    ] = False,
    hindsight: Annotated[
        bool, typer.Option("--hindsight", help="With --bound: of the rest the best known answer.")
    ] = False,
    run: RunOption = None,
    language_url: UrlOption = None,
    language_model: ModelOption = None,
    language_key_env: KeyOption = None,
) -> None:
    """Learn from recorded episodes, and predict those held out.

    FOLDER has replays.jsonl.gz, an episode a line: {"episode": "e1", "split": "train" or "test",
    "messages": [...]}, chat messages whose tool messages may say "is_error". The train split is
    learned from, and each call of the test split is predicted.

    A prediction a line: episode, step, content, is_error, doubt, provenance. What is printed is
    a line of JSON: how many calls, the seconds of learning, the milliseconds of a prediction, the
    memory, the calibration of error flag and doubt, and of free-running rollouts of five calls the
    survival and the F1 of what they changed, those of the retrieval floor beside them.

    With --rename the world sees none of the real names; the predictions have them back. With
    --bound the predictions are those of a world that knows all that could be known: score them to
    see how far figures can go. With --hindsight too, calls that it could not know have the answer
    of the train split that is nearest to the truth, which no world can choose. Printed then: the
    calls that could not be known, by tool and reason (see understudy.world.fidelity.bound).

    A model for what the world leaves open is first taught (--language, a run that is begun or gone
    on with) or tried (--language-url) on the train split alone; what became of its values is told.

    Example: understudy world bench recordings --predictions build/predictions.jsonl
    """
    from understudy.world.fidelity.bench import bench as measure
    from understudy.world.fidelity.bound import bound as run_bound

    if hindsight and not bound:
        raise ValueError("--hindsight is for --bound")
    if bound and not (rename is None and run is None and language_url is None):
        raise ValueError("--bound takes neither --rename nor --language: leave them out")
    if not (folder / "replays.jsonl.gz").exists():
        raise ValueError(f"{folder} has no replays.jsonl.gz")
    ready_file(predictions)
    if bound:
        print(json.dumps(run_bound(folder, predictions, hindsight)))
        return
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
    """Call a world's tools by hand, and see why it answers so.

    After each call: where every value comes from, how sure the world is, what the call changed.
    Arguments are name=value ... or one JSON object: get_order id=17

    Example: understudy world try build/world
    """
    from understudy.cli.world_try import HELP, play
    from understudy.recipes.world_language import filling_here
    from understudy.world.model import World

    model = language(run, language_url, language_model, language_key_env)
    learned = World.load(world)
    if sys.stdin.isatty():
        print(HELP)
    with filling_here(model) as filled:
        play(filled(learned), _lines(), seed=seed)


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
    tools: ToolsOption = None,
    latency: Annotated[
        str, typer.Option(help="When answers come: real, none, or a factor of the real latency.")
    ] = "none",
    allow_remote: Annotated[
        bool, typer.Option(help="Let others who can reach the host use the world, with a key.")
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
    """Serve a world's tools over MCP, on stdin and stdout or HTTP.

    Each client session is a life of its own. Over HTTP, a URL that ends in ?seed=N asks for that
    life; what is printed is the URL. With --key-env, clients send the key as a bearer token in the
    Authorization header; a host that is not this machine's own needs one.

    Example: understudy world serve build/world --http 127.0.0.1:8402
    """
    address, factor, key = address_of(http), _factor(latency), key_of(key_env, http)
    model = language(run, language_url, language_model, language_key_env)
    learned = world_shown(world, tools)
    if address is None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a read of stdin cannot be interrupted
    asyncio.run(_serve(learned, address, seed, allow_remote, key, factor, model))


async def _serve(
    world: Any,
    address: tuple[str, int] | None,
    seed: int,
    allow_remote: bool,
    key: str | None,
    latency: float,
    model: Any,
) -> None:
    """Serve until the client or a signal ends it; with a model for the world's gaps where there
    is one."""
    from understudy.recipes.world_language import filling
    from understudy.world.serving.mcp_server import serve_http, serve_stdio

    async with filling(model) as filled:
        begin = filled(world).session
        if address is None:
            await serve_stdio(world, seed, latency, begin)
            return
        served = serve_http(
            world,
            *address,
            seed,
            allow_remote=allow_remote,
            key=key,
            latency=latency,
            begin=begin,
        )
        await until_told(served)


def _factor(text: str) -> float:
    """What latencies are multiplied by."""
    named = {"real": 1.0, "none": 0.0}
    try:
        factor = named[text] if text in named else float(text)
    except ValueError:
        factor = -1.0
    if not 0 <= factor < math.inf:
        raise ValueError(f"--latency {text!r} is neither real, none nor a factor")
    return factor


for command in (describe, ahead, paths, users, compare, export):
    app.command()(command)
