"""Conversations side by side."""

from typing import Any

from understudy.runs.conversations import Conversation, compare


def test_calls_of_custom_tools_are_shown_with_their_free_text() -> None:
    def talk(text: str) -> Conversation:
        call: Any = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": text}}
        result: Any = {"role": "tool", "tool_call_id": "c", "content": f"did {text}"}
        return Conversation(text, ({"role": "assistant", "tool_calls": [call]}, result))

    view = compare([talk("one"), talk("two")])
    shown = [turns[0].calls[0] for _, turns in view.columns]
    assert [(c.name, c.arguments, c.result) for c in shown] == [
        ("patch", (("", "one", True),), "did one"),
        ("patch", (("", "two", True),), "did two"),
    ]
