"""Beginnings and ends of things in a traffic whose state lasts (world.known.order)."""

from dataclasses import dataclass, field
from typing import Any

from understudy.world.known import course
from understudy.world.known.course import Course

Fixed = dict[str, tuple[Any, list[int]]]  # field -> (value, up to two origins)


@dataclass(slots=True)
class Lives:
    """By kind of thing, what the traffic says of when there are things, and what of them."""

    born: dict[str, dict[Any, int]] = field(default_factory=dict)  # id -> episode that made it
    gone: dict[str, dict[Any, list[int]]] = field(default_factory=dict)
    """Id -> the episodes after which there was no such thing any more."""
    endings: list[tuple[str, str]] = field(default_factory=list)
    """(tool, argument): after its success there is no such thing any more as the argument names."""
    fixed: dict[str, dict[Any, Fixed]] = field(default_factory=dict)
    """Id -> the fields that no thing of the kind changes: they are known at any moment."""
    lists: dict[str, dict[str, str]] = field(default_factory=dict)
    """Field -> the kind of the things that it lists as long as there are such."""
    course: Course = field(default_factory=Course)


def to_json(lives: Lives) -> list[Any]:
    """What `from_json` reads; ids may be numbers, hence pairs."""
    by_id = [
        [[domain, list(own.items())] for domain, own in kept.items()]
        for kept in (lives.born, lives.gone, lives.fixed)
    ]
    return [by_id, lives.endings, lives.lists, course.to_json(lives.course)]


def from_json(data: list[Any]) -> Lives:
    """Lives from their JSON."""
    by_id, endings, lists, going_on = data
    born, gone, fixed = ({domain: dict(own) for domain, own in kept} for kept in by_id)
    ends = [(tool, p) for tool, p in endings]
    return Lives(born, gone, ends, fixed, lists, course.from_json(going_on))
