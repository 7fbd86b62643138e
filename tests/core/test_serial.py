import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from vocabulary_strategies import completions, episodes, feedback, scenarios

from understudy.core import serial
from understudy.core.types import Deployment, ModelRef, Policy, Sampling


def through_json(value: Any, encode: Callable[..., Any], decode: Callable[..., Any]) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


@given(completions())
def test_completion_round_trip(value: Any) -> None:
    assert through_json(value, serial.completion_to_json, serial.completion_from_json) == value


@given(feedback())
def test_feedback_round_trip_keeps_the_kind_of_its_value(value: Any) -> None:
    back = through_json(value, serial.feedback_to_json, serial.feedback_from_json)
    assert back == value
    assert type(back.value) is type(value.value)


@settings(max_examples=50)
@given(episodes())
def test_episode_round_trip(value: Any) -> None:
    assert through_json(value, serial.episode_to_json, serial.episode_from_json) == value


@given(scenarios)
def test_scenario_round_trip(value: Any) -> None:
    assert through_json(value, serial.scenario_to_json, serial.scenario_from_json) == value


def test_deployment_round_trip() -> None:
    policies = (
        Policy("a", ModelRef("b", "c", 2), "be kind", Sampling(0.0)),
        Policy("d", ModelRef("e")),
    )
    value = Deployment("prod", ((policies[0], 0.25), (policies[1], 0.75)), 7)
    assert through_json(value, serial.deployment_to_json, serial.deployment_from_json) == value


def test_false_is_not_taken_for_a_default() -> None:
    """A default is left out only by a value of its own type: 0 and False are equal in Python."""
    data = {"id": "f", "episode_id": "e", "name": "n", "value": False, "source": "user"}
    assert serial.feedback_to_json(serial.feedback_from_json(data)) == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"id": "s", "messages": [], "colour": 1}, "no field colour"),
        ({"id": "s"}, "needs messages"),
        ([], "must be a JSON object"),
    ],
)
def test_what_is_unknown_or_missing_is_named(data: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        serial.scenario_from_json(data)
