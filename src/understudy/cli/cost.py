"""What a run or a deployment cost, and whether sharing a base pays."""

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from understudy.cli.data import DEFAULT_STORE, JsonOption, StoreOption, open_store
from understudy.cli.places import ready_file
from understudy.core.prices import DEFAULT_SIZE_PRICES, GPU_PRICE, SIZE_PRICES, SizePrice

if TYPE_CHECKING:
    from understudy.core.meter import Use

_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}


def cost(
    name: Annotated[
        str | None, typer.Argument(help="A run's folder, or an alias; all traffic without one.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    days: Annotated[
        float | None, typer.Option(min=0, help="Only the traffic of so many days.")
    ] = None,
    prices: Annotated[
        str, typer.Option(help=f"{' or '.join(SIZE_PRICES)}, or a JSON file with a list like it.")
    ] = DEFAULT_SIZE_PRICES,
    base: Annotated[
        str | None, typer.Option(help="A base's folder: its size, where traffic does not say it.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="The base's parameters instead, e.g. 1.7B.")
    ] = None,
    sharing: Annotated[
        bool, typer.Option("--sharing", help="From how many adapters on does sharing a base pay?")
    ] = False,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="--sharing: of one GPU with one model, measured.")
    ] = None,
    shared_tokens_per_second: Annotated[
        float | None, typer.Option(help="--sharing: with many adapters; 1/1.36 of it otherwise.")
    ] = None,
    tokens_a_day: Annotated[
        float, typer.Option(help="--sharing: that one adapter is asked for, prompts included.")
    ] = 2e6,
    adapters: Annotated[int, typer.Option(help="--sharing: up to so many.")] = 50,
    prompt_share: Annotated[
        float, typer.Option(help="--sharing: of the tokens, those of prompts.")
    ] = 0.9,
    cached_share: Annotated[
        float, typer.Option(help="--sharing: of the prompts' tokens, cached ones.")
    ] = 0.0,
    load: Annotated[
        float, typer.Option(help="--sharing: how busy a GPU is on the average of a day.")
    ] = 0.5,
    gpu_price: Annotated[
        float | None,
        typer.Option(
            help=f"--sharing: US dollars an hour; {GPU_PRICE.hour} ({GPU_PRICE.gpu}, "
            f"{GPU_PRICE.source}, {GPU_PRICE.date}) if not given."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="--sharing: write its picture (SVG).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the tokens and US dollars of a run, of a deployment, or of all traffic, at list prices.

    Adapters are priced by their base's size, remote models by their name.

    Example: understudy cost prod --days 30
    """
    listed = _prices(prices)
    if sharing:
        if name is not None:
            raise ValueError(f"--sharing is of no run or alias: leave {name!r} out")
        parameters = _size(base, size)
        if parameters is None or tokens_per_second is None:
            raise ValueError("--sharing needs --base or --size, and --tokens-per-second")
        speeds = (tokens_per_second, shared_tokens_per_second, load)
        traffic = (tokens_a_day, prompt_share, cached_share)
        _sharing(parameters, listed, speeds, traffic, adapters, gpu_price, plot, as_json)
    elif name is not None and (Path(name) / "run.json").exists():
        _run(Path(name), listed, _size(base, size), as_json)
    else:
        _traffic(name, store, days, listed, _size(base, size), as_json)


def _prices(named: str) -> Sequence[SizePrice]:
    from understudy.core.prices import size_prices_from

    if named in SIZE_PRICES:
        return SIZE_PRICES[named]
    file = Path(named)
    if not file.is_file():
        lists = ", ".join(SIZE_PRICES)
        raise ValueError(f"there is no price list {named!r}: name a JSON file, or {lists}")
    try:
        return size_prices_from(json.loads(file.read_text()))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _size(base: str | None, size: str | None) -> float | None:
    """The parameters that options name."""
    from understudy.models.size import parameters_of

    if size is None:
        return None if base is None else parameters_of(base)
    unit = _UNITS.get(size[-1:].upper())
    try:
        found = float(size[:-1]) * unit if unit else float(size)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e15:
        raise ValueError(f"--size {size!r} is no number of parameters, such as 1.7B")
    return found


def _run(path: Path, prices: Sequence[SizePrice], given: float | None, as_json: bool) -> None:
    from understudy.core.prices import size_price
    from understudy.models.size import parameters_of
    from understudy.runs.usage import usage_of

    usage = usage_of(path)
    parameters = given if given is not None else parameters_of(usage.base)
    price = size_price(parameters, prices)
    dollars = usage.tokens.dollars(price) if price is not None else {}
    if as_json:
        told = {
            "run": str(path),
            "base": usage.base,
            "parameters": parameters,
            "tokens": asdict(usage.tokens),
            "again": asdict(usage.again),
            "trained_from": usage.trained,
            "price": None if price is None else asdict(price),
            "dollars": dollars,
            "total": sum(dollars.values()) if dollars else None,
        }
        print(json.dumps(told))
        return
    table = _table("", "tokens", "US$ per million", "US$")
    fresh = usage.tokens.prompt - usage.tokens.cached
    counts = {"prompt": fresh, "cached": usage.tokens.cached, "sampled": usage.tokens.sampled,
              "trained": usage.tokens.trained}  # fmt: skip
    for kind, count in counts.items():
        each = None if price is None else getattr(price, kind)
        if price is not None and kind == "cached" and each is None:
            each = price.prompt
        shown = _dollars(dollars.get(kind))
        table.add_row(kind, f"{count:,}", "-" if each is None else f"{each:g}", shown)
    table.add_row("", "", "", _dollars(sum(dollars.values()) if dollars else None))
    _show(table)
    print(f"{usage.base}, {_parameters(parameters)} parameters; {_source(price, prices)}")
    print(f"trained tokens: {usage.trained}" + (f"; of {usage.runs} runs" * (usage.runs > 1)))
    if again := sum(asdict(usage.again).values()):
        print(f"{again:,} of these tokens are of steps taken again after an interruption")


def _traffic(
    alias: str | None,
    store: Path,
    days: float | None,
    prices: Sequence[SizePrice],
    given: float | None,
    as_json: bool,
) -> None:
    since = None if days is None else time.time() - days * 86_400
    with open_store(store) as db:
        found: list[Use] = db.uses(alias, since)
        names, unknown = db.key_names(), _untold(found, db.trained())
        if alias is not None and not found and alias not in db.deployments():
            raise ValueError(f"there is neither a run nor a deployment {alias!r} ({store})")
    uses = [replace(u, key=names.get(u.key, u.key)) for u in found]
    priced = [(u, _dollars_of(u, prices, given)) for u in uses]
    total = sum(d for _, d in priced if d is not None)
    unpriced = sum(u.requests for u, d in priced if d is None)
    untrained = sum(u.tokens.trained for u, d in priced if d is None)
    if as_json:
        told = [u.as_dict() | {"dollars": d} for u, d in priced]
        about = {"name": alias, "since": since, "dollars": total, "unpriced": unpriced}
        rest = {"unpriced_trained": untrained, "trained_unknown": unknown, "uses": told}
        print(json.dumps(about | rest))
        return
    table = _table("alias", "model", "purpose", "key", "requests", "prompt", "cached", "sampled",
                   "trained", "US$")  # fmt: skip
    for u, d in priced:
        t = u.tokens
        numbers = (u.requests, t.prompt - t.cached, t.cached, t.sampled, t.trained)
        counts = [f"{n:,}" for n in numbers]
        table.add_row(u.alias or "-", u.model, u.purpose, u.key, *counts, _dollars(d))
    _show(table)
    requests = sum(u.requests for u in uses)
    source = _source(prices[0] if prices else None, prices)
    print(f"{_dollars(total)} US$ for {requests:,} requests; {source}, or the model's list price")
    for count, what in (
        (unpriced, "have no price: name their base's size with --size or --base"),
        (sum(u.unreported for u in uses), "ended before their tokens were counted"),
        (sum(u.estimated for u in uses), "have token counts estimated from their text"),
        (sum(u.differs for u in uses), "had another prompt than the adapter was trained with"),
    ):
        if count:
            print(f"  {count:,} requests {what}")
    if untrained:
        print(f"  {untrained:,} trained tokens have no price: name their base's size with --size "
              "or --base")  # fmt: skip
    for name in unknown:
        print(f"  the trained tokens of {name} are not known: deploy it with --adapter "
              f"{name}=FOLDER")  # fmt: skip


def _untold(uses: Sequence["Use"], told: Collection[str]) -> list[str]:
    """Adapters that were asked and of which nobody said what they were trained on. An engine tells
    an adapter's version with each answer."""
    known = {name.partition("@")[0] for name in told}
    asked = (u.model for u in uses if u.parameters is not None and "@" in u.model)
    return sorted({model.partition("@")[0] for model in asked} - known)


def _dollars_of(use: "Use", prices: Sequence[SizePrice], given: float | None) -> float | None:
    """By what is known of the model; by the given size where that is nothing."""
    found = use.dollars(prices)
    if found is None and use.parameters is None and given is not None:
        return replace(use, parameters=round(given)).dollars(prices)
    return found


def _sharing(
    parameters: float,
    prices: Sequence[SizePrice],
    speeds: tuple[float, float | None, float],
    traffic: tuple[float, float, float],
    adapters: int,
    gpu_price: float | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    from understudy.core.prices import size_price
    from understudy.runs import sharing

    price = size_price(parameters, prices)
    if price is None:
        raise ValueError(f"the list has no price for {_parameters(parameters)} parameters")
    ready_file(plot)
    own, together, load = speeds
    together = own / sharing.SLOWER if together is None else together
    gpu = GPU_PRICE
    if gpu_price is not None:
        gpu = replace(gpu, gpu="the GPU", hour=gpu_price, source="given", date="now")
    found = sharing.sharing(
        adapters, sharing.Traffic(*traffic), sharing.Speeds(own, together, load), price, gpu
    )
    if plot is not None:
        plot.write_text(sharing.chart(found).svg() + "\n")
    if as_json:
        print(json.dumps(found.as_dict()))
        return
    table = _table("adapters", "dedicated", "shared", "per token", "cheapest")
    shown = {2**k for k in range(20)} | {adapters}
    for row in found.rows:
        if row.adapters in shown:
            figures = (_dollars(d) for d in (row.dedicated, row.shared, row.per_token))
            table.add_row(str(row.adapters), *figures, row.cheapest)
    print(f"US dollars a day; {found.traffic.tokens:,.0f} tokens a day for each adapter")
    _show(table)
    for line in sharing.sentences(found):
        print(line)
    print(f"{_source(price, prices)}: {found.million:.3g} US$ per million tokens of this traffic")
    print(f"{gpu.gpu}: {gpu.hour:g} US$ an hour ({gpu.source}, {gpu.date}); {own:,.0f} tokens a "
          f"second alone, {together:,.0f} shared, {load:.0%} busy on the average")  # fmt: skip


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for n, column in enumerate(columns):
        text = column in ("alias", "model", "purpose", "key", "cheapest") or not n
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    return table


def _show(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 200  # nothing to fit into
    console.print(table)


def _dollars(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if value >= 1 or value == 0 else f"{value:.2g}"


def _parameters(count: float) -> str:
    unit, size = next(((u, s) for u, s in reversed(_UNITS.items()) if count >= s), ("", 1.0))
    return f"{count / size:.3g}{unit}"


def _source(price: SizePrice | None, prices: Sequence[SizePrice]) -> str:
    """Where prices are from."""
    if price is None:
        most = max((p.parameters for p in prices), default=0)
        return f"the price list ends at {_parameters(most)} parameters"
    return f"prices of {price.source} ({price.date})"
