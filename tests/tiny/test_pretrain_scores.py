"""What the evaluation of the tiny model counts as right."""

import pytest

from tiny_corpus import generate
from tiny_pretrain.evaluate import Case, cases, is_right


def _case(expected: str, whole: bool) -> Case:
    return Case(("compare",), "compare", "", expected, [], whole)


@pytest.mark.parametrize("text", ["Answer: B", "A or B", "AB", "", "B<|cut|>"])
def test_only_the_whole_answer_is_right(text: str) -> None:
    assert is_right(_case("B", whole=True), " B\n")
    assert not is_right(_case("B", whole=True), text)


def test_a_free_sentence_must_hold_the_value_as_a_word_of_its_own() -> None:
    case = _case("798", whole=False)
    assert is_right(case, "LRV683G: power 798, brand Jott")
    assert not is_right(case, "power 1798")
    assert not is_right(case, "power 798 798 798<|cut|>")


def test_compare_probes_ask_for_the_whole_answer_and_the_truth_is_right() -> None:
    held = [c for c in cases(2) if isinstance(c.expected, str)]
    assert {c.whole for c in held if c.family == "compare"} == {True}
    for case in held:
        assert is_right(case, str(case.expected))
    for seed in range(60):
        dialogue = generate(seed, "heldout")
        for probe in dialogue.probes:
            said = dialogue.messages[probe.message].get("content") or ""
            if isinstance(probe.expected, str):
                assert is_right(_case(probe.expected, said == probe.expected), said), said
