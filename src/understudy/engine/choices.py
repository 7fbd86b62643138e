"""Several samples for one request: all of them, or none."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from understudy.engine.wire import BadRequest

T = TypeVar("T")


def check_room(count: int, most: int | None, param: str) -> None:
    """Raises BadRequest where a request asks for more samples than can ever be pending."""
    if most is not None and count > most:
        line = f"the request asks for {count} samples, and this engine takes at most {most} at once"
        raise BadRequest(line, param)


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in the order of `work`. Where one fails, the others are cancelled and its error
    is raised, the first alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
