"""Typed configuration: frozen pydantic models whose defaults are the vetted recipe.

    class Grpo(Config):
        steps: int = 40
        lora: Lora = Lora()

    config = load_config(Grpo, "grpo.toml", ["steps=10", "lora.rank=4"])

Defaults, then the file, then the overrides. Every mistake is one line that names the bad key and
what is allowed there.
"""

import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

ConfigType = TypeVar("ConfigType", bound=BaseModel)


class ConfigError(ValueError):
    """A configuration that is refused; the message is one line."""


class Config(BaseModel):
    """A configuration: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


def load_config(
    kind: type[ConfigType],
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> ConfigType:
    """A configuration from its defaults, a TOML or JSON file, `values` (as a program gives them)
    and `key=value` overrides (as a command line gives them), the later winning.

    An override's value is read as JSON where it is JSON, else as text; dots go into nested
    configurations, of which what is not given stays the recipe's own default, unless the key that
    decides the others (the class's `DECIDED_BY`) is given another value. Raises ConfigError.
    """
    merged: dict[str, Any] = _read(Path(path)) if path is not None else {}
    merged = _merge(merged, values or {})
    for override in overrides:
        merged = _merge(merged, _override(override))
    try:
        return kind.model_validate(_over_defaults(kind, merged))
    except ValidationError as error:
        where = f"{path}: " if path is not None else ""
        raise ConfigError(where + explain(kind, error)) from None


def _over_defaults(kind: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given of nested configurations over what the field's default says of itself. The
    classes of such fields have a default for each of their own."""
    merged = dict(given)
    for key, field in kind.model_fields.items():
        own, default = merged.get(key), field.default
        if not isinstance(default, BaseModel) or not isinstance(own, Mapping):
            continue
        plain = type(default)().model_dump()
        said = {k: v for k, v in default.model_dump().items() if v != plain[k]}
        decides: str = getattr(type(default), "DECIDED_BY", "")
        if decides in own and own[decides] != said.get(decides):
            said = {}
        merged[key] = _over_defaults(type(default), _merge(said, own))
    return merged


def explain(kind: type[BaseModel], error: ValidationError) -> str:
    """A validation error as one line: each bad key, what is wrong, what is allowed."""
    return "; ".join(_one(kind, dict(e)) for e in error.errors(include_url=False))


def _one(kind: type[BaseModel], error: dict[str, Any]) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        owner = _model_at(kind, location[:-1]) or kind
        names = list(owner.model_fields)
        close = difflib.get_close_matches(location[-1], names, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"unknown key {key}{hint}; allowed: {', '.join(names)}"
    if error["type"] == "missing":
        return f"{key} is required"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if error["type"] == "value_error":  # a validator's own words
        return f"{key}: {message}" if key else message
    return f"{key} must be {message}, not {_short(error.get('input'))}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _model_at(kind: type[BaseModel], location: Sequence[str]) -> type[BaseModel] | None:
    """The configuration class that a path of keys leads to."""
    for key in location:
        field = kind.model_fields.get(key)
        found = _model_in(field.annotation) if field is not None else None
        if found is None:
            return None
        kind = found
    return kind


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((m for a in typing.get_args(annotation) if (m := _model_in(a))), None)
    return None


def _read(path: Path) -> dict[str, Any]:
    if path.suffix not in (".toml", ".json"):
        raise ConfigError(f"{path}: a configuration file ends in .toml or .json")
    try:
        text = path.read_text()
        value = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid {path.suffix[1:].upper()} ({error})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold one object of keys and values")
    return value


def _override(text: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {text!r} is not of the form key=value")
    try:
        value = json.loads(raw)
    except ValueError:
        value = raw
    for part in reversed(parts):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged
