"""The booking service on the wire, as its own process.

    python -m understudy.demo.service --db FILE --seed N --port 0

prints one JSON line with its URL. Routes: POST /sessions {seed, scenario} -> {session};
POST /tools/{name} with the arguments as JSON and the header x-session;
GET /admin/outcome/{session}; GET /calls.
"""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp import web

from understudy.demo.booking import BookingSystem, UnknownSession
from understudy.demo.catalogue import Rates

SYSTEM: web.AppKey[BookingSystem] = web.AppKey("system", BookingSystem)


def make_app(system: BookingSystem) -> web.Application:
    """The service's routes over a booking system, which the application closes at its end."""
    app = web.Application()
    app[SYSTEM] = system
    app.router.add_post("/sessions", _open_session)
    app.router.add_post("/tools/{name}", _tool)
    app.router.add_get("/admin/outcome/{session}", _outcome)
    app.router.add_get("/calls", _calls)
    app.on_cleanup.append(_close)
    return app


async def _close(app: web.Application) -> None:
    app[SYSTEM].close()


async def _open_session(request: web.Request) -> web.Response:
    body = await _json(request)
    if not isinstance(body, dict) or not isinstance(body.get("seed"), int):
        return _answer(400, {"error": "the body must be {seed: integer, scenario?: object}"})
    try:
        session = request.app[SYSTEM].open_session(body["seed"], body.get("scenario"))
    except KeyError as error:
        return _answer(400, {"error": f"the scenario has no such stay or field: {error}"})
    return _answer(200, {"session": session})


async def _tool(request: web.Request) -> web.Response:
    session = request.headers.get("x-session", "")
    try:
        answer = request.app[SYSTEM].call(session, request.match_info["name"], await _json(request))
    except UnknownSession:
        return _answer(404, {"error": "no such session; open one with POST /sessions"})
    return _answer(*answer)


async def _outcome(request: web.Request) -> web.Response:
    try:
        return _answer(200, request.app[SYSTEM].outcome(request.match_info["session"]))
    except UnknownSession:
        return _answer(404, {"error": "no such session"})


async def _calls(request: web.Request) -> web.Response:
    calls = request.app[SYSTEM].calls
    return _answer(200, {"total": calls.total(), "by_session": dict(calls)})


async def _json(request: web.Request) -> Any:
    """The body, or None where it is not JSON (which no route accepts)."""
    try:
        return json.loads(await request.text())
    except ValueError:
        return None


def _answer(status: int, body: dict[str, Any]) -> web.Response:
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")


async def serve(app: web.Application, host: str, port: int, **said: Any) -> None:
    """Serves until cancelled; prints one JSON line with the URL and what else is `said`."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0][1]
        print(json.dumps({"url": f"http://{host}:{bound}", **said}), flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The demo's booking service.")
    parser.add_argument("--db", type=Path, required=True, help="a new SQLite file")
    parser.add_argument("--seed", type=int, default=0, help="fixes the catalogue")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--rates", default="{}", help='JSON, e.g. {"declined": 0.5}')
    given = parser.parse_args(argv)
    try:
        rates = Rates.model_validate_json(given.rates)
        system = BookingSystem(given.db, given.seed, rates)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    try:
        asyncio.run(serve(make_app(system), given.host, given.port, seed=given.seed))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
