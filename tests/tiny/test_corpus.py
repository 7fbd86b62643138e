"""The pretraining corpus: what it teaches must be true, valid and reproducible."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tiny_corpus import FAMILIES, Dialogue, generate
from tiny_corpus.lookup import LOW
from tiny_corpus.words import NUMBERS
from understudy.core.chatml import call_error, parse_assistant, render_text
from understudy.demo.agent import TOOLS
from understudy.demo.catalogue import CITIES, METHODS

SPLITS = ("train", "new", "heldout")


def many(count: int, family: str | None = None, split: str = "train") -> Iterator[Dialogue]:
    for seed in range(count):
        yield generate(seed, split, family)  # type: ignore[arg-type]


def parsed(message: dict[str, Any]) -> dict[str, Any]:
    function = message["tool_calls"][0]["function"]
    return {"name": function["name"], "arguments": json.loads(function["arguments"])}


def test_same_arguments_give_the_same_dialogue_and_other_seeds_another() -> None:
    for family in FAMILIES:
        assert generate(5, "train", family) == generate(5, "train", family)
        assert generate(5, "train", family) != generate(6, "train", family)
        assert generate(5, "train", family).family == family
    assert {d.family for d in many(400)} == set(FAMILIES)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_calls_are_valid_and_probes_hold(family: str, split: str) -> None:
    probes = 0
    for dialogue in many(250, family, split):
        names = {t["function"]["name"] for t in dialogue.tools}
        assert len(names) == len(dialogue.tools)
        open_calls: list[str] = []
        for message in dialogue.messages:
            if message["role"] == "tool":
                assert message["tool_call_id"] == open_calls.pop(0)
            else:
                assert not open_calls
            for call in message.get("tool_calls", ()):
                open_calls.append(call["id"])
                assert call_error(call, dialogue.tools) is None, call  # type: ignore[arg-type]
        for probe in dialogue.probes:
            probes += 1
            message = dialogue.messages[probe.message]
            assert message["role"] == "assistant"
            said = message["content"] if isinstance(probe.expected, str) else parsed(message)
            assert said == probe.expected
    assert probes > 250


def test_text_of_each_message_is_read_back() -> None:
    for dialogue in many(300):
        for message in dialogue.messages:
            if message["role"] != "assistant":
                continue
            text = render_text([message]).removeprefix("<|im_start|>assistant\n")  # type: ignore[list-item]
            back = parse_assistant(text.removesuffix("<|im_end|>\n"))
            assert (back.get("content") or "") == (message["content"] or "")
            calls = [c["function"]["name"] for c in back.get("tool_calls") or ()]
            assert calls == [c["function"]["name"] for c in message.get("tool_calls", ())]


@pytest.mark.parametrize("split", SPLITS)
def test_expected_values_occur_before(split: str) -> None:
    checked = 0
    for dialogue in many(800, None, split):
        for probe in dialogue.probes:
            if not isinstance(probe.expected, dict):
                continue
            before = render_text(dialogue.messages[: probe.message], dialogue.tools).lower()  # type: ignore[arg-type]
            for value in probe.expected["arguments"].values():
                checked += 1
                alone = re.search(r"\b(me|alone|person)\b", before) if value == 1 else None
                spoken = NUMBERS[value] if type(value) is int and value < 13 else ""
                assert str(value).lower() in before or spoken in before or alone, probe
    assert checked > 4000


def test_choices_are_the_best_or_the_matching_one() -> None:
    checked = 0
    for dialogue in many(300, "choice"):
        for probe in dialogue.probes:
            assert isinstance(probe.expected, dict)
            asked = dialogue.messages[probe.message - 3]["content"]
            shown = json.loads(dialogue.messages[probe.message - 1]["content"])
            rows: list[dict[str, Any]] = next(iter(shown.values()))
            *fields, kind, key = rows[0]
            match = re.search(r"the (\w+) one", asked)
            if match:
                (best,) = [r for r in rows if r[kind] == match[1]]
            else:
                low = bool(set(LOW) & set(asked.split()))
                best = sorted(rows, key=lambda r: r[fields[0]], reverse=not low)[0]
            assert [*probe.expected["arguments"].values()] == [best[key]], (asked, rows)
            question, _, row = dialogue.messages[probe.message]["content"].partition(": ")
            assert question in asked
            assert row.split() == [str(best[kind if match else fields[0]]), best[key]]
            checked += 1
    assert checked > 900


def test_heldout_names_never_occur_in_train() -> None:
    def names(split: str) -> tuple[set[str], set[str]]:
        nouns, proper = set(), set()
        for dialogue in many(2000, None, split):
            for t in dialogue.tools:
                nouns.add(t["function"]["name"])
            for message in dialogue.messages:
                text = message["content"] or ""
                proper |= set(re.findall(r"(?:\bin|near|at|to) ([A-Z][a-z]{4,})\b", text))
        return nouns, proper

    train, new, heldout = (names(split) for split in SPLITS)
    assert min(len(x) for x in (*train, *new, *heldout)) > 300
    assert not train[1] & (new[1] | heldout[1])
    assert not train[0] & heldout[0]


def test_demo_world_is_absent() -> None:
    """Names of the demo: its cities, payment methods, tools, and every parameter of several words.

    A parameter of one word (city, sort, method) is a common word, and may occur.
    """
    tools = {t["function"]["name"] for t in TOOLS}
    parameters = {p for t in TOOLS for p in t["function"]["parameters"]["properties"]}
    names = {*CITIES, *METHODS, *tools, *(p for p in parameters if "_" in p)}
    words = "stays?|hotels?|guests?|nights?|paris|london|rome|oslo|lisbon|berlin|madrid"
    forbidden = re.compile(rf"(?<![a-z])({words}|{'|'.join(names)})(?![a-z])", re.IGNORECASE)
    for split in SPLITS:
        for dialogue in many(3000, None, split):
            text = render_text(dialogue.messages, dialogue.tools)  # type: ignore[arg-type]
            assert not (hit := forbidden.search(text)), hit


def test_lengths_fit_the_training_context() -> None:
    lengths = sorted(len(render_text(d.messages, d.tools)) for d in many(1000))  # type: ignore[arg-type]
    assert 700 < sum(lengths) / len(lengths) < 2000
    assert lengths[-1] < 6000


def test_compare_letters_are_balanced() -> None:
    said = [p.expected for d in many(400, "compare") for p in d.probes]
    assert 0.44 < sum(x in ("A", "1") for x in said) / len(said) < 0.56


def test_rules_and_corrections_change_what_is_done() -> None:
    endings = 0
    for family in ("rules", "correction"):
        for dialogue in many(600, family):
            kind = "rule" if family == "rules" else family
            probes = [p for p in dialogue.probes if p.kind == kind]
            assert probes, dialogue.messages
            text = json.dumps(dialogue.messages[: probes[0].message])
            rule = re.search(r"(?:End with the word|Your last word is|Close with) (\w+)\.", text)
            for probe in probes if rule else ():
                assert rule is not None
                assert str(dialogue.messages[probe.message]["content"]).endswith(rule[1])
                endings += 1
    assert endings > 30
