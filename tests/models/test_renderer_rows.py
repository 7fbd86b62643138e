"""Golden masks of each chat format, and what is read in sampled text."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families import tokenizer_of
from understudy.core.llama import Llama3Renderer
from understudy.core.qwen import Qwen3NoThinkRenderer, Qwen3Renderer, Qwen25Renderer
from understudy.core.rows import Row, policy_rows, supervised_rows
from understudy.core.turns import FormatError, TurnRenderer
from understudy.core.types import Completion, Episode, ModelRef, Request
from understudy.models.rendering import over

QWEN = over(tokenizer_of("qwen2_5"), Qwen25Renderer)
QWEN3 = over(tokenizer_of("qwen3"), Qwen3Renderer)
NO_THINK = over(tokenizer_of("qwen3"), Qwen3NoThinkRenderer)
LLAMA = over(tokenizer_of("llama3_1"), Llama3Renderer)
PLAIN, FULL = [QWEN, LLAMA, NO_THINK], [QWEN, LLAMA, QWEN3]


def call(arguments: str, name: str = "look_up", ident: str = "call_0") -> Any:
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


TALK: list[Any] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "", "tool_calls": [call('{"n": 1}')],
     "reasoning_content": "hm"},
    {"role": "tool", "tool_call_id": "c", "content": "7"},
    {"role": "assistant", "content": "it is 7", "reasoning_content": "so"},
    {"role": "user", "content": "thanks"},
    {"role": "assistant", "content": "bye"},
]  # fmt: skip


def marked(renderer: TurnRenderer, row: Row) -> str:
    """The row as text, trained targets in double brackets: a mask that can be read."""
    targets = {e.position + 1 for e in row.entries}
    text, inside, piece = "", False, list[int]()
    for i, token in enumerate((*row.ids, -1)):
        if (i in targets) != inside or token < 0:
            text += renderer.decode(piece) + ("" if token < 0 else "]]" if inside else "[[")
            inside, piece = not inside, []
        piece.append(token)
    return text + ("]]" if len(row.ids) - 1 in targets else "")


def sampled(renderer: TurnRenderer, talk: list[Any], tools: Any = ()) -> Episode:
    """The talk as an engine would have played it, each assistant's message sampled."""
    done, fed, new = list[Completion](), list[int](), list[Any]()
    for message in talk:
        if message["role"] != "assistant":
            new.append(message)
            continue
        if fed:
            prompt = renderer.next_prompt_ids(fed, new, "stop")
        else:
            prompt = renderer.prompt_ids(new, tools)
        output = renderer.assistant_ids(message)
        fed, new = [*prompt, *output], []
        done.append(
            Completion(
                f"c{len(done)}", Request((), ModelRef("m")), "ok", prompt_ids=tuple(prompt),
                output_ids=tuple(output), logprobs=(-1.0,) * len(output),
            )
        )  # fmt: skip
    return Episode("e", tuple(done))


def masks(renderer: TurnRenderer, talk: list[Any] = TALK) -> list[str]:
    """The masks of the talk as sampled; taught, it has the same."""
    episode = sampled(renderer, talk)
    rows, stats = policy_rows(episode, 1.0)
    outputs = sum(len(c.output_ids or ()) for c in episode.completions)
    assert sum(len(r.entries) for r in rows) == stats.trained == outputs
    taught, counted = supervised_rows(talk, (), renderer)
    assert [r.ids for r in taught] == [r.ids for r in rows]
    assert [[e[:2] for e in r.entries] for r in taught] == [
        [e[:2] for e in r.entries] for r in rows
    ]
    assert counted.broken == stats.broken == len(rows) - 1
    return [marked(renderer, r) for r in rows]


CALLED = '<tool_call>\n{"name": "look_up", "arguments": {"n": 1}}\n</tool_call>'
ASKED = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
RESULT = "\n<|im_start|>user\n<tool_response>\n7\n</tool_response><|im_end|>\n"
THANKS = "\n<|im_start|>user\nthanks<|im_end|>\n<|im_start|>assistant\n"
TURN = "<|im_start|>assistant\n"


def test_golden_masks_of_qwen() -> None:
    assert masks(QWEN) == [
        f"{ASKED}{TURN}[[{CALLED}<|im_end|>]]{RESULT}{TURN}[[it is 7<|im_end|>]]"
        f"{THANKS}[[bye<|im_end|>]]"
    ]


def test_golden_masks_of_qwen3_thoughts_are_trained_once_and_forgotten() -> None:
    """Results of tools continue the row with its thoughts; the user's next message ends it."""
    assert masks(QWEN3) == [
        f"{ASKED}{TURN}[[<think>\nhm\n</think>\n\n{CALLED}<|im_end|>]]{RESULT}"
        f"{TURN}[[<think>\nso\n</think>\n\nit is 7<|im_end|>]]",
        f"{ASKED}{TURN}{CALLED}<|im_end|>{RESULT}{TURN}it is 7<|im_end|>{THANKS}"
        "[[<think>\n\n</think>\n\nbye<|im_end|>]]",
    ]


def test_golden_masks_without_thinking_each_turn_is_a_row() -> None:
    """The published template shows the empty block in the prompt and never in history."""
    empty = "<think>\n\n</think>\n\n"
    assert masks(NO_THINK) == [
        f"{ASKED}{TURN}{empty}[[{CALLED}<|im_end|>]]",
        f"{ASKED}{TURN}{CALLED}<|im_end|>{RESULT}{TURN}{empty}[[it is 7<|im_end|>]]",
        f"{ASKED}{TURN}{CALLED}<|im_end|>{RESULT}{TURN}it is 7<|im_end|>{THANKS}{empty}"
        "[[bye<|im_end|>]]",
    ]


def test_golden_masks_of_llama() -> None:
    head = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    date = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    assert masks(LLAMA) == [
        f"<|begin_of_text|>{head('system')}{date}Be kind.<|eot_id|>{head('user')}hi<|eot_id|>"
        f'{head("assistant")}[[{{"name": "look_up", "parameters": {{"n": 1}}}}<|eot_id|>]]'
        f'{head("ipython")}"7"<|eot_id|>{head("assistant")}[[it is 7<|eot_id|>]]'
        f"{head('user')}thanks<|eot_id|>{head('assistant')}[[bye<|eot_id|>]]"
    ]


@pytest.mark.parametrize("renderer", [*FULL, NO_THINK], ids=lambda r: r.name)
def test_other_roles_are_trained_on_what_they_add(renderer: TurnRenderer) -> None:
    rows, _ = supervised_rows(TALK, (), renderer, train_roles=("user", "tool"))
    trained = "".join(renderer.decode([e.target for e in r.entries]) for r in rows)
    for text in ("hi", "7", "thanks"):
        assert trained.count(text) == 1
    assert "kind" not in trained
    assert "look_up" not in trained
    assert "bye" not in trained


def test_the_first_message_is_trained_on_without_what_the_format_says_before_it() -> None:
    (row,), _ = supervised_rows(TALK, (), LLAMA, train_roles=("system",))
    assert LLAMA.decode([e.target for e in row.entries]) == "Be kind.<|eot_id|>"


@pytest.mark.parametrize("renderer", FULL, ids=lambda r: r.name)
def test_a_cut_sample_and_another_stop_token_end_as_the_format_ends_a_turn(
    renderer: TurnRenderer,
) -> None:
    prompt = renderer.prompt_ids(TALK[:2], ())
    new = [{"role": "user", "content": "go on"}]
    text = renderer.encode("it is")
    whole = renderer.next_prompt_ids([*prompt, *text, renderer.stop_ids[0]], new, "stop")  # type: ignore[list-item]
    assert whole[: len(prompt) + len(text) + 1] == [*prompt, *text, renderer.stop_ids[0]]
    for end in ([], [renderer.stop_ids[1]]):
        assert renderer.next_prompt_ids([*prompt, *text, *end], new, "length") == whole  # type: ignore[list-item]


def test_what_was_sampled_beside_a_thought_is_not_tokenised_again() -> None:
    odd = [QWEN3.encode(c)[0] for c in "hello"]  # five tokens that one text would not give
    assert odd != QWEN3.encode("hello")
    block = QWEN3.encode("<think>\nhm\n</think>\n\n")
    prompt = QWEN3.prompt_ids(TALK[:2], ())
    fed = [*prompt, *block, *odd, QWEN3.stop_ids[0]]
    nxt = QWEN3.next_prompt_ids(fed, TALK[5:6], "stop")
    assert nxt[: len(prompt) + len(odd)] == [*prompt, *odd]
    tool = QWEN3.next_prompt_ids(fed, TALK[3:4], "stop")
    assert tool[: len(fed)] == fed


def test_a_sample_that_ended_while_it_thought_leaves_nothing_in_history() -> None:
    prompt = QWEN3.prompt_ids(TALK[:2], ())
    output = QWEN3.encode("<think>\nI wond")
    assert QWEN3.parse(output) == {
        "role": "assistant", "content": "", "reasoning_content": "I wond"
    }  # fmt: skip
    nxt = QWEN3.decode(QWEN3.next_prompt_ids([*prompt, *output], TALK[5:6], "length"))
    assert nxt == f"{ASKED}{TURN}<|im_end|>{THANKS}"


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("hello { there", "hello { there", []),
        ('{"a": 1}', '{"a": 1}', []),
        ('{"name": "f", "parameters": {"n": 1}}', None, [("f", '{"n": 1}')]),
        ('<|python_tag|>{"name": "f", "arguments": {}}', None, [("f", "{}")]),
        ('{"type": "function", "name": "f", "parameters": {}}', None, [("f", "{}")]),
        ('{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"é": 2}}', None,
         [("f", "{}"), ("g", '{"é": 2}')]),
        ('{"name": "f", "parameters": {"n": ', None, [("f", '{"name": "f", "parameters": {"n":')]),
        ('{"name": "f", "parameters": {"n": NaN}}', None,
         [("f", '{"n": NaN}')]),
        ('{"name": "f", "parameters": ' + "[" * 5000, None,
         [("f", '{"name": "f", "parameters": ' + "[" * 5000)]),
    ],
)  # fmt: skip
def test_what_is_read_in_a_llamas_text(text: str, content: str | None, calls: list[Any]) -> None:
    message = LLAMA.parse([*LLAMA.encode(text), LLAMA.stop_ids[1]])
    read = [c["function"] for c in message.get("tool_calls", [])]
    assert [(f["name"], f["arguments"]) for f in read] == calls
    assert message["content"] == content


def test_a_broken_call_of_a_qwen_keeps_its_text() -> None:
    for renderer in (QWEN, QWEN3):
        message = renderer.parse(renderer.encode('ok\n<tool_call>\n{"name": "f", "argu'))
        (broken,) = message["tool_calls"]
        assert (broken["function"]["name"], message["content"]) == ("f", "ok")
        assert broken["function"]["arguments"] == '{"name": "f", "argu'


TEXT = st.text("ab é{}\n\"'", max_size=8).map(lambda t: t.strip())
GIVEN = st.dictionaries(st.text("ké", min_size=1), st.integers() | TEXT | st.none(), max_size=3)


@pytest.mark.parametrize("renderer", [*FULL, NO_THINK], ids=lambda r: r.name)
@given(TEXT, TEXT, st.lists(GIVEN, max_size=2))
@settings(max_examples=60)
def test_what_is_said_is_read_back(
    renderer: TurnRenderer, content: str, thought: str, given: list[Any]
) -> None:
    if renderer is LLAMA:
        given = given[:1]
        content = "" if given else content.replace("{", "(")
    calls = [call(json.dumps(a, ensure_ascii=False), "f", f"call_{i}") for i, a in enumerate(given)]
    message: Any = {"role": "assistant", "content": content or (None if calls else "")}
    message |= {"tool_calls": calls} if calls else {}
    message |= {"reasoning_content": thought} if thought and renderer is QWEN3 else {}
    assert renderer.parse(renderer.assistant_ids(message)) == message


def test_what_a_format_cannot_say_is_refused_in_one_line() -> None:
    several: Any = {"role": "assistant", "content": "", "tool_calls": [call("{}"), call("{}")]}
    with pytest.raises(FormatError, match="one tool call a message"):
        LLAMA.assistant_ids(several)
    with pytest.raises(FormatError, match="there is none"):
        LLAMA.prompt_ids(TALK[:1], [{"type": "function", "function": {"name": "f"}}])
    for renderer in FULL:
        with pytest.raises(FormatError, match="no role 'narrator'"):
            renderer.prompt_ids([{"role": "narrator", "content": ""}], ())  # type: ignore[typeddict-item]
