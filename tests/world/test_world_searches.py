"""Listings that look for a text, or select by a field that only another tool shows."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from recorded import recorded

from understudy.world import files
from understudy.world.data.search import Search
from understudy.world.describing.describe import describe
from understudy.world.learn import learn
from understudy.world.lists.query import Query
from understudy.world.model import World

NOUNS = ("lamp", "chair", "shelf", "stool", "desk", "rack", "lampshade", "bench")
TONES = ("oak", "Steel", "pale", "Dark", "lampblack", "green")
MAKERS = ("Norden & Co", "Vale Works", "Stoolman", "Pale Coast")
TAGS = ("sale", "new", "sales-stop", "fragile", "heavy")
WINGS = ("east", "west", "south")


def things() -> list[dict[str, Any]]:
    rng = random.Random(5)
    made = []
    for n in range(36):
        words = [rng.choice(TONES), rng.choice(NOUNS), str(rng.randrange(10, 60))]
        made.append(
            {
                "code": f"P-{100 + n}",
                "label": " ".join(words),
                "maker": MAKERS[n % 4],
                "tags": rng.sample(TAGS, rng.choice((0, 1, 2))),
                "wing": WINGS[n % 3],
            }
        )
    return made


ALL = things()
Test = Callable[[str, dict[str, Any]], bool]


def within(text: str, r: dict[str, Any]) -> bool:
    return text.lower() in r["label"].lower() or text.lower() in r["maker"].lower()


def every_word(text: str, r: dict[str, Any]) -> bool:
    whole = f"{r['label']} {r['maker']}".lower()
    return all(w in whole for w in text.lower().split())


def starts(text: str, r: dict[str, Any]) -> bool:
    return bool(r["label"].lower().startswith(text.lower()))


def whole_word(text: str, r: dict[str, Any]) -> bool:
    return text.lower() in r["label"].lower().split()


def cased(text: str, r: dict[str, Any]) -> bool:
    return text in r["label"]


def tagged(text: str, r: dict[str, Any]) -> bool:
    return text in r["tags"]


def answer(test: Test, tool: str, args: dict[str, Any], shown: tuple[str, ...]) -> Any:
    if tool == "inspect":
        return next((r for r in ALL if r["code"] == args["code"]), "no such piece")
    found = [
        r for r in ALL
        if ("q" not in args or test(args["q"], r)) and args.get("wing", r["wing"]) == r["wing"]
    ]  # fmt: skip
    return [{k: r[k] for k in shown} for r in found]


def texts(rng: random.Random) -> str:
    r = rng.choice(ALL)
    return str(rng.choice([*r["label"].split()[:2], r["label"], r["maker"], r["maker"].split()[0]]))


SHOWN = "code", "label", "maker", "tags"


def taught(
    test: Test, asked: Callable[[random.Random], str] = texts, wings: float = 0.0, n: int = 90
) -> World:
    rng = random.Random(1)
    episodes = []
    for k in range(n):
        args = {} if rng.random() < 0.1 else {"q": asked(rng)}
        if rng.random() < wings:
            args["wing"] = rng.choice(WINGS)
        calls = [("seek", args)]
        if wings:
            calls.append(("inspect", {"code": rng.choice(ALL)["code"]}))
        episodes.append(recorded(f"e{k}", calls, lambda tool, a: answer(test, tool, a, SHOWN)))
    return learn(episodes)


def listing(world: World) -> Query:
    query = world.models["seek"].query
    assert query is not None
    return query


def told(world: World, **args: Any) -> Any:
    return json.loads(world.session(0).step("seek", json.dumps(args), greedy=True).content)


def test_a_text_in_one_of_two_fields_selects_what_was_never_asked_for() -> None:
    world = taught(within)
    assert listing(world).searches == [Search("q", ["label", "maker"], "in")]
    for text in ("amp", "k 1", "ORDEN", "pale", "oo", "zebra"):
        assert told(world, q=text) == answer(within, "seek", {"q": text}, SHOWN)
    assert told(world) == answer(within, "seek", {}, SHOWN)


def two_words(rng: random.Random) -> str:
    r = rng.choice(ALL)
    picked = rng.sample(f"{r['label']} {r['maker']}".replace("& ", "").split(), 2)
    return " ".join(picked)


def a_noun(rng: random.Random) -> str:
    return rng.choice([*NOUNS, *TONES]).lower()


@pytest.mark.parametrize(
    ("test", "asked", "mode"),
    [
        (every_word, two_words, "all"),
        (starts, lambda rng: rng.choice([*TONES, "Oak lamp", "d", "l", "pale s"]), "starts"),
        (whole_word, a_noun, "words"),
        (cased, lambda rng: rng.choice([*NOUNS, *TONES, "dark", "steel", "PALE"]), "cased"),
    ],
)
def test_what_contained_means_is_told_by_the_traffic(
    test: Test, asked: Callable[[random.Random], str], mode: str
) -> None:
    world = taught(test, asked)
    assert [s.mode for s in listing(world).searches] == [mode]
    rng = random.Random(77)
    for _ in range(20):
        text = asked(rng)
        assert told(world, q=text) == answer(test, "seek", {"q": text}, SHOWN)


def test_contained_is_meant_where_the_traffic_does_not_tell() -> None:
    """Each of these nouns stands in the middle, whole and alone."""
    world = taught(within, lambda rng: rng.choice(("chair", "desk", "rack", "bench")))
    assert listing(world).searches == [Search("q", ["label"], "in")]


def test_a_tag_is_one_of_a_list() -> None:
    world = taught(tagged, lambda rng: rng.choice(TAGS))
    assert listing(world).searches == [Search("q", ["tags"], "is")]
    assert told(world, q="sale") == answer(tagged, "seek", {"q": "sale"}, SHOWN)


def test_an_argument_that_selects_nothing_is_no_search() -> None:
    """The list holds the text now and then by chance; all is listed whatever is looked for."""
    world = taught(lambda text, r: True)
    assert listing(world).searches == []


def test_what_is_not_always_listed_is_no_search() -> None:
    """The text is in every record listed, and in as many that are not."""
    world = taught(lambda text, r: within(text, r) and int(r["code"][2:]) % 2 == len(text) % 2)
    assert listing(world).searches == []


def test_nothing_found_is_an_empty_list_doubted_by_what_the_memory_lacks() -> None:
    rng = random.Random(3)
    texts_ = [rng.choice(ALL)["label"] for _ in range(12)]
    few = taught(within, lambda rng: rng.choice(texts_) if rng.random() < 0.8 else texts(rng), n=25)
    many = taught(within, lambda rng: rng.choice((texts(rng), "zebra", "zinc", "q", "xylo")), n=300)
    doubts = []
    for world in (few, many):
        step = world.session(0).step("seek", json.dumps({"q": "zzz"}), greedy=True)
        assert json.loads(step.content) == []
        doubts.append(step.doubt)
    assert doubts[0] > doubts[1]


def test_a_filter_on_a_field_that_another_tool_shows() -> None:
    world = taught(within, wings=0.4, n=160)
    assert listing(world).elsewhere == {"wing": "wing"}
    assert listing(world).order == {}
    rows = {row.key: row.under.get("wing") for row in listing(world).rows}
    assert sum(rows[r["code"]] == [r["wing"]] for r in ALL) > 30
    for text in ("amp", "a", "works"):
        for wing in WINGS:
            args = {"q": text, "wing": wing}
            known = [r for r in answer(within, "seek", args, SHOWN) if rows[r["code"]]]
            assert told(world, **args) == known


def test_what_the_session_shows_of_such_a_field_counts() -> None:
    world = taught(within, wings=0.4, n=160)
    code = ALL[0]["code"]
    session = world.session(0)
    session.observe("inspect", {"code": code}, json.dumps({**ALL[0], "wing": "west"}), False)
    for wing in WINGS:
        step = session.step("seek", json.dumps({"q": ALL[0]["label"], "wing": wing}), greedy=True)
        assert any(r["code"] == code for r in json.loads(step.content)) == (wing == "west")


def paged(tool: str, args: dict[str, Any]) -> Any:
    found = sorted((r for r in ALL if within(args["q"], r)), key=lambda r: str(r["label"]))
    shown = [{k: r[k] for k in ("code", "label", "maker")} for r in found[: args.get("top", 4)]]
    return {"hits": shown, "of": len(found)}


def test_a_total_counts_what_is_cut_off() -> None:
    rng = random.Random(9)
    episodes = []
    for n in range(400):
        args: dict[str, Any] = {"q": texts(rng)}
        if rng.random() < 0.4:
            args["top"] = rng.choice((1, 2, 9))
        episodes.append(recorded(f"e{n}", [("seek", args)], paged))
    world = learn(episodes)
    query = listing(world)
    assert (query.total, query.limit, query.limit_by) == ("of", 4, "top")
    for args in ({"q": "oa"}, {"q": "a", "top": 3}, {"q": "stool", "top": 20}, {"q": "zebra"}):
        assert told(world, **args) == paged("seek", args)


def test_what_an_argument_looks_for_is_described() -> None:
    facts = describe(taught(within, wings=0.4, n=160))["seek"]
    assert {f.about for f in facts if "`label` or `maker` contains this text" in f.text} == {"q"}
    assert {f.about for f in facts if "this `wing`, which other tools show" in f.text} == {"wing"}


def test_a_world_read_from_its_file_searches_as_before(tmp_path: Any) -> None:
    world = taught(within, wings=0.4)
    files.write(world, tmp_path)
    again = files.read(tmp_path)
    assert listing(again).searches == listing(world).searches
    assert told(again, q="amp", wing="east") == told(world, q="amp", wing="east")
