"""Words of failure in any API's style; what a given system says is learned on top of them."""

import re
from typing import Any

_KEYS = {"error", "errors", "error_code", "errorcode", "error_message", "exception", "fault"}
_GOOD_KEYS = {"ok", "success", "succeeded"}
_BAD_STATUS = {"error", "failed", "failure", "fail", "err", "exception"}
_LASTING = (
    r"^\W*(error|exception|traceback|fail(ed|ure)?|invalid|unknown|cannot|can't|could not|unable|"
    r"denied|forbidden|unauthori[sz]ed|not found|[a-z_ ]*(error|exception)\b)"
    r"|\b(not found|not valid)\b"
)
_PASSING = (
    r"^\W*(http\S*\s+)?(408|429|50[0-4])\W+(request|too many|internal|not impl|bad|service|gateway)"
    r"|^\W*(timed? ?out|connection (refused|reset|closed|timed out)|bad gateway|internal server)"
    r"|\b(timed out|rate limit(ed)?|too many requests|try again|retry (later|after|in)"
    r"|(service|temporarily) unavailable)\b"
)
_LOOKS = re.compile(f"{_LASTING}|{_PASSING}", re.IGNORECASE)
# of what is known to be a failure
TRANSIENT = re.compile(
    _PASSING + r"|too many|time.?d? ?out|temporar|unavailable right|busy|retry|overload|slow down|"
    r"\b(429|500|502|503|504)\b|connection",
    re.IGNORECASE,
)


def looks_failed(value: Any) -> bool:
    """Whether a result reads as a failure by its form alone, in no domain's words."""
    if isinstance(value, str):
        return len(value) < 400 and _LOOKS.search(value[:200]) is not None
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        low = key.lower()
        if low in _KEYS and item not in (None, False, "", 0, [], {}):
            return True
        if low in _GOOD_KEYS and item is False:
            return True
        if low in ("status", "result", "type", "code") and str(item).lower() in _BAD_STATUS:
            return True
        if low in ("status", "code", "status_code") and isinstance(item, int) and item >= 400:
            return len(value) <= 4
    return False
