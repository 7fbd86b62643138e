"""An issue tracker that answers partly in prose: statuses with forbidden moves, labels, comments,
pages by cursor, search by text."""

import random
from typing import Any

from unseen.playing import Agent, Refused, Service

MOVES = {
    "open": ["in_progress", "wontfix"], "in_progress": ["review", "open"],
    "review": ["done", "in_progress"], "done": ["open"], "wontfix": ["open"],
}  # fmt: skip
LABELS = ["bug", "docs", "infra", "ui", "perf"]
PEOPLE = ["kim", "lou", "max", "noa"]
THINGS = ["login", "search", "export", "upload", "billing", "theme"]
FAULTS = ["crashes on start", "is slow", "shows stale data", "ignores the locale", "leaks memory"]
PAGE = 4


def start(rng: random.Random) -> dict[str, Any]:
    fixed = random.Random("tracker")
    issues = {}
    for n in range(1, 49):
        issues[n] = {
            "number": n, "title": f"{THINGS[n % 6].title()} {fixed.choice(FAULTS)}",
            "status": fixed.choice(list(MOVES)), "assignee": fixed.choice([*PEOPLE, None]),
            "labels": sorted(fixed.sample(LABELS, fixed.randrange(3))), "comments": [],
        }  # fmt: skip
    return {"issues": issues}


def _issue(state: Any, number: int) -> dict[str, Any]:
    if number not in state["issues"]:
        raise Refused(f"No issue #{number}.")
    own: dict[str, Any] = state["issues"][number]
    return own


def list_issues(state: Any, status: str, cursor: str | None = None) -> Any:
    if status not in MOVES:
        raise Refused(f"Unknown status '{status}'. Use one of: {', '.join(MOVES)}.")
    found = [i for i in state["issues"].values() if i["status"] == status]
    first = int(cursor.removeprefix("p")) if cursor else 0
    rows = [{k: i[k] for k in ("number", "title", "assignee")} for i in found[first : first + PAGE]]
    more = f"p{first + PAGE}" if len(found) > first + PAGE else None
    return {"issues": rows, "next_cursor": more}


def get_issue(state: Any, number: int) -> Any:
    return dict(_issue(state, number))


def create_issue(state: Any, title: str, labels: list | None = None) -> Any:
    number = max(state["issues"]) + 1
    state["issues"][number] = {
        "number": number, "title": title, "status": "open", "assignee": None,
        "labels": sorted(labels or []), "comments": [],
    }  # fmt: skip
    return f"Created issue #{number}."


def move_issue(state: Any, number: int, status: str) -> Any:
    own = _issue(state, number)
    if status not in MOVES:
        raise Refused(f"Unknown status '{status}'. Use one of: {', '.join(MOVES)}.")
    if status not in MOVES[own["status"]]:
        raise Refused(f"Cannot move issue #{number} from {own['status']} to {status}.")
    before, own["status"] = own["status"], status
    return f"Issue #{number} moved from {before} to {status}."


def assign(state: Any, number: int, person: str) -> Any:
    own = _issue(state, number)
    if person not in PEOPLE:
        raise Refused(f"No such person: {person}.")
    own["assignee"] = person
    return f"Issue #{number} is assigned to {person}."


def label(state: Any, number: int, add: str) -> Any:
    own = _issue(state, number)
    if add in own["labels"]:
        raise Refused(f"Issue #{number} has the label {add} already.")
    own["labels"] = sorted([*own["labels"], add])
    return {"number": number, "labels": own["labels"]}


def comment(state: Any, number: int, text: str) -> Any:
    own = _issue(state, number)
    own["comments"] = [*own["comments"], text]
    return f"Comment {len(own['comments'])} added to issue #{number}."


def search(state: Any, text: str) -> Any:
    found = [i for i in state["issues"].values() if text.lower() in i["title"].lower()]
    rows = [{k: i[k] for k in ("number", "title", "status")} for i in found]
    return {"query": text, "total": len(rows), "results": rows}


def agent(rng: random.Random, state: Any) -> Agent:
    known: list[int] = []
    status = rng.choice([*MOVES, "closed"])
    seen = yield "list_issues", {"status": status}
    if isinstance(seen, Refused):
        status = "open"
        seen = yield "list_issues", {"status": status}
    while seen["next_cursor"] and rng.random() < 0.6:
        known += [i["number"] for i in seen["issues"]]
        seen = yield "list_issues", {"status": status, "cursor": seen["next_cursor"]}
    known += [i["number"] for i in seen["issues"]]
    if rng.random() < 0.6:
        seen = yield "search", {"text": rng.choice([*THINGS, "slow", "stale"])}
        known += [i["number"] for i in seen["results"][:3]]
    if rng.random() < 0.6:
        title = f"{rng.choice(THINGS).title()} {rng.choice(FAULTS)} again"
        args: dict[str, Any] = {"title": title}
        if rng.random() < 0.5:
            args["labels"] = rng.sample(LABELS, 2)
        told = yield "create_issue", args
        known = [int(told.split("#")[1].rstrip(".")), *known]
        if rng.random() < 0.7:
            yield "get_issue", {"number": known[0]}
    for number in known[:1] + rng.sample(known[1:], min(2, len(known) - 1)):
        if rng.random() < 0.7:
            yield "get_issue", {"number": number}
        act = rng.random()
        if act < 0.5:
            yield "move_issue", {"number": number, "status": rng.choice(list(MOVES))}
            if rng.random() < 0.4:
                yield "move_issue", {"number": number, "status": rng.choice(list(MOVES))}
        elif act < 0.7:
            yield "assign", {"number": number, "person": rng.choice([*PEOPLE, "pat"])}
        if rng.random() < 0.4:
            yield "label", {"number": number, "add": rng.choice(LABELS)}
        if rng.random() < 0.4:
            yield "comment", {"number": number, "text": f"Seen in {rng.choice(THINGS)} too."}
        yield "get_issue", {"number": number}
    if rng.random() < 0.5:
        yield "list_issues", {"status": status}


def malformed(what: str, tool: str, argument: str) -> str:
    words = {"extra": "takes no", "missing": "needs", "type": "cannot read"}
    return f"{tool} {words[what]} '{argument}'."


SERVICE = Service(
    "tracker", start,
    {f.__name__: f for f in
     (list_issues, get_issue, create_issue, move_issue, assign, label, comment, search)},
    agent, malformed,
)  # fmt: skip
