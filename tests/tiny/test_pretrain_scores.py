"""What the evaluation of the tiny model counts as right."""

import json

import pytest

from tiny_pretrain.evaluate import Case, cases, is_right, is_valid


@pytest.mark.parametrize("text", ["Answer: B", "A or B", "AB", "", "B<|cut|>"])
def test_only_the_whole_answer_is_right(text: str) -> None:
    case = Case(("compare",), "compare", "", "B", [])
    assert is_right(case, " B\n")
    assert not is_right(case, text)


def test_validity_is_asked_of_calls_alone_and_the_truth_is_right_and_valid() -> None:
    held = cases(3)
    assert {"copy", "bind", "choice", "rule", "talk"} <= {c.figures[0] for c in held}
    for case in held:
        if isinstance(case.expected, str):
            assert "valid" not in case.figures
            assert is_right(case, case.expected)
            continue
        assert "valid" in case.figures
        text = f"<tool_call>\n{json.dumps(case.expected)}\n</tool_call>"
        assert is_right(case, text)
        assert is_valid(case, text)
        assert not is_valid(case, text + "<|cut|>")
