"""The support desk of a telephone company, in German, whose state lasts from one episode to the
next: answers in sentences, in lines of `name: value`, in tables and in XML, no JSON; tickets
numbered upwards with a history, tags and links, staff with a limit, a clock that goes on."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from unseen.playing import Agent, Refused, Service

NAMES = ["Petra Vogt", "Ali Demir", "Jonas Reh", "Ute Sander", "Kai Brandt", "Eva Lutz"]
TOWNS = [("Kassel", "561"), ("Bonn", "228"), ("Jena", "3641")]
TARIFFS = ["Flat S", "Flat M", "Flat L", "Business"]
SUBJECTS = {
    "Technik": ["Kein Internet", "Router startet neu", "Leitung rauscht", "Langsames WLAN"],
    "Abrechnung": ["Rechnung zu hoch", "Lastschrift geplatzt", "Gutschrift fehlt"],
}
TEXTS = ["Kunde nicht erreicht", "Rückruf vereinbart", "Router neu gestartet", "Port gewechselt",
         "Beleg angefordert", "Messung läuft", "Techniker bestellt"]  # fmt: skip
TAGS = ["dsl", "router", "vip", "rückruf", "mahnung"]
PRIORITIES = ["niedrig", "normal", "hoch"]
STATES = ["offen", "in Arbeit", "eskaliert", "geschlossen"]
BERLIN = ZoneInfo("Europe/Berlin")


def start(rng: random.Random) -> dict[str, Any]:
    fixed = random.Random("hotline")
    people, staff = {}, {}
    for n in range(24):
        town, area = TOWNS[n % 3]
        people[f"K-{20400 + 7 * n}"] = {
            "name": f"{NAMES[n % 6].split()[0]} {NAMES[(n * 5 + n // 6) % 6].split()[1]}",
            "ort": town, "vorwahl": area, "anschluss": str(fixed.randrange(300000, 999999)),
            "tarif": fixed.choice(TARIFFS), "leitung": fixed.choice(["synchron", "gestört"]),
        }  # fmt: skip
    for n, short in enumerate(["mho", "tbe", "sri", "lka", "jwe", "afu", "dno"]):
        team = "Technik" if n < 4 else "Abrechnung"
        staff[short] = {"team": team, "platz": fixed.choice([3, 4, 5])}
    state = {"kunden": people, "team": staff, "tickets": {}, "n": 48200,
             "uhr": datetime(2026, 3, 2, 7, 4, tzinfo=UTC)}  # fmt: skip
    for _ in range(16):
        team = fixed.choice(list(SUBJECTS))
        _open(state, fixed.choice(list(people)), fixed.choice(SUBJECTS[team]), team, "normal")
        state["uhr"] += timedelta(minutes=fixed.randrange(5, 50))
    return state


def _open(state: Any, person: str, subject: str, team: str, priority: str) -> int:
    state["n"] += 1
    state["tickets"][state["n"]] = {
        "kunde": person, "betreff": subject, "team": team, "prio": priority, "status": "offen",
        "bearbeiter": "", "tags": [], "links": [], "verlauf": [], "auf": state["uhr"],
        "neu": state["uhr"],
    }  # fmt: skip
    return int(state["n"])


def _time(moment: datetime) -> str:
    here = moment.astimezone(BERLIN)
    return f"{here:%d.%m.%Y %H:%M} {'MESZ' if here.dst() else 'MEZ'}"


def _ticket(state: Any, ticket: int, live: bool = False) -> dict[str, Any]:
    if ticket not in state["tickets"]:
        raise Refused(f"E-10: Ein Ticket {ticket} gibt es nicht.")
    own: dict[str, Any] = state["tickets"][ticket]
    if live and own["status"] == "geschlossen":
        raise Refused(f"E-12: Ticket {ticket} ist bereits geschlossen.")
    return own


def _load(state: Any, short: str) -> int:
    mine = (t for t in state["tickets"].values() if t["bearbeiter"] == short)
    return sum(t["status"] != "geschlossen" for t in mine)


def kunde_suchen(state: Any, rufnummer: str) -> Any:
    digits = "".join(c for c in rufnummer if c.isdigit())
    digits = digits.removeprefix("00") if digits.startswith("00") else digits
    digits = digits.removeprefix("49").removeprefix("0")
    for key, own in state["kunden"].items():
        if digits == own["vorwahl"] + own["anschluss"]:
            live = [n for n, t in state["tickets"].items()
                    if t["kunde"] == key and t["status"] != "geschlossen"]  # fmt: skip
            inner = "".join(f"<ticket>{n}</ticket>" for n in live)
            return (f'<kunde nr="{key}"><name>{own["name"]}</name><ort>{own["ort"]}</ort>'
                    f"<rufnummer>+49 {own['vorwahl']} {own['anschluss']}</rufnummer>"
                    f"<tarif>{own['tarif']}</tarif><tickets>{inner}</tickets></kunde>")  # fmt: skip
    raise Refused(f"Zur Rufnummer {rufnummer} ist kein Kunde bekannt.")


def leitung_pruefen(state: Any, kunde: str) -> Any:
    if kunde not in state["kunden"]:
        raise Refused(f"E-11: Kunde {kunde} ist unbekannt.")
    line = state["kunden"][kunde]["leitung"]
    when = _time(state["uhr"])
    return f'<messung kunde="{kunde}" zeit="{when}"><status>{line}</status></messung>'


def ticket_zeigen(state: Any, ticket: int) -> Any:
    own = _ticket(state, ticket)
    lines = [
        f"Ticket: {ticket}",
        f"Kunde: {own['kunde']} ({state['kunden'][own['kunde']]['name']})",
        f"Betreff: {own['betreff']}", f"Status: {own['status']}", f"Team: {own['team']}",
        f"Priorität: {own['prio']}", f"Bearbeiter: {own['bearbeiter'] or 'niemand'}",
        f"Schlagworte: {', '.join(own['tags']) or '-'}",
    ]  # fmt: skip
    if own["links"]:
        lines.append(f"Wartet auf: {', '.join(map(str, own['links']))}")
    lines += [f"Angelegt: {_time(own['auf'])}", f"Geändert: {_time(own['neu'])}"]
    notes = own["verlauf"]
    lines.append(f"Verlauf ({min(3, len(notes))} von {len(notes)}):")
    lines += [f"- {_time(when)} {text}" for when, text in reversed(notes[-3:])]
    return "\n".join(lines)


def tickets_auflisten(state: Any, status: str, team: str = "") -> Any:
    if status not in STATES:
        raise Refused(f"Unbekannter Status {status}. Erlaubt sind: {', '.join(STATES)}.")
    found = [(n, t) for n, t in state["tickets"].items()
             if t["status"] == status and team in ("", t["team"])]  # fmt: skip
    if not found:
        return f"Keine Tickets mit Status {status}."
    rows = [f"{n:<7}| {t['prio']:<8}| {t['bearbeiter'] or '-':<6}| {t['betreff']}"
            for n, t in found[-8:]]  # fmt: skip
    head = ["Nummer | Prio    | Wer   | Betreff", "-------+---------+-------+--------"]
    return "\n".join([*head, *rows, f"({len(rows)} von {len(found)})"])


def ticket_anlegen(
    state: Any, kunde: str, betreff: str, team: str, prioritaet: str = "normal"
) -> Any:
    if kunde not in state["kunden"]:
        raise Refused(f"E-11: Kunde {kunde} ist unbekannt.")
    if prioritaet not in PRIORITIES:
        raise Refused(f"E-14: Priorität {prioritaet} gibt es nicht.")
    n = _open(state, kunde, betreff, team, prioritaet)
    return f"Ticket {n} wurde am {_time(state['uhr'])} für {kunde} angelegt."


def zuweisen(state: Any, ticket: int, kuerzel: str) -> Any:
    own = _ticket(state, ticket, live=True)
    if kuerzel not in state["team"]:
        raise Refused(f"E-15: Kürzel {kuerzel} ist unbekannt.")
    who = state["team"][kuerzel]
    if who["team"] != own["team"]:
        raise Refused(f"E-16: {kuerzel} gehört nicht zum Team {own['team']}.")
    if own["bearbeiter"] == kuerzel:
        return f"Ticket {ticket} liegt schon bei {kuerzel}."
    if _load(state, kuerzel) >= who["platz"]:
        raise Refused(f"E-17: {kuerzel} hat bereits {who['platz']} Tickets in Arbeit.")
    own["bearbeiter"], own["neu"] = kuerzel, state["uhr"]
    own["status"] = "in Arbeit" if own["status"] == "offen" else own["status"]
    full = f"({_load(state, kuerzel)} von {who['platz']} belegt)"
    return f"Ticket {ticket} liegt jetzt bei {kuerzel} {full}."


def kommentieren(state: Any, ticket: int, text: str) -> Any:
    own = _ticket(state, ticket)
    own["verlauf"].append((state["uhr"], text))
    own["neu"] = state["uhr"]
    return f"Kommentar {len(own['verlauf'])} zu Ticket {ticket} gespeichert."


def schlagwort(state: Any, ticket: int, wort: str, entfernen: bool = False) -> Any:
    own = _ticket(state, ticket)
    if entfernen and wort not in own["tags"]:
        raise Refused(f"Ticket {ticket} trägt das Schlagwort {wort} nicht.")
    if entfernen:
        own["tags"].remove(wort)
    elif wort not in own["tags"]:
        own["tags"].append(wort)
    return f"Schlagworte von Ticket {ticket}: {', '.join(own['tags']) or '-'}"


def eskalieren(state: Any, ticket: int) -> Any:
    own = _ticket(state, ticket, live=True)
    if own["status"] == "eskaliert":
        raise Refused(f"E-20: Ticket {ticket} ist schon eskaliert.")
    if own["prio"] != "hoch" and len(own["verlauf"]) < 2:
        raise Refused(f"E-21: Vor dem Eskalieren braucht Ticket {ticket} zwei Kommentare.")
    own["status"], own["neu"] = "eskaliert", state["uhr"]
    return f"Ticket {ticket} ist eskaliert. Rückruf bis {_time(state['uhr'] + timedelta(hours=4))}."


def schliessen(state: Any, ticket: int) -> Any:
    own = _ticket(state, ticket, live=True)
    live = [n for n in own["links"] if state["tickets"][n]["status"] != "geschlossen"]
    if live:
        raise Refused(f"E-31: Ticket {ticket} wartet auf Ticket {live[0]}, das noch nicht zu ist.")
    own["status"], own["neu"] = "geschlossen", state["uhr"]
    return f"Ticket {ticket} wurde am {_time(state['uhr'])} geschlossen."


def verknuepfen(state: Any, ticket: int, mit: int) -> Any:
    own, other = _ticket(state, ticket), _ticket(state, mit)
    if ticket == mit:
        raise Refused("E-30: Ein Ticket kann nicht mit sich selbst verknüpft werden.")
    if mit in own["links"]:
        raise Refused(f"E-32: Ticket {ticket} wartet schon auf Ticket {mit}.")
    if _waits(state, other, ticket):
        raise Refused(f"E-34: Ticket {mit} wartet selbst auf Ticket {ticket}.")
    own["links"].append(mit)
    return f"Ticket {ticket} wartet jetzt auf Ticket {mit}."


def _waits(state: Any, own: dict[str, Any], ticket: int) -> bool:
    return any(n == ticket or _waits(state, state["tickets"][n], ticket) for n in own["links"])


def zusammenfuehren(state: Any, quelle: int, ziel: int) -> Any:
    gone, own = _ticket(state, quelle), _ticket(state, ziel, live=True)
    if gone["kunde"] != own["kunde"] or quelle == ziel:
        raise Refused(f"E-33: Ticket {quelle} gehört zu {gone['kunde']}, nicht zu {own['kunde']}.")
    del state["tickets"][quelle]
    for other in state["tickets"].values():
        other["links"] = [n for n in other["links"] if n != quelle]
    own["verlauf"] = sorted(own["verlauf"] + gone["verlauf"], key=lambda c: c[0])
    own["neu"] = state["uhr"]
    return f"Ticket {quelle} ging in Ticket {ziel} auf ({len(gone['verlauf'])} Kommentare)."


def agent(rng: random.Random, state: Any) -> Agent:
    """One or two tasks of the day; each call takes minutes."""
    state["uhr"] += timedelta(minutes=rng.randrange(2, 240))
    rng.choice(list(state["kunden"].values()))["leitung"] = rng.choice(["synchron", "gestört"])
    tasks = [_takes, _takes, _works, _works, _works, _closes, _closes, _tags, _links, _merges]
    for _ in range(rng.choice([1, 2])):
        work, told = rng.choice(tasks)(rng, state), None
        while True:
            try:
                call = work.send(told)
            except StopIteration:
                break
            state["uhr"] += timedelta(minutes=rng.choice([0, 1, 1, 2, 4]))
            told = yield call


def _spelt(rng: random.Random, own: dict[str, Any]) -> str:
    area, line = own["vorwahl"], own["anschluss"]
    return rng.choice([f"0{area} {line}", f"0{area}/{line}", f"+49{area}{line}",
                       f"0049 {area} {line}", f"+49 {area} {line}", f"0{area}{line}"])  # fmt: skip


def _some(rng: random.Random, state: Any, *states: str) -> int:
    live = [n for n, t in state["tickets"].items() if t["status"] in (states or STATES[:3])]
    return int(rng.choice(live[-12:] or list(state["tickets"])[-12:]))


def _takes(rng: random.Random, state: Any) -> Agent:
    key = rng.choice(list(state["kunden"]))
    yield "kunde_suchen", {"rufnummer": _spelt(rng, state["kunden"][key])}
    team = rng.choice(["Technik", "Technik", "Abrechnung"])
    if team == "Technik":
        yield "leitung_pruefen", {"kunde": key}
    made = {"kunde": key, "betreff": rng.choice(SUBJECTS[team]), "team": team}
    if rng.random() < 0.5:
        made["prioritaet"] = rng.choice([*PRIORITIES, "hoch", "dringend"])
    told = yield "ticket_anlegen", made
    if isinstance(told, Refused):
        told = yield "ticket_anlegen", made | {"prioritaet": "hoch"}
    ticket = int(told.split()[1])
    yield from _assigns(rng, state, ticket)
    yield "ticket_zeigen", {"ticket": ticket}
    if rng.random() < 0.4:
        yield "kunde_suchen", {"rufnummer": _spelt(rng, state["kunden"][key])}


def _assigns(rng: random.Random, state: Any, ticket: int) -> Agent:
    for short in rng.sample(list(state["team"]), 3):
        told = yield "zuweisen", {"ticket": ticket, "kuerzel": short}
        if not isinstance(told, Refused):
            return


def _works(rng: random.Random, state: Any) -> Agent:
    status = rng.choice([*STATES[:3], "offen", "neu"])
    args = {"status": status} | ({"team": rng.choice(list(SUBJECTS))} if rng.random() < 0.6 else {})
    yield "tickets_auflisten", args
    ticket = _some(rng, state, *([status] if status in STATES else []))
    yield "ticket_zeigen", {"ticket": ticket}
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        yield "kommentieren", {"ticket": ticket, "text": rng.choice(TEXTS)}
    if state["tickets"][ticket]["bearbeiter"] == "":
        yield from _assigns(rng, state, ticket)
    if rng.random() < 0.6:
        told = yield "eskalieren", {"ticket": ticket}
        if isinstance(told, Refused) and str(told).startswith("E-21"):
            yield "kommentieren", {"ticket": ticket, "text": rng.choice(TEXTS)}
            yield "eskalieren", {"ticket": ticket}
    yield "ticket_zeigen", {"ticket": ticket}


def _closes(rng: random.Random, state: Any) -> Agent:
    for _ in range(2):
        ticket = _some(rng, state)
        if rng.random() < 0.6:
            yield "ticket_zeigen", {"ticket": ticket}
        told = yield "schliessen", {"ticket": ticket}
        if isinstance(told, Refused) and str(told).startswith("E-31"):
            first = int(str(told).split("Ticket ")[2].split(",")[0])
            yield "schliessen", {"ticket": first}
            yield "schliessen", {"ticket": ticket}
    after = rng.choice(["ticket_zeigen", "schliessen", "eskalieren"])
    yield after, {"ticket": ticket}


def _tags(rng: random.Random, state: Any) -> Agent:
    ticket = _some(rng, state)
    for _ in range(rng.choice([1, 2, 3])):
        args: dict[str, Any] = {"ticket": ticket, "wort": rng.choice(TAGS)}
        tags = state["tickets"][ticket]["tags"]
        if tags and rng.random() < 0.4:
            args |= {"wort": rng.choice([*tags, args["wort"]]), "entfernen": True}
        yield "schlagwort", args
    yield "ticket_zeigen", {"ticket": ticket}


def _links(rng: random.Random, state: Any) -> Agent:
    ticket, other = _some(rng, state), _some(rng, state)
    yield "verknuepfen", {"ticket": ticket, "mit": other}
    yield "ticket_zeigen", {"ticket": rng.choice([ticket, other])}
    if rng.random() < 0.5:
        yield "schliessen", {"ticket": ticket}


def _merges(rng: random.Random, state: Any) -> Agent:
    target = _some(rng, state)
    of = state["tickets"][target]["kunde"]
    same = [n for n, t in state["tickets"].items() if t["kunde"] == of and n != target]
    source = rng.choice(same) if same and rng.random() < 0.8 else _some(rng, state)
    for ticket in (source, target):
        if rng.random() < 0.6:
            yield "ticket_zeigen", {"ticket": ticket}
    yield "zusammenfuehren", {"quelle": source, "ziel": target}
    yield "ticket_zeigen", {"ticket": target}
    if rng.random() < 0.5:
        yield rng.choice(["ticket_zeigen", "schliessen"]), {"ticket": source}


def malformed(what: str, tool: str, argument: str) -> Any:
    said = {"missing": "E-01: Die Angabe {} fehlt.", "extra": "E-02: Die Angabe {} ist unbekannt.",
            "type": "E-03: Die Angabe {} hat den falschen Typ."}  # fmt: skip
    return said[what].format(argument)


TOOLS = (kunde_suchen, leitung_pruefen, ticket_zeigen, tickets_auflisten, ticket_anlegen,
         zuweisen, kommentieren, schlagwort, eskalieren, schliessen, verknuepfen,
         zusammenfuehren)  # fmt: skip
SERVICE = Service("hotline", start, {f.__name__: f for f in TOOLS}, agent, malformed,
                  lasting=True)  # fmt: skip
