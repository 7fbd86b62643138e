"""Results laid out as texts: lines of names and values, XML, sentences that count up."""

import importlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unseen.playing import play_all

from understudy.world.data import layouts, markup, sentences
from understudy.world.fidelity.bench import episode_of
from understudy.world.learn import learn
from understudy.world.model import World


def _card(n: int) -> str:
    tags = ["-", "red", "red, blue", "blue"][n % 4]
    lines = [f"Box: {n + 100}", f"Owner: P-{n % 3} (Ann Lee)", f"Tags: {tags}"]
    lines += [f"Next: {n}, {n + 1}"] if n % 2 else []
    return "\n".join([*lines, f"Notes ({n % 3} of 9):", *["- seen"] * (n % 3)])


def test_lines_are_read_as_a_record_and_written_again() -> None:
    found: Any = layouts.mine([("show", _card(n)) for n in range(20)])["show"]
    assert found.read(_card(5)) == {
        "Box": 105, "Owner": "P-2", "Owner ()": "Ann Lee", "Tags": ["red"], "Next": [5, 6],
        "Notes (# of #) 1": 2, "Notes (# of #) 2": 9, "Notes (# of #)": ["seen", "seen"],
    }  # fmt: skip
    assert found.read(_card(4))["Tags"] == []
    assert all(found.write(found.read(_card(n))) == _card(n) for n in range(40))
    assert found.read("Nothing there.") is None
    assert layouts.from_json(layouts.to_json(found)) == found


def test_texts_without_names_that_recur_are_no_lines() -> None:
    texts = [f"note {n}: this\nand that, {n * 7}: more of {n}" for n in range(30)]
    prose = [
        f"Dear {chr(65 + n)}{chr(97 + n)}: yes\nsome words{chr(65 + n)}: no" for n in range(25)
    ]
    assert layouts.mine([("cat", t) for t in prose]) == {}
    assert layouts.mine([("cat", t[: 9 + n]) for n, t in enumerate(texts)]) == {}


WORD = st.text(st.sampled_from("ab<>&\"' 01"), max_size=6).map(str.strip)


@pytest.mark.parametrize("between", ["", "\n"])
@given(st.lists(st.tuples(WORD, st.lists(st.integers(0, 99), max_size=3)), min_size=4, max_size=9))
def test_xml_is_read_and_written_again(between: str, rows: list[tuple[str, list[int]]]) -> None:
    rows = [("x<y", []), ("it is", [7]), *rows]
    escaped = [(t.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"), own)
               for t, own in rows]  # fmt: skip
    texts = [
        between.join([f'<box id="B{n}">', f"<name>{t}</name>",
                      *(["<ins>", *(f"<in>{i}</in>" for i in own), "</ins>"]
                        if own else ["<ins></ins>"]), "</box>"])
        for n, (t, own) in enumerate(escaped)
    ]  # fmt: skip
    found = markup.Markup.mine(texts)
    assert found is not None
    for n, (text, (name, own)) in enumerate(zip(texts, rows, strict=True)):
        assert found.read(text) == {"@id": f"B{n}", "name": name, "ins": own}
        assert found.write(found.read(text)) == text


def test_what_is_no_xml_is_none() -> None:
    assert markup.Markup.mine(["<a><b></a>"] * 9) is None
    assert markup.Markup.mine(["a < b"] * 9) is None
    assert markup.Markup.mine(["<a>1</a>", "<b>1</b>"] * 9) is None


def test_a_sentence_that_counts_up_is_a_record() -> None:
    texts = [f"Box {n + 70} made on 0{n % 5 + 1}.03.2026 09:{n:02}." for n in range(12)]
    found = sentences.Sentence.mine(texts)
    assert found is not None
    assert found.read(texts[3]) == {"Box": 73, "on": "04.03.2026 09:03"}
    assert all(found.write(found.read(t) or {}) == t for t in texts)
    assert found.read("Box 3 is gone.") is None
    sizes = [f"Box {n * 7 % 11} holds {n * 5 % 7} things." for n in range(40)]
    assert sentences.Sentence.mine(sizes) is None
    each = [f"Note {n // 6 + 1} on box {n % 6}." for n in range(40)]
    assert sentences.Sentence.mine(each) is not None


def _world() -> World:
    service = importlib.import_module("unseen.hotline").SERVICE
    return learn([episode_of(row) for row, _ in play_all(service, 120)])


def test_what_a_call_made_in_a_sentence_is_shown_in_lines(tmp_path: object) -> None:
    world = _world()
    world.save(str(tmp_path))
    session = World.load(str(tmp_path)).session(1)
    made = session.step(
        "ticket_anlegen",
        '{"kunde": "K-20414", "betreff": "Leitung rauscht", "team": "Technik"}',
        greedy=True,
    ).content
    ticket = made.split()[1]

    session.step(
        "kommentieren", f'{{"ticket": {ticket}, "text": "Beleg angefordert"}}', greedy=True
    )
    shown = session.step("ticket_zeigen", f'{{"ticket": {ticket}}}', greedy=True)
    lines = shown.content.split("\n")
    assert lines[0] == f"Ticket: {ticket}"
    assert {"Betreff: Leitung rauscht", "Team: Technik"} <= set(lines)
    assert [m.path for m in shown.provenance] == [""]
