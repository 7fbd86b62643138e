from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from understudy.core.forest import (
    MessageForest,
    canonical_message,
    conversations,
    final_conversations,
    history_key,
)
from understudy.core.types import Completion, ModelRef, Request

TOOL = {"type": "function", "function": {"name": "find"}}


def say(role, content):
    return {"role": role, "content": content}


def completion(name, messages, reply, tools=()):
    request = Request(tuple(messages), ModelRef("m"), tuple(tools))
    message = None if reply is None else say("assistant", reply)
    return Completion(name, request, "ok", message)


def test_turns_of_one_conversation_share_their_history():
    first = [say("system", "s"), say("user", "1")]
    second = [*first, say("assistant", "a"), say("user", "2")]
    done = [completion("x", first, "a"), completion("y", second, "b")]
    forest = MessageForest.of(done)
    assert len(forest) == 5
    assert forest.messages_added == 8
    (conversation,) = forest.conversations()
    assert [m["content"] for m in conversation.messages] == ["s", "1", "a", "2", "b"]
    assert [c.id for c in conversation.completions] == ["x", "y"]
    assert conversation.key == history_key(conversation.messages)
    assert conversation.system == say("system", "s")
    forest.add(done[0])
    assert (len(forest), forest.messages_added) == (5, 8)


def test_interleaved_agents_retries_and_changed_prompts_part():
    a1, b1 = [say("system", "A"), say("user", "1")], [say("system", "B"), say("user", "1")]
    a2 = [*a1, say("assistant", "x"), say("user", "2")]
    done = [
        completion("a1", a1, "x"), completion("b1", b1, "y"), completion("a2", a2, "z"),
        completion("a1 again", a1, "other"), completion("never", b1, None),
        completion("tools", a1, "x", tools=[TOOL]),
    ]  # fmt: skip
    found = {tuple(c.id for c in conv.completions) for conv in conversations(done)}
    assert found == {("a1", "a2"), ("b1",), ("a1 again",), ("tools",)}
    assert len(MessageForest.of(done).roots) == 2
    unanswered = conversations([completion("n", a1, None)])
    assert [c.id for c in unanswered[0].completions] == ["n"]


def test_messages_that_say_the_same_are_the_same():
    call = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    same = [
        {"role": "assistant", "content": None, "tool_calls": call, "refusal": None},
        {"role": "assistant", "tool_calls": call},
        {"role": "assistant", "content": "", "tool_calls": call},
    ]
    assert len({history_key([m]) for m in same}) == 1
    assert canonical_message(say("user", [{"type": "text", "text": "hi"}])) == say("user", "hi")
    assert history_key([say("user", "")]) != history_key([{"role": "user"}])
    other = [{**call[0], "function": {"name": "f", "arguments": "{ }"}}]
    assert history_key([{"role": "assistant", "tool_calls": other}]) != history_key(same[:1])
    assert history_key([], [TOOL]) != history_key([])


messages = st.lists(
    st.builds(say, st.sampled_from(["user", "assistant"]), st.sampled_from("ab")), max_size=4
)


@given(st.lists(messages, min_size=1, max_size=8))
def test_equal_keys_mean_equal_history(histories):
    forest = MessageForest.of(completion(str(i), h, "r") for i, h in enumerate(histories))
    whole = [[*h, say("assistant", "r")] for h in histories]
    beginnings = {str(h[:n]) for h in whole for n in range(1, len(h) + 1)}
    assert len(forest) == len(beginnings)
    for h in whole:
        node, path = forest[history_key(h)], []
        while node.parent is not None:
            path.append(node.message)
            node = node.parent
        assert path[::-1] == h


def contents(found):
    return [[m["content"] for m in one.messages] for one in found]


def test_each_agent_is_heard_once_as_it_ended():
    a1, b1 = [say("system", "A"), say("user", "1")], [say("system", "B"), say("user", "1b")]
    a2 = [say("system", "A, later"), *a1[1:], say("assistant", "x"), say("user", "2")]
    done = [completion("a1", a1, "x"), completion("b1", b1, "y"), completion("a2", a2, "z")]
    found = final_conversations(done)
    assert contents(found) == [["B", "1b", "y"], ["A, later", "1", "x", "2", "z"]]
    assert [[c.id for c in one.completions] for one in found] == [["b1"], ["a2"]]


def test_of_a_reply_that_was_generated_again_the_last_counts_and_cut_ones_do_not():
    first = [say("system", "s"), say("user", "1")]
    cut = replace(completion("c", first, "hal"), status="client_disconnected")
    done = [completion("a", first, "no"), completion("b", first, "yes"), cut]
    assert contents(final_conversations(done)) == [["s", "1", "yes"]]
    assert final_conversations([cut]) == []
    assert final_conversations([completion("n", first, None)]) == []


def test_agents_with_one_prompt_and_different_tasks_stay_apart():
    done = [
        completion(name, [say("system", "s"), say("user", name)], "done") for name in ("a", "b")
    ]
    assert contents(final_conversations(done)) == [["s", "a", "done"], ["s", "b", "done"]]
