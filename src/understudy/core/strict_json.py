"""JSON as RFC 8259 has it, for text that others wrote.

Python's reader also takes NaN and Infinity, and turns 1e400 into one; what it then writes is no
JSON to anybody else, SQLite included.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn


def loads(data: bytes | str) -> Any:
    """The value. Raises ValueError with one line, json.JSONDecodeError where it has a place."""
    try:
        return json.loads(data, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise ValueError("a number has too many digits") from None
        raise


def is_finite(value: object) -> bool:
    """Whether JSON can hold each number in a value: none is NaN or infinite."""
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def is_unicode(text: str) -> bool:
    """Whether a text can be written down: JSON may hold halves of surrogate pairs."""
    return not any(0xD800 <= ord(c) < 0xE000 for c in text)


def problem(error: ValueError) -> str:
    """What `loads` found, in a few words with its place."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at {error.pos}"
    return str(error)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value
