"""What is replaced in data, and what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.world.data.scrub import Scrub


@given(st.lists(st.text("ab12", min_size=1, max_size=3), unique=True, max_size=30))
def test_different_texts_stay_different(texts: list[str]) -> None:
    scrub = Scrub(b"k", ["n"])
    scrub.collect({"n": t} for t in texts)
    made = [scrub.of(t) for t in texts]
    assert len(set(made)) == len(texts)
    assert all(a != b for a, b in zip(made, texts, strict=True))
    assert [scrub.of(t) for t in texts] == made


@pytest.mark.parametrize(
    "text",
    ["2024-05-20", "20.05.2024", "2024-05-20T10:30:00Z", "12345.6789", "ORD-2024-00123", "R-12345",
     "550e8400-e29b-41d4-a716-446655440000", "1234567890", "10:30", "1234567890123", "v10.2"],
)  # fmt: skip
def test_what_is_no_phone_or_card_stays(text: str) -> None:
    assert Scrub(b"k").of({"x": [text]}) == {"x": [text]}


@pytest.mark.parametrize(
    "text", ["+4915112345678", "(030) 555-0199", "030 555 0199", "4111111111111111", "078-05-1120"]
)
def test_numbers_of_phones_and_cards_keep_their_form(text: str) -> None:
    made = Scrub(b"k").of(f"see {text}, please")
    assert text not in made
    form = ["0" if c.isdigit() else c for c in f"see {text}, please"]
    assert ["0" if c.isdigit() else c for c in made] == form
