"""A service that tells of walks in prose, seldom twice alike, and models that word them."""

import gzip
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from understudy.core.types import Episode, ToolResult
from world.recorded import Call, recorded

DOGS = ("Rex", "Luna", "Max", "Nala", "Otto", "Paula", "Kira", "Senta")
PLACES = ("garden", "river", "station", "field", "beach", "market", "wood")
ENDS = ("came home tired", "found a stick", "met two others", "would not turn back", "lost a shoe",
        "saw a train", "slept well")  # fmt: skip
SKIES = ("rain", "sun", "fog", "wind", "snow")


def told(rng: random.Random, args: dict[str, Any], ends: int = 2) -> str:
    *first, last = rng.sample(ENDS, ends)
    return (
        f"In the {rng.choice(SKIES)} {args['dog']} walked {args['minutes']} minutes to the "
        f"{args['place']}, {', '.join(first)} and {last}."
    )


def walk(seed: int) -> Episode:
    rng = random.Random(seed)
    calls: list[Call] = [("walk", {"dog": rng.choice(DOGS), "place": rng.choice(PLACES),
                                   "minutes": rng.randint(5, 999)}) for _ in range(2)]  # fmt: skip
    episode = recorded(f"e{seed}", calls, lambda _, args: told(rng, args))
    good = {call: ToolResult(r.content, False) for call, r in episode.results.items()}
    return replace(episode, results=good)


def folder_of(path: Path, train: int, test: int) -> Path:
    """A benchmark folder of walks."""
    path.mkdir()
    with gzip.open(path / "replays.jsonl.gz", "wt") as file:
        for n in range(train + test):
            episode = walk(n)
            messages = [
                {**m, "is_error": False} if m["role"] == "tool" else m for m in episode.messages
            ]
            split = "train" if n < train else "test"
            row = {"episode": episode.id, "split": split, "messages": messages}
            file.write(json.dumps(row) + "\n")
    return path


@contextmanager
def endpoint(
    answer: Callable[[dict[str, Any]], tuple[int, Any]],
) -> "Iterator[tuple[str, list[Any]]]":
    """An OpenAI-compatible endpoint: its URL, and the (body, authorization) that came."""
    came: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            came.append((body, self.headers.get("Authorization")))
            status, said = answer(body)
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def said(text: str) -> tuple[int, Any]:
    message = {"role": "assistant", "content": text}
    return 200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {}}


def knows(body: dict[str, Any]) -> tuple[int, Any]:
    """A model that words a walk as the service does."""
    args = json.loads(body["messages"][-1]["content"])["arguments"]
    walked = f"In the sun {args['dog']} walked {args['minutes']} minutes to the {args['place']}"
    return said(json.dumps({"1": f"{walked}, saw a train and lost a shoe."}))


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "walk",
        "parameters": {
            "type": "object",
            "properties": {
                "dog": {"type": "string"},
                "place": {"type": "string"},
                "minutes": {"type": "integer"},
            },
            "required": ["dog", "place", "minutes"],
        },
    },
}
WISH = re.compile(r"Walk (\w+) to the (\w+) for (\d+) minutes, please\.")


def wish(args: dict[str, Any]) -> str:
    return f"Walk {args['dog']} to the {args['place']} for {args['minutes']} minutes, please."


def call_for(text: str, name: str) -> Any:
    """The call that a wish asks for."""
    dog, place, minutes = re.fullmatch(WISH, text).groups()  # type: ignore[union-attr]
    args = {"dog": dog, "place": place, "minutes": int(minutes)}
    function = {"name": "walk", "arguments": json.dumps(args)}
    return {"id": name, "type": "function", "function": function}


def conversation(seed: int) -> dict[str, Any]:
    """A row of a user's wish, the agent's call, what came of it, and the agent's last word."""
    rng = random.Random(seed)
    args = {"dog": rng.choice(DOGS), "place": rng.choice(PLACES), "minutes": rng.randint(5, 999)}
    call = call_for(wish(args), f"c{seed}")
    messages = [
        {"role": "user", "content": wish(args)},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": told(rng, args, 4)},
        {"role": "assistant", "content": "Done."},
    ]
    ticket = {"ticket": args}
    return {"messages": messages, "tools": [TOOL], "scenario": f"s{seed}", "metadata": ticket}


def walks_and_words(body: dict[str, Any]) -> tuple[int, Any]:
    """Two models: `agent` walks the dog and is done, any other words walks."""
    if body["model"] != "agent":
        return knows(body)
    last = body["messages"][-1]
    if last["role"] != "user":
        return said("Done.")
    call = call_for(last["content"], f"c{len(body['messages'])}")
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return 200, {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": {}}
