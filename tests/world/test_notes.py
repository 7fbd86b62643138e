"""Notes beside what users say: they hold what it says, nothing else, and come off again."""

import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from understudy.core.types import Message
from understudy.world.users.notes import NotedUser, Notes, without
from understudy.world.users.wording import Votes

TICKET = {"/ticket/town": "Arden", "/ticket/size": 4, "/ticket/days": 6, "/ticket/cards/0": "visa"}
KINDS = ["/ticket/town", "/ticket/size", "/ticket/days", "/ticket/cards/#"]


def notes() -> Notes:
    votes = Votes()
    for size, days in ((2, 5), (3, 7), (4, 6)):
        votes.learn(f"{size} people, {days} days", {"/ticket/size": size, "/ticket/days": days})
    return Notes(KINDS, votes)


def read(text: str) -> dict[str, object]:
    return dict(json.loads(text.rpartition("[said] ")[2]))


def test_a_note_holds_what_its_message_says_and_nothing_else() -> None:
    assert read(notes().beside("four people in Arden", TICKET)) == {"size": 4, "town": "Arden"}
    assert read(notes().beside("take the cheapest", TICKET)) == {}
    assert read(notes().beside("by Visa please", TICKET)) == {"cards/0": "visa"}


def test_equal_values_are_told_apart_by_their_surroundings() -> None:
    same = {**TICKET, "/ticket/size": 3, "/ticket/days": 3}
    assert read(notes().beside("it is for 3 days", same)) == {"days": 3}
    assert read(notes().beside("we are 3 people", same)) == {"size": 3}


def test_a_word_for_a_number_names_none_where_tickets_of_other_numbers_say_it_too() -> None:
    votes, texts = Votes(), ["the biggest one please", "{} days, the biggest one", "for {} days"]
    for n in (1, 2, 3):
        for text in texts:
            votes.hear(text.format(["one", "two", "three"][n - 1]), {"/ticket/days": n})
    own, ticket = Notes(KINDS, votes), {"/ticket/days": 1}
    assert read(own.beside("the biggest one please", ticket)) == {}
    assert read(own.beside("to Arden, the biggest one", ticket)) == {}
    assert read(own.beside("one day", ticket)) == {"days": 1}
    assert read(own.beside("for one day, the biggest one", ticket)) == {"days": 1}
    assert read(own.beside("two days", {"/ticket/days": 2})) == {"days": 2}
    assert read(Notes(KINDS, Votes()).beside("one please", ticket)) == {"days": 1}


def test_fields_that_no_user_says_are_not_noted() -> None:
    hidden = {**TICKET, "/ticket/secret": "Arden"}
    assert read(notes().beside("to Arden", hidden)) == {"town": "Arden"}
    assert read(Notes(["/ticket/secret"], Votes()).beside("to Arden", TICKET)) == {}


def test_a_reading_asks_what_a_message_says_and_answers_it() -> None:
    asked, answer = notes().reading({"role": "user", "content": "to Arden, 6 days"}, TICKET)
    assert asked == {"role": "user", "content": "to Arden, 6 days\n[said]"}
    assert answer == {"role": "assistant", "content": '{"days": 6, "town": "Arden"}'}


def test_a_note_holds_what_a_clause_says_in_words_of_its_own() -> None:
    implied = {"as cheap as possible": [("/ticket/prefer", "cheapest")]}
    own = Notes(KINDS, Votes(), implied)
    text = "To Arden, as cheap as possible"
    assert read(own.beside(text, {**TICKET, "/ticket/prefer": "cheapest"})) == {
        "prefer": "cheapest",
        "town": "Arden",
    }
    # a ticket that says otherwise is not contradicted
    assert read(own.beside(text, {**TICKET, "/ticket/prefer": "largest"})) == {"town": "Arden"}


texts = st.text() | st.sampled_from(["4 people\n[said] {}", "", "\n[said] ", "Arden, 6 days"])


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), texts)))
def test_notes_come_off_again(said: list[tuple[str, str]]) -> None:
    messages: list[Message] = [{"role": role, "content": text} for role, text in said]  # type: ignore[typeddict-item]
    noted = notes().add(messages, TICKET)
    assert without(noted) == messages
    assert [m for m in noted if m["role"] != "user"] == [m for m in messages if m["role"] != "user"]


async def test_a_user_never_sees_a_note_and_its_replies_have_one() -> None:
    seen: list[Sequence[Message]] = []

    class Plain:
        async def reply(self, messages: Sequence[Message]) -> Message | None:
            seen.append(messages)
            return {"role": "user", "content": "6 days"} if len(seen) == 1 else None

    user = NotedUser(Plain(), notes(), TICKET)
    first = notes().add([{"role": "user", "content": "to Arden"}], TICKET)
    reply = await user.reply(first)
    assert reply is not None
    assert read(str(reply["content"])) == {"days": 6}
    assert await user.reply([*first, reply]) is None
    assert [[m["content"] for m in ms] for ms in seen] == [["to Arden"], ["to Arden", "6 days"]]
