"""Fields of OpenAI's request bodies: sampling read and written, and the error of a wrong field."""

from collections.abc import Mapping
from typing import Any, NoReturn, cast

from understudy.core.types import Sampling

MOST_TOP = 20  # of `top_logprobs`


class WireError(ValueError):
    """A request that cannot be served, or an answer that cannot be read: one clear line."""

    def __init__(
        self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's shape."""
        kind = "invalid_request_error" if self.status < 500 else "api_error"
        return {
            "error": {
                "message": self.message, "type": kind, "param": self.param, "code": self.code
            }
        }  # fmt: skip


def wrong(param: str, why: str) -> NoReturn:
    """Raises WireError (400) for a field."""
    raise WireError(f"'{param}' {why}", param=param)


def sampling_of(body: Mapping[str, Any]) -> Sampling:
    """A body's sampling. Raises WireError (400) that says which field is wrong and why."""
    longest = body.get("max_completion_tokens")
    name = "max_tokens" if longest is None else "max_completion_tokens"
    default = Sampling()
    stop = body.get("stop")
    if isinstance(stop, str):
        stop = [stop]
    if stop is not None and not (isinstance(stop, list) and all(isinstance(s, str) for s in stop)):
        wrong("stop", "must be a string or a list of strings")
    seed = body.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        wrong("seed", "must be a whole number")
    biases = body.get("logit_bias")
    problem = bias_problem(biases)
    if problem is not None:
        wrong("logit_bias", problem)
    return Sampling(
        temperature=_number(body, "temperature", default.temperature, 0.0, 2.0),
        top_p=_number(body, "top_p", default.top_p, 0.0, 1.0),
        top_k=int(_number(body, "top_k", default.top_k, -1, None, whole=True)),
        max_tokens=int(_number(body, name, default.max_tokens, 1, None, whole=True)),
        seed=seed,
        stop=tuple(stop or ()),
        logit_bias=biases_of(biases),
        top_logprobs=int(_number(body, "top_logprobs", 0, 0, None, whole=True)),
    )


def bias_problem(value: Any) -> str | None:
    """Why this is no `logit_bias`, in a few words; None if it is one, or nothing."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(_is_id(token) for token in value):
        return "must be an object whose names are token ids"
    for bias in value.values():
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -100 <= bias <= 100:
            return "must hold numbers from -100 to 100"
    return None


def biases_of(value: Mapping[str, float] | None) -> tuple[tuple[int, float], ...]:
    """A `logit_bias` without a problem, as Sampling has it."""
    return tuple((int(token), float(bias)) for token, bias in (value or {}).items())


def _is_id(token: object) -> bool:
    return isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10


def _number(
    body: Mapping[str, Any],
    name: str,
    default: float,
    low: float,
    high: float | None,
    whole: bool = False,
) -> float:
    value = body.get(name)
    if value is None:
        return default
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        wrong(name, f"must be a {'whole ' if whole else ''}number")
    value = cast(float, value)
    if value < low or (high is not None and value > high):
        wrong(name, f"must be at least {low}" if high is None else f"must be in [{low}, {high}]")
    return value


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """The body's fields for this sampling; what is switched off is left out."""
    fields: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.top_k > 0:
        fields["top_k"] = sampling.top_k
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if sampling.logit_bias:
        fields["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.top_logprobs:
        fields |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
    return fields
