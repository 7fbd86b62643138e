"""The engine as a process: read the base and its adapters, serve, print the URL, end when told."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from understudy.core.hosts import is_loopback
from understudy.core.types import ModelRef
from understudy.engine.folder import Found, adapters_in, most_versions
from understudy.engine.server import Server, server_url, start_server
from understudy.engine.torch_engine import TorchEngine


def read_keys(file: Path) -> frozenset[bytes]:
    """The hashes in a key file: a line each, SHA-256 in hexadecimal digits and a name, which only
    people read. Raises ValueError for a file without any, or with something else."""
    try:
        lines = [line.split() for line in file.read_text().splitlines() if line.strip()]
        hashes = frozenset(bytes.fromhex(words[0]) for words in lines)
    except (OSError, ValueError) as error:
        raise ValueError(f"the keys in {file} cannot be read: {error}") from error
    if not hashes or any(len(h) != 32 for h in hashes):
        raise ValueError(f"{file} holds no keys: make one with `understudy engine key {file}`")
    return hashes


def chosen(options: argparse.Namespace) -> list[Found]:
    """The adapters that the options name. Raises ValueError where there is none; what a folder
    holds beside adapters is told on standard error."""
    found = []
    for text in options.adapter:
        name, _, path = text.partition("=")
        if not Path(path).is_dir():
            raise ValueError(f"there is no adapter directory {path}")
        found.append(Found(name, None, Path(path)))
    if options.adapters is not None:
        more, left_out = adapters_in(Path(options.adapters))
        found += more
        for line in left_out:
            sys.stderr.write(f"left out {line}\n")
    return found


def pinned_of(pins: Sequence[str], found: Sequence[Found], slots: int) -> set[Found]:
    """The adapters that `pins` name: NAME is the newest version, NAME@VERSION that one. Raises
    ValueError for a name that is not there, and where no slot is left for the others (0 slots: no
    bound)."""
    named: dict[str, Found] = {}
    for one in found:  # the versions of a name in their order
        named[one.name] = one
        if one.version is not None:
            named[f"{one.name}@{one.version}"] = one
    for pin in pins:
        if pin not in named:
            there = ", ".join(sorted({one.name for one in found})) or "none"
            raise ValueError(f"--pin {pin}: there is no such adapter; there are: {there}")
    pinned = {named[pin] for pin in pins}
    if slots and len(pinned) + (len(pinned) < len(found)) > slots:
        raise ValueError(
            f"{len(pinned)} pinned adapters of {len(found)} need more slots than {slots}: "
            "give more with --adapter-slots"
        )
    return pinned


async def serve(options: argparse.Namespace) -> None:
    """Load, serve, print the URL, run until interrupted."""
    from understudy.models.devices import device_of, dtype_of
    from understudy.models.full import metadata_of
    from understudy.models.loading import folder_of, load_base
    from understudy.models.size import parameters_of

    keys = frozenset[bytes]() if options.keys is None else read_keys(Path(options.keys))
    if not keys and not is_loopback(options.host):
        raise ValueError(f"host {options.host} is open to others: serve it with --keys FILE")
    found = chosen(options)
    pinned = pinned_of(options.pin, found, options.adapter_slots)
    device = device_of(options.device)
    loaded = load_base(options.base, dtype_of("auto", device), device, options.renderer)
    engine = TorchEngine(
        loaded.model,
        options.name or loaded.name,
        loaded.renderer.stop_ids,
        decode_text=loaded.renderer.decode,
        tokenizer=loaded.tokenizer,
        threads=options.threads if options.threads == "auto" else int(options.threads),
        max_slots=options.max_slots,
        max_pending=options.max_pending or None,
        slots=options.adapter_slots or None,
        half_adapters=options.half_adapters,
        compile=options.compile,
        memory=int(options.memory * 2**30) if options.memory else None,
        keep_versions=max(2, most_versions(found)),
        origin=loaded.origin,
    )
    try:
        if options.compile and engine.has_kernel:
            sys.stderr.write("--compile changes nothing: the C kernel does what it would compile\n")
        bare = engine.registry.find(ModelRef(engine.base))
        bare.metadata = metadata_of(folder_of(options.base))
        for one in found:
            await _load(engine, one, one in pinned)
        renderer, size = loaded.renderer, parameters_of(options.base)
        server = Server(
            engine, renderer, renderer.decode, renderer.encode, loaded.origin, size, keys
        )
        runner = await start_server(server, options.host, options.port)
    except BaseException:
        await engine.aclose()
        raise
    url = server_url(runner)
    sys.stdout.write(json.dumps({"url": url, "model": engine.base}) + "\n")
    sys.stdout.flush()
    if options.explain:
        sys.stderr.write(_explained(engine, url, bool(keys)))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()
    await engine.aclose()


async def _load(engine: TorchEngine, one: Found, pinned: bool) -> None:
    """Raises FileNotFoundError or ValueError, one line with the folder's name."""
    if one.name == engine.base:
        raise ValueError(f"{one.path} has the base's name, {one.name}: rename one of them")
    try:
        await engine.load(ModelRef(engine.base, one.name, one.version), str(one.path), pinned)
    except ValueError as error:
        named = str(one.path) in str(error)
        raise ValueError(str(error) if named else f"{one.path}: {error}") from error


def _explained(engine: TorchEngine, url: str, keyed: bool) -> str:
    """What is served, and how to ask for it."""
    names = [str(m.ref) for m in engine.models()]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    key = "YOUR-KEY" if keyed else "none"
    body = json.dumps({"model": names[-1], "messages": [{"role": "user", "content": "Hello"}]})
    authorization = f" -H 'Authorization: Bearer {key}'" if keyed else ""
    return (
        f"serving {shown}\n"
        f'  OpenAI(base_url="{url}/v1", api_key="{key}")\n'
        f"  curl {url}/v1/chat/completions{authorization} -H 'Content-Type: application/json' "
        f"-d '{body}'\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop. Exit code 0, or 1 where it cannot serve; 2: wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m understudy.engine.server",
        description="Serve a base model and its adapters on vLLM's routes.",
    )
    parser.add_argument("--base", default="tiny", help="'tiny' or a Hugging Face folder")
    parser.add_argument("--name", help="the base's name on the wire (default: the folder's)")
    parser.add_argument("--renderer", help="a chat format in the place of the tokenizer's own")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=DIRECTORY")
    parser.add_argument("--adapters", metavar="DIRECTORY", help="all that it holds: engine.folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda or cuda:N; auto: CUDA where there is one"
    )
    parser.add_argument("--threads", default="auto", help="decoding threads, or 'auto'")
    parser.add_argument("--max-slots", type=int, default=512, help="conversations kept")
    parser.add_argument(
        "--max-pending", type=int, default=1024,
        help="requests at once before further ones are told to come later; 0: no bound",
    )  # fmt: skip
    parser.add_argument(
        "--adapter-slots", type=int, default=0,
        help="adapters in memory at once, the rest are read when asked for; 0: all",
    )  # fmt: skip
    parser.add_argument(
        "--pin", action="append", default=[], metavar="NAME", help="an adapter that keeps its slot"
    )
    parser.add_argument("--half-adapters", action="store_true", help="keep them in bfloat16")
    parser.add_argument("--memory", type=float, help="GiB for keys and values")
    parser.add_argument("--compile", action="store_true", help="see TorchEngine: minutes, once")
    parser.add_argument("--keys", metavar="FILE", help="hashes of the keys that may ask")
    parser.add_argument("--explain", action="store_true", help="say how to call it (stderr)")
    options = parser.parse_args(argv)
    for text in options.adapter:
        name, _, path = text.partition("=")
        if not name or not path:
            parser.error(f"--adapter takes NAME=DIRECTORY, not {text!r}")
    if options.threads != "auto" and not options.threads.isdecimal():
        parser.error(f"--threads takes a number or 'auto', not {options.threads!r}")
    try:
        asyncio.run(serve(options))
    except (FileNotFoundError, ValueError, OSError) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 1
    return 0
