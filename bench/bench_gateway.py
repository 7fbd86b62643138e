"""What the gateway adds: latency at one connection, requests per second at sixteen.

A stub upstream (named stub: it answers at once), the gateway and the client are three processes
on this machine. `python -m bench.bench_gateway` prints the figures as JSON.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from bench.figures import Figure, figure

CAPTURES = ("off", "batched", "durable")
STUB = Path(__file__).parent.parent / "tests" / "gateway" / "stub_upstream.py"
BODY = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "You are a careful assistant. " * 40},
        {"role": "user", "content": "echo the same few words"},
    ],
}


def _spawn(*args: str) -> tuple["subprocess.Popen[str]", str]:
    process = subprocess.Popen([sys.executable, *args], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["url"]


async def _latencies(url: str, total: int, concurrency: int) -> tuple[list[float], float]:
    """(seconds of each request, seconds of all). Warm: an eighth more runs before."""
    data = json.dumps(BODY).encode()
    headers = {"Content-Type": "application/json", "x-understudy-workload": "bench"}
    took: list[float] = []

    async def worker(session: aiohttp.ClientSession, n: int) -> None:
        for _ in range(n):
            start = time.perf_counter()
            async with session.post(f"{url}/chat/completions", data=data, headers=headers) as r:
                await r.read()
                assert r.status == 200
            took.append(time.perf_counter() - start)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for n in (total // 8, total):
            took.clear()
            start = time.perf_counter()
            await asyncio.gather(*(worker(session, n // concurrency) for _ in range(concurrency)))
        return sorted(took), time.perf_counter() - start


def _at(values: list[float], share: float) -> float:
    return values[min(int(share * len(values)), len(values) - 1)]


def run(
    requests: int = 1000, repeats: int = 3, captures: tuple[str, ...] = CAPTURES
) -> dict[str, Figure]:
    """Figures of the stub alone, and of the gateway before it in each way of capturing."""
    stub, direct = _spawn(str(STUB))
    seen: dict[str, list[float]] = {}
    try:
        for capture in ("direct", *captures):
            with tempfile.TemporaryDirectory() as folder:
                gateway, url = None, direct
                if capture != "direct":
                    config = {
                        "store": f"{folder}/s.db", "capture": capture, "models": {"m": "stub"},
                        "upstreams": {"stub": {"base_url": direct}},
                    }  # fmt: skip
                    (Path(folder) / "c.json").write_text(json.dumps(config))
                    gateway, url = _spawn("-m", "understudy.gateway", "--config",
                                          f"{folder}/c.json", "--port", "0")  # fmt: skip
                for _ in range(repeats):
                    took, _ = asyncio.run(_latencies(url, requests, 1))
                    seen.setdefault(f"{capture}_p50", []).append(_at(took, 0.5) * 1e3)
                    seen.setdefault(f"{capture}_p99", []).append(_at(took, 0.99) * 1e3)
                    took, wall = asyncio.run(_latencies(url, requests * 2, 16))
                    seen.setdefault(f"{capture}_rate", []).append(len(took) / wall)
                if gateway is not None:
                    gateway.terminate()
                    gateway.wait()
    finally:
        stub.kill()
        stub.wait()
    figures = {}
    for name, values in seen.items():
        capture, kind = name.split("_")
        if kind == "rate":
            figures[f"{capture}: requests per second at 16 connections"] = figure(values, "1/s")
            continue
        figures[f"{capture}: {kind} at 1 connection"] = figure(values, "ms")
        if capture != "direct":
            base = statistics.median(seen[f"direct_{kind}"])
            figures[f"{capture}: added {kind}"] = figure([v - base for v in values], "ms")
    return figures


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
