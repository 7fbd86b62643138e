"""Tell what each tool does from the traffic that a world was learned from."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.data import JsonOption


def describe(
    world: Annotated[Path, typer.Argument(help="A folder that `world learn` wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the tools as an OpenAI `tools` array.")
    ] = None,
    least: Annotated[int, typer.Option(min=2, help="Calls that a statement needs.")] = 5,
    sure: Annotated[
        float, typer.Option(min=0.5, max=1, help="The share of them that must agree.")
    ] = 0.95,
    as_json: JsonOption = False,
) -> None:
    """Tell what each tool takes, gives and changes, what comes before it and how it fails.

    Each statement with the calls that agree, of those that could show it. With --out the
    statements become descriptions that can be handed to an agent; what was declared stays. The
    file is what a request's `tools` are; `train sft`, `rft` and `grpo`, `eval` and `world serve`
    take it as --tools, so that an agent is trained, tried and served with the same ones.

    Example: understudy world describe build/world --out tools.json
    """
    from understudy.runs.progress import Progress
    from understudy.world.describe import describe as told
    from understudy.world.describe import described_tools, withheld
    from understudy.world.facts import Bar
    from understudy.world.model import World

    learned, bar = World.load(world), Bar(least, sure)
    with Progress("describe", total=len(learned.models), unit="tools") as progress:
        found = told(learned, bar, progress)
    if out is not None:
        tools = described_tools(learned, found, bar)
        out.write_text(json.dumps(tools, indent=2, ensure_ascii=False) + "\n")
    if as_json:
        print(json.dumps({tool: [asdict(f) for f in own] for tool, own in found.items()}))
        return
    for tool, own in found.items():
        print(f"{tool}  ({learned.models[tool].calls} calls)")
        for f in own:
            about = f"{f.about}: " if f.kind == "takes" else ""
            print(f"  {f.kind:7} {about}{f.text}  [{f.agree} of {f.calls}]")
        if how := learned.models[tool].retrieval:
            print(f"  world   answers as the nearest remembered call was: {how.told()}")
        if not own:
            print(f"  nothing that {least} calls show")
    if out is not None:
        print(f"{len(found)} tools in {out}")
        if left := withheld(learned, found, bar):
            print(f"  left out: {left} statements, which quote sentences of the traffic")
