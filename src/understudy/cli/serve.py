"""Serve: the gateway, the engine, and which policy an alias stands for."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.cli.data import (
    DEFAULT_STORE,
    StoreOption,
    adapter_folder,
    open_store,
    trained_folder,
)
from understudy.cli.options import DeviceOption

if TYPE_CHECKING:
    from understudy.core.trained import Trained

ENGINE_URL = "http://127.0.0.1:8401"
engine = typer.Typer(help="The inference engine.", no_args_is_help=True, rich_markup_mode=None)


def up(
    store: Annotated[
        Path | None,
        typer.Option(
            help=f"The store's file; {DEFAULT_STORE}, or the configured one.",
            envvar="UNDERSTUDY_STORE",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A JSON or TOML file with upstreams, models and the rest.")
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(help="One OpenAI-compatible endpoint, instead of a file.")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option(help="The environment variable that holds the upstream's key.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that the upstream serves (repeatable).")
    ] = None,
    engine_url: Annotated[
        str | None,
        typer.Option(
            help="The engine that serves what is deployed and no --model names; "
            f"{ENGINE_URL}, if not given."
        ),
    ] = None,
    fallback: Annotated[
        list[str] | None,
        typer.Option(
            help="ALIAS=POLICY, repeatable: who answers where a prompt is another than the "
            "alias's adapter was trained with; a policy of its deployment."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="8400, or the configured one; 0: any free one."),
    ] = None,
) -> None:
    """Start the gateway: a drop-in OpenAI endpoint that captures what passes.

    The first --model is deployed as `prod`, unless the store has a `prod` already. With --config,
    the file says all but what --store and --port say.

    Example: understudy up --upstream https://api.openai.com/v1 --key-env OPENAI_API_KEY
             --model gpt-4o
    """
    from understudy.gateway.__main__ import main as gateway_main
    from understudy.runs.directory import write_json

    if (config is None) == (upstream is None):
        raise ValueError("name either --config FILE or --upstream URL")
    beside = {"--key-env": key_env, "--model": model, "--engine-url": engine_url,
              "--fallback": fallback}  # fmt: skip
    if config is not None and (told := [name for name, value in beside.items() if value]):
        raise ValueError(f"{told[0]} goes with --upstream: {config} says it in its own way")
    if config is None:
        store = store or DEFAULT_STORE
        at = (engine_url or ENGINE_URL).rstrip("/")  # as `engine serve` prints it, or with /v1
        upstreams: dict[str, Any] = {
            "default": {"base_url": upstream, "api_key_env": key_env},
            "engine": {"base_url": f"{at.removesuffix('/v1')}/v1", "kind": "engine"},
        }
        config = store.with_suffix(".gateway.json")
        models = dict.fromkeys(model or [], "default")
        write_json(
            config,
            {
                "store": str(store),
                "upstreams": upstreams,
                "models": models,
                "deployed": "engine",
                "fallback": dict(_named(item) for item in fallback or []),
            },
        )
        if model:
            _deploy_first(store, model[0])
    arguments = ["--config", str(config)]
    arguments += ["--store", str(store)] if store is not None else []
    arguments += ["--port", str(port)] if port is not None else []
    raise typer.Exit(gateway_main(arguments))


def _named(item: str) -> tuple[str, str]:
    alias, equals, policy = item.partition("=")
    if not alias or not equals or not policy:
        raise ValueError(f"--fallback {item!r} is not of the form ALIAS=POLICY")
    return alias, policy


def _deploy_first(store: Path, model: str) -> None:
    """`prod` is this model where it is nothing yet, so that clients can ask for it at once."""
    from understudy.core.types import ModelRef, Policy

    with open_store(store, create=True) as db:
        if "prod" not in db.deployments():
            db.deploy_now("prod", [(Policy(model, ModelRef(model)), 1.0)], expected=0)


@engine.command("serve")
def engine_serve(
    base: Annotated[
        str, typer.Argument(help="A base model: a folder in Hugging Face format, or 'tiny'.")
    ],
    adapter: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER, repeatable; a run's folder will do.")
    ] = None,
    adapters: Annotated[
        Path | None,
        typer.Option(
            help="A folder of adapters: NAME or NAME@VERSION, each an adapter's or a run's folder."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Another than this machine's own needs --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8401,
    name: Annotated[
        str | None, typer.Option(help="The base's name for clients; its folder's, if not given.")
    ] = None,
    renderer: Annotated[
        str | None, typer.Option(help="A chat format in the place of the base's own.")
    ] = None,
    device: DeviceOption = "auto",
    threads: Annotated[
        int, typer.Option(min=0, help="Threads that decode on a CPU; 0: fit to the load.")
    ] = 0,
    max_slots: Annotated[
        int, typer.Option(min=1, help="Conversations that are live or cached at once.")
    ] = 512,
    adapter_slots: Annotated[
        int,
        typer.Option(min=0, help="Adapters in memory; the rest are read when asked for. 0: all."),
    ] = 0,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="NAME, repeatable: an adapter that is never sent out of its slot."),
    ] = None,
    half_adapters: Annotated[
        bool,
        typer.Option(help="Keep adapters in bfloat16: half the memory and faster, but rounded."),
    ] = False,
    memory: Annotated[
        float | None,
        typer.Option(min=0.001, help="GiB for keys and values; a share, if not given."),
    ] = None,
    max_pending: Annotated[
        int, typer.Option(min=0, help="Requests at once before others get 429; 0: no bound.")
    ] = 1024,
    compile_: Annotated[
        bool,
        typer.Option("--compile", help="Let torch compile its part, on a GPU or in bf16: minutes."),
    ] = False,
    keys: Annotated[
        Path | None, typer.Option(help="Who asks needs a key of this file; see `engine key`.")
    ] = None,
) -> None:
    """Serve a base and its adapters as an OpenAI-compatible endpoint, on vLLM's routes.

    The list of models shows each adapter and each of its versions: `name` is the newest,
    `name@2` stays that one. The folder is looked through once, at the start.

    Example: understudy engine serve tiny --adapters runs --adapter judge=runs/judge
    """
    from understudy.engine.serving import main as server_main

    arguments = ["--base", base, "--host", host, "--port", str(port), "--device", device]
    arguments += ["--threads", str(threads or "auto"), "--max-slots", str(max_slots), "--explain"]
    arguments += ["--adapter-slots", str(adapter_slots), "--max-pending", str(max_pending)]
    for option, value in (("renderer", renderer), ("name", name), ("keys", keys),
                          ("adapters", adapters), ("memory", memory)):  # fmt: skip
        arguments += [f"--{option}", str(value)] if value else []
    arguments += ["--compile"] if compile_ else []
    arguments += ["--half-adapters"] if half_adapters else []
    arguments += [word for pinned in pin or [] for word in ("--pin", pinned)]
    for item in adapter or []:
        named, equals, folder = item.partition("=")
        if not equals:
            raise ValueError(f"--adapter {item!r} is not of the form NAME=FOLDER")
        arguments += ["--adapter", f"{named}={adapter_folder(Path(folder))}"]
    raise typer.Exit(server_main(arguments))


@engine.command("key")
def engine_key(
    file: Annotated[Path, typer.Argument(help="The file of hashes; made where there is none.")],
    name: Annotated[str, typer.Option(help="Whose it is: one word, for people to read.")] = "key",
) -> None:
    """Make a key for `engine serve --keys FILE`: shown this once, its hash goes into the file.

    The engine reads the file when it starts; without its line a key is no key any more.

    Example: understudy engine key engine.keys --name gateway
    """
    from understudy.core.keys import key_hash, new_key

    if not name.isprintable() or not name.split() == [name]:
        raise ValueError(f"--name {name!r} is not one word")
    key = new_key()
    with file.open("a") as opened:
        opened.write(f"{key_hash(key).hex()} {name}\n")
    print(key)


def deploy(
    alias: Annotated[str, typer.Argument(help="The name that clients ask for, e.g. prod.")],
    models: Annotated[list[str], typer.Argument(help="MODEL or MODEL=SHARE; shares sum to 1.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="MODEL=FOLDER, repeatable: what was deployed, or its run; `cost` then knows the "
            "tokens that it was trained on."
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Put a model behind an alias; the gateway follows within a second.

    Example: understudy deploy prod incumbent=0.95 rehearsed=0.05 --adapter rehearsed=runs/rehearsed
    """
    from understudy.core.types import ModelRef, Policy

    shares = []
    for item in models:
        name, equals, share = item.partition("=")
        shares.append((Policy(name, ModelRef(name)), float(share) if equals else 1.0 / len(models)))
    trained = dict(_trained(item) for item in adapter or [])
    with open_store(store, create=True) as db:
        done = db.deploy_now(alias, shares, trained=trained)
    told = {"alias": done.alias, "version": done.version, "policies": models}
    if trained:
        told["trained"] = {name: sum(t.tokens for t in runs) for name, runs in trained.items()}
    print(json.dumps(told))


def _trained(item: str) -> "tuple[str, tuple[Trained, ...]]":
    """MODEL=FOLDER as the model's name and what the folder says that it was trained on."""
    from understudy.core.trained import told_by

    name, equals, folder = item.partition("=")
    if not name or not equals:
        raise ValueError(f"--adapter {item!r} is not of the form MODEL=FOLDER")
    found = told_by(where := trained_folder(Path(folder)))
    if found is None:
        raise ValueError(
            f"{where} does not say how many tokens were trained on: deploy {name} without --adapter"
        )
    return name, found


def rollback(
    alias: Annotated[str, typer.Argument(help="The alias to set back.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Set an alias back to what it stood for before.

    Example: understudy rollback prod
    """
    with open_store(store) as db:
        done = db.rollback_now(alias)
    names = ", ".join(policy.name for policy, _ in done.shares)
    print(f"{alias} is {names} again (version {done.version})")
