"""`python -m understudy.gateway --config FILE`: the gateway as a process of its own.

Prints one JSON line with its URL when it serves; SIGTERM and SIGINT drain it.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import resource
import signal
import sys

from understudy.gateway.app import ready_line, start
from understudy.gateway.config import GatewayConfig, load_config
from understudy.store import StoreError


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: drained; 1: could not serve; 2: wrong usage or configuration."""
    parser = argparse.ArgumentParser(prog="understudy.gateway", description=__doc__)
    parser.add_argument("--config", required=True, help="a JSON or TOML file")
    parser.add_argument("--port", type=int, help="instead of the configured one; 0: any free one")
    parser.add_argument("--store", help="instead of the configured store file")
    args = parser.parse_args(argv)
    given = {k: v for k, v in (("port", args.port), ("store", args.store)) if v is not None}
    try:
        config = load_config(args.config, **given)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    sys.setswitchinterval(0.0005)  # the writer thread must not hold up replies
    gc.set_threshold(50_000, 20, 50)
    _allow_many_files()
    try:
        return asyncio.run(_serve(config))
    except (StoreError, OSError) as error:
        print(f"the gateway cannot start: {error}", file=sys.stderr)
        return 1


def _allow_many_files() -> None:
    """A call in flight holds two sockets; the usual soft limit of 1024 files is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # a system may allow less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(config: GatewayConfig) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    running = await start(config)
    print(json.dumps({**ready_line(running), "pid": os.getpid()}), flush=True)
    try:
        await stop.wait()
    finally:
        await running.aclose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
