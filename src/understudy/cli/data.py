"""Look at what was captured, correct it, bring files in and out."""

import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

DEFAULT_STORE = Path("understudy.db")
StoreOption = Annotated[Path, typer.Option(help="The store's file.", envvar="UNDERSTUDY_STORE")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

episodes = typer.Typer(
    help="List and show episodes.\n\nExample: understudy episodes --feedback outcome --at-most 0",
    invoke_without_command=True,
    rich_markup_mode=None,
)


def adapter_folder(path: Path) -> Path:
    """The adapter folder that a run's folder or an adapter's folder stands for."""
    for folder in (path, path / "adapter"):
        if (folder / "adapter_config.json").exists():
            return folder
    for folder in (path, path / "model"):
        if (folder / "config.json").exists():
            raise ValueError(
                f"{path} holds a whole model, no adapter: name it as --set base={folder}"
            )
    raise ValueError(f"{path} holds no adapter; is the run finished?")


def trained_folder(path: Path) -> Path:
    """The folder of what a run trained: an adapter's, or a whole model's (tune=full)."""
    for folder in (path, path / "model"):
        if (folder / "config.json").exists():
            return folder
    return adapter_folder(path)


def open_store(path: Path, create: bool = False) -> Any:
    """The store at `path`. Raises FileNotFoundError where there is none and none is wanted."""
    from understudy.store import SQLiteStore

    if not create and not path.exists():
        raise ValueError(f"there is no store at {path}; capture or import something first")
    return SQLiteStore.open(path)


def captured(store: Path, workload: str | None) -> list[Any]:
    """The store's episodes, or one workload's. Raises ValueError where there are none."""
    with open_store(store) as db:
        found = list(db.read_episodes(**({"workload": workload} if workload else {})))
    if not found:
        of = f" of the workload {workload}" if workload else ""
        raise ValueError(f"{store} holds no episodes{of}; capture or import some first")
    return found


def import_(
    file: Annotated[Path, typer.Argument(help="OpenAI chat JSONL, gzip by its suffix.")],
    store: StoreOption = DEFAULT_STORE,
    outcome: Annotated[str, typer.Option(help="The column of outcomes, kept as feedback.")] = (
        "reward"
    ),
    workload: Annotated[str, typer.Option(help="Whose traffic it is.")] = "default",
    scenario: Annotated[str, typer.Option(help="The column that names scenarios.")] = "scenario",
    tools: Annotated[
        Path | None, typer.Option(help="A JSON file of tool schemas, for rows without any.")
    ] = None,
) -> None:
    """Import conversations; broken lines are counted and listed, the rest is imported.

    Example: understudy import conversations.jsonl.gz --outcome reward --workload support
    """
    from understudy.core.chat_files import ImportOptions, ImportReport, import_file
    from understudy.runs.progress import Progress

    if not file.exists():
        raise ValueError(f"there is no file {file}")
    options = ImportOptions(
        workload=workload,
        scenario=scenario,
        feedback={outcome: "outcome"},
        tools=_tools(tools) if tools else (),
        created_at=file.stat().st_mtime,
    )
    report = ImportReport()
    with open_store(store, create=True) as db, Progress("import", unit="episodes") as progress:
        batch: list[Any] = []
        for episode in import_file(file, options, report):
            batch.append(episode)
            if len(batch) == 100:
                db.write(batch)
                progress.advance(len(batch))
                batch = []
        db.write(batch)
        progress.advance(len(batch))
    print(
        f"{report.episodes} episodes, {report.completions} completions, {report.feedback} outcomes "
        f"into {store}; {len(report.broken)} broken lines"
    )
    for broken in report.broken[:20]:
        print(f"  line {broken.line}: {broken.reason}")
    if len(report.broken) > 20:
        print(f"  and {len(report.broken) - 20} more")
    if not report.episodes:
        raise typer.Exit(1)


def _tools(path: Path) -> tuple[Any, ...]:
    from understudy.core.openai_wire import tools_problem

    tools = json.loads(path.read_text())
    problem = tools_problem(tools)
    if problem is not None:
        raise ValueError(f"{path} {problem}")
    return tuple(tools)


def export(
    file: Annotated[Path, typer.Argument(help="Where to write (.jsonl or .jsonl.gz).")],
    store: StoreOption = DEFAULT_STORE,
    workload: Annotated[str | None, typer.Option(help="Only this workload.")] = None,
    feedback: Annotated[
        str | None, typer.Option(help="NAME=VALUE: only episodes with at least this value.")
    ] = None,
) -> None:
    """Export episodes as training rows (`messages` and `tools`, as TRL's SFTTrainer takes them).

    Example: understudy export good.jsonl --feedback outcome=1
    """
    from understudy.core.chat_files import training_rows, write_rows

    query = _query(workload, feedback)
    with open_store(store) as db:
        written = write_rows(file, training_rows(db.read_episodes(**query)))
    print(f"{written} conversations to {file}")


def feedback(
    episode: Annotated[str, typer.Argument(help="The episode's id, or its unique beginning.")],
    name: Annotated[str, typer.Argument(help="What is said, e.g. thumb.")],
    value: Annotated[str, typer.Argument(help="true, false, a number or a label.")],
    store: StoreOption = DEFAULT_STORE,
    comment: Annotated[str | None, typer.Option(help="In your own words.")] = None,
    completion: Annotated[
        str | None, typer.Option(help="The id of one of its completions: said of that alone.")
    ] = None,
) -> None:
    """Say something of an episode. Nothing is overwritten; the latest word counts.

    Example: understudy feedback 0199a3 thumb false --comment "took the dearer one"
    """
    from understudy.core.ids import uuid7
    from understudy.core.types import Feedback

    with open_store(store) as db:
        found = _one(db, episode)
        if completion is not None and all(c.id != completion for c in found.completions):
            raise ValueError(
                f"{found.id} has no completion {completion}; see `episodes show --json`"
            )
        said = Feedback(
            id=uuid7(),
            episode_id=found.id,
            name=name,
            value=_value(value),
            source="reviewer",
            completion_id=completion,
            comment=comment,
            created_at=time.time(),
        )
        db.write([said])
    print(f"{name}={value} said of {found.id}")


@episodes.callback()
def list_(
    context: typer.Context,
    store: StoreOption = DEFAULT_STORE,
    workload: Annotated[str | None, typer.Option(help="Only this workload.")] = None,
    feedback: Annotated[str | None, typer.Option(help="NAME or NAME=VALUE (at least).")] = None,
    at_most: Annotated[float | None, typer.Option(help="With --feedback: at most this.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    after: Annotated[str | None, typer.Option(help="The last id of the page before.")] = None,
    as_json: JsonOption = False,
) -> None:
    if context.invoked_subcommand:
        return
    query = _query(workload, feedback) | ({"at_most": at_most} if at_most is not None else {})
    with open_store(store) as db:
        found = db.find(limit=limit, after=after, **query)
        counts = db.counts()
    if as_json:
        from dataclasses import asdict

        print(json.dumps([asdict(s) for s in found]))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("episode", "when", "workload", "model", "calls", "tokens", "feedback"):
        whole = column in ("episode", "calls", "tokens")  # `show` needs all of an id
        justify: Any = "right" if column in ("calls", "tokens") else "left"
        table.add_column(column, justify=justify, no_wrap=whole, overflow="fold")
    for s in found:
        when = datetime.fromtimestamp(s.started_at, UTC).strftime("%Y-%m-%d %H:%M")
        said = " ".join(f"{k}={_shown(v)}" for k, v in s.feedback.items())
        bad = s.failed + s.unfinished
        calls = f"{s.completions}" + (f" ({bad}!)" if bad else "")
        tokens = f"{s.prompt_tokens + s.completion_tokens:,}"
        table.add_row(s.id, when, s.workload, ", ".join(s.models), calls, tokens, said)
    console = Console()
    if not console.is_terminal:
        console.width = 200  # nothing to fit into
    console.print(table)
    dropped = sum(counts["dropped"].values())
    print(f"{counts['episodes']} episodes in {store}" + (f", {dropped} dropped" if dropped else ""))


@episodes.command("show")
def show(
    episode: Annotated[str, typer.Argument(help="The episode's id, or its unique beginning.")],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show one episode: its conversation, its feedback.

    Example: understudy episodes show 0199a3
    """
    with open_store(store) as db:
        found = _one(db, episode)
    if as_json:
        from understudy.core.serial import episode_to_json

        print(json.dumps(episode_to_json(found)))
        return
    console = Console()
    console.print(f"[bold]{found.id}[/bold] {found.workload} {found.scenario_id or ''}")
    if found.metadata:
        console.print(Text(json.dumps(dict(found.metadata), ensure_ascii=False), style="dim"))
    from understudy.core.types import call_parts, text_of

    colours = {"system": "dim", "user": "cyan", "assistant": "green", "tool": "yellow"}
    for message in found.messages:
        text = text_of(message.get("content"))
        if text:
            console.print(Text(f"{message['role']:>9}  {text}", colours.get(message["role"], "")))
        for call in message.get("tool_calls") or []:
            name, given = call_parts(call)
            console.print(Text(f"     call  {name}({given})", "magenta"))
    _show_ends(console, found)


def _show_ends(console: Console, episode: Any) -> None:
    """What went wrong, and what was said of it; of contradicting words the latest counts."""
    from understudy.core.types import select_reward, text_of

    for completion in episode.completions:
        if completion.status != "ok":
            asked = text_of(completion.request.messages[-1].get("content"))
            why = completion.error or "no answer was recorded"
            console.print(Text(f"{completion.status:>9}  {why}; asked: {asked}", "red"))
            if completion.message is not None:
                said = text_of(completion.message.get("content"))
                console.print(Text(f"  cut off  {said}", "red"))
    values: dict[str, set[str]] = {}
    for said in episode.feedback:
        comment = f"  {said.comment}" if said.comment else ""
        console.print(Text(f" feedback  {said.source} {said.name}={_shown(said.value)}{comment}"))
        values.setdefault(said.name, set()).add(_shown(said.value))
    for name, several in values.items():
        reward = select_reward(episode.feedback, name)
        if len(several) > 1 and reward is not None:
            console.print(Text(f" feedback  {name} contradicts itself: the latest, {reward:g}"))


def _one(db: Any, prefix: str) -> Any:
    """The episode with this id or unique beginning of one."""
    exact = db.read_episode(prefix)
    if exact is not None:
        return exact
    page = db.find(limit=10_000)
    found = [s.id for s in page if s.id.startswith(prefix)]
    if len(found) != 1:
        raise ValueError(f"{len(found) or 'no'} episodes have an id that begins with {prefix!r}")
    return db.read_episode(found[0])


def _query(workload: str | None, feedback: str | None) -> dict[str, Any]:
    query: dict[str, Any] = {}
    if workload:
        query["workload"] = workload
    if feedback:
        name, equals, value = feedback.partition("=")
        query["feedback"] = name
        if equals:
            number = _value(value)
            if not isinstance(number, int | float):
                raise ValueError(f"--feedback {feedback}: {value!r} is not a number")
            query["at_least"] = float(number)
    return query


def _value(text: str) -> bool | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number: say true, false, a number or a label")
    return number


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
