import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.chatml import IM_END, ChatMLRenderer
from understudy.core.rows import (
    Entry,
    Row,
    RowStats,
    policy_rows,
    rows_of,
    supervised_rows,
    trim,
    unheard,
)
from understudy.core.types import Completion, Episode, ModelRef, Request

WORDS = ["<|im_start|>", IM_END, "<tool_call>", "</tool_call>", "<tool_response>"]


def encode(text):
    """A stand-in tokenizer: the format's markers are one token each, the rest one per character."""
    ids = []
    while text:
        word = next((w for w in WORDS if text.startswith(w)), text[0])
        ids.append(WORDS.index(word) if word in WORDS else 100 + ord(word))
        text = text[len(word) :]
    return ids


def decode(ids):
    return "".join(WORDS[i] if i < 100 else chr(i - 100) for i in ids)


RENDERER = ChatMLRenderer(encode, decode)


def turn(name, prompt, output, purpose="agent"):
    return Completion(
        id=name,
        request=Request(messages=(), model=ModelRef("m"), purpose=purpose),
        status="ok",
        prompt_ids=tuple(prompt),
        output_ids=tuple(output),
        logprobs=tuple(-0.1 * (i + 1) for i in range(len(output))),
    )


def marked(row):
    """The row as text, trained targets in brackets: a mask that can be read."""
    targets = {e.position + 1 for e in row.entries}
    parts, inside = [], False
    for i, token in enumerate(row.ids):
        if (i in targets) != inside:
            parts.append("]" if inside else "[")
            inside = not inside
        parts.append(decode([token]))
    return "".join(parts) + ("]" if inside else "")


def test_a_turn_joins_only_on_an_exact_prefix():
    first = turn("a", [1, 2], [3, 4])
    joins = turn("b", [1, 2, 3, 4, 5], [6])
    rewritten = turn("c", [1, 2, 3, 9, 5, 6, 7], [8])
    rows, stats = rows_of([first, joins, rewritten])
    assert [r.ids for r in rows] == [(1, 2, 3, 4, 5, 6), (1, 2, 3, 9, 5, 6, 7, 8)]
    assert [[(s.start, s.end, s.completion_id) for s in r.spans] for r in rows] == [
        [(2, 4, "a"), (5, 6, "b")],
        [(7, 8, "c")],
    ]
    assert stats == RowStats(turns=3, rows=2, joined=1, broken=1, tokens=14)


def test_one_token_short_of_the_sample_does_not_join():
    rows, stats = rows_of([turn("a", [1, 2], [3, 4]), turn("b", [1, 2, 3], [5])])
    assert len(rows) == 2
    assert stats.joined == 0


def test_interleaved_agents_keep_a_row_each():
    turns = [
        turn("a1", [1], [2]), turn("b1", [7], [8]), turn("a2", [1, 2, 3], [4]),
        turn("b2", [7, 8, 9], [5]),
    ]  # fmt: skip
    rows, stats = rows_of(turns)
    assert [r.ids for r in rows] == [(1, 2, 3, 4), (7, 8, 9, 5)]
    assert (stats.joined, stats.broken) == (2, 1)


def test_policy_rows_train_each_sampled_token_once_and_nobody_elses():
    silent = Completion("s", Request((), ModelRef("m")), "upstream_error")
    turns = (turn("a", [1, 2], [3, 4]), turn("u", [5], [6], purpose="user"), silent,
             turn("b", [1, 2, 3, 4, 5], [6, 7]))  # fmt: skip
    rows, stats = policy_rows(Episode("e", turns), 0.5)
    assert rows == [
        Row(
            (1, 2, 3, 4, 5, 6, 7),
            (
                Entry(1, 3, "rl", 0.5, -0.1, "e"),
                Entry(2, 4, "rl", 0.5, -0.2, "e"),
                Entry(4, 6, "rl", 0.5, -0.1, "e"),
                Entry(5, 7, "rl", 0.5, -0.2, "e"),
            ),
        )
    ]
    assert (stats.turns, stats.rows, stats.trained, stats.without_ids) == (2, 1, 4, 1)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 3), min_size=1, max_size=4),
            st.lists(st.integers(0, 3), min_size=1, max_size=4),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_the_mask_sums_to_the_sampled_tokens_however_history_breaks(parts):
    turns, history = [], []
    for i, (new, output, keeps) in enumerate(parts):
        prompt = (history if keeps else history[1:]) + new
        turns.append(turn(f"t{i}", prompt, output))
        history = [*prompt, *output]
    rows, stats = policy_rows(Episode("e", tuple(turns)), 2.0)
    sampled = [(t, lp) for c in turns for t, lp in zip(c.output_ids, c.logprobs, strict=True)]
    entries = [e for r in rows for e in r.entries]
    assert sorted((e.target, e.anchor) for e in entries) == sorted(sampled)
    assert all(r.ids[e.position + 1] == e.target for r in rows for e in r.entries)
    assert sum(e.weight for e in entries) == 2.0 * len(sampled)
    assert stats.joined + stats.rows == stats.turns == len(turns)


def test_missing_logprobs_are_refused():
    bare = Completion("c", Request((), ModelRef("m")), "ok", prompt_ids=(1,), output_ids=(2,))
    with pytest.raises(ValueError, match="no recorded logprobs"):
        policy_rows(Episode("e", (bare,)), 1.0)
    short = Completion("c", bare.request, "ok", None, None, prompt_ids=(1,), output_ids=(2, 3),
                       logprobs=(-1.0,))  # fmt: skip
    with pytest.raises(ValueError, match="2 ids and 1 logprobs"):
        rows_of([short])


def test_long_rows_are_refused_or_cut_and_counted():
    episode = Episode("e", (turn("a", [1, 2], [3, 4]), turn("b", [9], [8])))
    rows, stats = policy_rows(episode, 1.0, max_tokens=3)
    assert [r.ids for r in rows] == [(9, 8)]
    assert (stats.refused_rows, stats.refused_entries, stats.trained, stats.rows) == (1, 2, 1, 1)
    rows, stats = policy_rows(episode, 1.0, max_tokens=3, too_long="cut")
    assert [(r.ids, len(r.entries)) for r in rows] == [((1, 2, 3), 1), ((9, 8), 1)]
    assert (stats.cut_rows, stats.cut_entries, stats.trained) == (1, 1, 2)
    rows, stats = policy_rows(episode, 1.0, max_tokens=1, too_long="cut")
    assert rows == []
    assert stats.untrainable >= 1


CALL = {"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"n": 1}'}}
TALK = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "one sec", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "[7]"},
    {"role": "tool", "tool_call_id": "d", "content": "[8]"},
    {"role": "assistant", "content": "it is 7"},
    {"role": "user", "content": "thanks"},
)


def test_golden_mask_of_assistant_turns():
    (row,), stats = supervised_rows(TALK, (), RENDERER)
    assert marked(row) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
        '[one sec\n<tool_call>\n{"name": "find", "arguments": {"n": 1}}\n</tool_call><|im_end|>]\n'
        "<|im_start|>user\n<tool_response>\n[7]\n</tool_response>\n"
        "<tool_response>\n[8]\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n[it is 7<|im_end|>]"
    )
    assert stats.trained == len(row.entries)
    assert {(e.stream, e.weight, e.anchor) for e in row.entries} == {("ce", 1.0, None)}


def test_golden_masks_of_other_roles():
    (row,), _ = supervised_rows(TALK, (), RENDERER, train_roles=("user",))
    assert marked(row) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n[<|im_start|>user\nhi<|im_end|>\n]"
        "<|im_start|>assistant\n"
        'one sec\n<tool_call>\n{"name": "find", "arguments": {"n": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n[7]\n</tool_response>\n"
        "<tool_response>\n[8]\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nit is 7<|im_end|>\n[<|im_start|>user\nthanks<|im_end|>\n]"
    )
    (row,), _ = supervised_rows(TALK, (), RENDERER, train_roles=("tool",), weight=0.1)
    trained = "".join(decode([e.target]) for e in row.entries)
    assert trained.count("</tool_response>") == 2
    assert "[7]" in trained
    assert "[8]" in trained
    assert "one" not in trained


def test_supervised_ids_are_what_inference_feeds():
    (row,), _ = supervised_rows(TALK[:-1], (), RENDERER)
    fed = RENDERER.prompt_ids(TALK[:2], ())
    assert list(row.ids[: len(fed)]) == fed
    assert decode(row.ids) == decode(RENDERER.prompt_ids(TALK[:-1], ())).removesuffix(
        "\n<|im_start|>assistant\n"
    )


def test_what_stands_between_replies_is_heard():
    plain, _ = supervised_rows(TALK, (), RENDERER)
    slipped = [{**m, "weight": 0} if m.get("content") == "it is 7" else m for m in TALK]
    more = [*slipped, {"role": "assistant", "content": "bye"}, {"role": "user", "content": "?"}]
    between = (
        "\n<|im_start|>user\n<tool_response>\n[7]\n</tool_response>\n"
        "<tool_response>\n[8]\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    after = "\n<|im_start|>user\nthanks<|im_end|>\n<|im_start|>assistant\n"
    for talk, heard in ((TALK, between), (slipped, ""), (more, between + after)):
        (row,), _ = supervised_rows(talk, (), RENDERER, echo=0.1)
        marks = [e for e in row.entries if e.heard]
        assert decode([e.target for e in marks]) == heard
        assert {(e.stream, e.weight, e.anchor) for e in marks} <= {("ce", 0.1, None)}
        assert all(row.ids[e.position + 1] == e.target for e in marks)
        assert [unheard(row)] == supervised_rows(talk, (), RENDERER)[0]
    assert not any(e.heard for e in plain[0].entries)


def test_what_stands_between_samples_is_heard():
    turns = (turn("a", [1, 2], [3, 4]), turn("b", [1, 2, 3, 4, 5, 6], [7]))
    (row,), _ = policy_rows(Episode("e", turns), 0.5, echo=0.1)
    assert [e for e in row.entries if e.heard] == [
        Entry(3, 5, "ce", 0.1, None, "e", heard=True),
        Entry(4, 6, "ce", 0.1, None, "e", heard=True),
    ]
    assert [unheard(row)] == policy_rows(Episode("e", turns), 0.5)[0]


def test_nothing_to_train_is_counted():
    rows, stats = supervised_rows(TALK[:2], (), RENDERER)
    assert (rows, stats.untrainable) == ([], 1)


def test_trim_keeps_what_entries_look_at():
    row = Row((1, 2, 3, 4, 5), (Entry(0, 2, "ce", 1.0), Entry(3, 5, "ce", 0.0)))
    assert trim(row) == Row((1,), (Entry(0, 2, "ce", 1.0),))
    assert trim(Row((1, 2))) == Row(())


def test_entries_outside_the_row_are_refused():
    with pytest.raises(ValueError, match="position 2"):
        Row((1, 2), (Entry(2, 1, "ce", 1.0),))
