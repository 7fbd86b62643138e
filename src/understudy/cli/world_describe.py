"""Tell what each tool does from the traffic that a world was learned from."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.data import JsonOption
from understudy.cli.places import ready_file

if TYPE_CHECKING:
    from understudy.world.describing.facts import Fact

_WIDTH, _HARD = 100, "\xa0"  # columns; a space that no line breaks at
_KINDS = ("takes", "gives", "changes", "needs", "fails")


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
    """Tell what each tool takes, gives and changes, and how it fails.

    Each statement with the calls that agree, of those that could show it. With --out the
    statements become descriptions that can be handed to an agent; what was declared stays. The
    file is what a request's `tools` are; `train` (where it has --tools), `eval` and `world serve`
    take it as --tools, so that an agent is trained, tried and served with the same ones.

    Example: understudy world describe build/world --out tools.json
    """
    from understudy.runs.progress import Progress
    from understudy.world.describing.describe import describe as told
    from understudy.world.describing.describe import described_tools, withheld
    from understudy.world.describing.facts import Bar
    from understudy.world.describing.facts_of_time import facts_of_time
    from understudy.world.model import World

    ready_file(out)
    learned, bar = World.load(world), Bar(least, sure)
    with Progress("describe", total=len(learned.models), unit="tools") as progress:
        found = told(learned, bar, progress)
    if out is not None:
        tools = described_tools(learned, found, bar)
        out.write_text(json.dumps(tools, indent=2, ensure_ascii=False) + "\n")
    if as_json:
        print(json.dumps({tool: [asdict(f) for f in own] for tool, own in found.items()}))
        return
    for line in facts_of_time(learned):
        print(textwrap.fill(line, _WIDTH))
    print("Each statement with the calls that show it, of those that could.\n")
    for tool, own in found.items():
        print(f"{tool}  ({learned.models[tool].calls} calls)")
        print("\n".join(told_lines(own)) or f"  nothing that {least} calls show")
        if how := learned.models[tool].retrieval:
            print(f"  The world answers as its nearest remembered call was ({how.told()}).")
    if out is not None:
        print(f"{len(found)} tools in {out}")
        if left := withheld(learned, found, bar):
            print(f"  {left} statements are shorter there or left out: they quote sentences")


def told_lines(facts: Sequence["Fact"]) -> Iterator[str]:
    """Statements as lines of a terminal: those of an argument together, and those of a failure."""
    groups: dict[tuple[str, str], list[Fact]] = {}
    for f in facts:
        apart = f.about if f.kind in ("takes", "fails") else ""
        groups.setdefault((f.kind, apart), []).append(f)
    for (kind, about), own in sorted(groups.items(), key=lambda g: _KINDS.index(g[0][0])):
        for n, f in enumerate(own):
            head = kind if n == 0 else ""
            subject = f"{about}: " if kind == "takes" and n == 0 else ""
            inner = "" if n == 0 or kind not in ("takes", "fails") else "  "
            counts = f"{f.agree}" if f.agree == f.calls else f"{f.agree} of {f.calls}"
            borne = f"[{counts} calls]".replace(" ", _HARD)
            for line in textwrap.wrap(
                f"{subject}{f.text} {borne}",
                _WIDTH,
                initial_indent=f"  {head:8}{inner}",
                subsequent_indent=f"{'':12}{inner}",
                break_on_hyphens=False,
            ):
                yield line.replace(_HARD, " ")
