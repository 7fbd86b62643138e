"""What commands that serve over HTTP share: address, key, and serving until told to stop."""

import asyncio
import json
import os
import signal
from contextlib import AbstractAsyncContextManager


def address_of(text: str | None) -> tuple[str, int] | None:
    """HOST:PORT, an IPv6 host in brackets; None for None."""
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"--http {text!r} is not of the form HOST:PORT")
    return host, int(port)


def key_of(name: str | None, http: str | None) -> str | None:
    """The key that a variable of the environment holds; None where none is named."""
    if name is None:
        return None
    if http is None:
        raise ValueError("--key-env is for --http: over stdin and stdout there is no key")
    key = os.environ.get(name, "").strip()
    if not key:
        raise ValueError(f"--key-env: the environment has no {name}, or an empty one")
    return key


async def until_told(served: AbstractAsyncContextManager[str]) -> None:
    """Serve until SIGINT or SIGTERM; the URL is printed as a line of JSON."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with served as url:
        print(json.dumps({"url": url}), flush=True)
        await stop.wait()
