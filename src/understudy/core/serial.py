"""An exact JSON codec for the vocabulary: `x_from_json(x_to_json(x)) == x`.

Values are plain JSON objects; tuples become lists and come back as tuples. Fields that hold
their default are left out, unknown fields are refused, so that a file written by a newer version
fails with one clear line instead of losing something.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from understudy.core.types import (
    Completion,
    Dataset,
    Deployment,
    Episode,
    Feedback,
    ModelRef,
    Policy,
    Provenance,
    Request,
    Sampling,
    Scenario,
    ToolResult,
    Usage,
)

Decode = Callable[[Any], Any]
RESULT_META = "understudy/result"  # where MCP carries what a world knows of a result of its own


def _encode(value: Any) -> dict[str, Any]:
    """A dataclass as JSON, fields at their default left out."""
    out: dict[str, Any] = {}
    for f in fields(value):
        item = getattr(value, f.name)
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if type(item) is type(default) and item == default:
            continue
        out[f.name] = _plain(item)
    return out


def _plain(value: Any) -> Any:
    if hasattr(type(value), "__dataclass_fields__"):
        return _encode(value)
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _decode(kind: type[Any], data: Mapping[str, Any], nested: Mapping[str, Decode]) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"a {kind.__name__} must be a JSON object, not {type(data).__name__}")
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"a {kind.__name__} has no field {', '.join(unknown)}")
    missing = sorted(
        f.name
        for f in fields(kind)
        if f.name not in data and f.default is MISSING and f.default_factory is MISSING
    )
    if missing:
        raise ValueError(f"a {kind.__name__} needs {', '.join(missing)}")
    return kind(
        **{k: nested[k](v) if k in nested and v is not None else v for k, v in data.items()}
    )


def _each(decode: Decode) -> Decode:
    return lambda values: tuple(decode(v) for v in values)


def model_ref_to_json(value: ModelRef) -> dict[str, Any]:
    return _encode(value)


def model_ref_from_json(data: Mapping[str, Any]) -> ModelRef:
    return _decode(ModelRef, data, {})


def sampling_to_json(value: Sampling) -> dict[str, Any]:
    return _encode(value)


def sampling_from_json(data: Mapping[str, Any]) -> Sampling:
    return _decode(Sampling, data, {"stop": tuple, "logit_bias": _each(tuple)})


def request_to_json(value: Request) -> dict[str, Any]:
    return _encode(value)


def request_from_json(data: Mapping[str, Any]) -> Request:
    return _decode(
        Request,
        data,
        {
            "messages": tuple,
            "model": model_ref_from_json,
            "tools": tuple,
            "sampling": sampling_from_json,
        },
    )


def completion_to_json(value: Completion) -> dict[str, Any]:
    return _encode(value)


def completion_from_json(data: Mapping[str, Any]) -> Completion:
    return _decode(
        Completion,
        data,
        {
            "request": request_from_json,
            "served": model_ref_from_json,
            "usage": lambda d: _decode(Usage, d, {}),
            "prompt_ids": tuple,
            "output_ids": tuple,
            "logprobs": tuple,
        },
    )


def feedback_to_json(value: Feedback) -> dict[str, Any]:
    return _encode(value)


def feedback_from_json(data: Mapping[str, Any]) -> Feedback:
    return _decode(Feedback, data, {})


def tool_result_to_json(value: ToolResult) -> dict[str, Any]:
    return _encode(value)


def tool_result_from_json(data: Mapping[str, Any]) -> ToolResult:
    provenance = _each(lambda d: _decode(Provenance, d, {}))
    return _decode(ToolResult, data, {"provenance": provenance})


def episode_to_json(value: Episode) -> dict[str, Any]:
    return _encode(value)


def episode_from_json(data: Mapping[str, Any]) -> Episode:
    return _decode(
        Episode,
        data,
        {
            "completions": _each(completion_from_json),
            "feedback": _each(feedback_from_json),
            "results": lambda d: {k: tool_result_from_json(v) for k, v in d.items()},
            "tail": tuple,
        },
    )


def scenario_to_json(value: Scenario) -> dict[str, Any]:
    return _encode(value)


def scenario_from_json(data: Mapping[str, Any]) -> Scenario:
    return _decode(Scenario, data, {"messages": tuple, "tools": tuple})


def policy_to_json(value: Policy) -> dict[str, Any]:
    return _encode(value)


def policy_from_json(data: Mapping[str, Any]) -> Policy:
    return _decode(Policy, data, {"model": model_ref_from_json, "sampling": sampling_from_json})


def deployment_to_json(value: Deployment) -> dict[str, Any]:
    return _encode(value)


def deployment_from_json(data: Mapping[str, Any]) -> Deployment:
    shares = _each(lambda pair: (policy_from_json(pair[0]), pair[1]))
    return _decode(Deployment, data, {"shares": shares})


def dataset_to_json(value: Dataset) -> dict[str, Any]:
    return _encode(value)


def dataset_from_json(data: Mapping[str, Any]) -> Dataset:
    return _decode(Dataset, data, {"episode_ids": tuple})
