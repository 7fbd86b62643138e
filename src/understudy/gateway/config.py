"""The gateway's configuration: a JSON or TOML file, typed, unknown fields refused."""

import json
import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from understudy.core.hosts import is_loopback

Capture = Literal["durable", "batched", "off"]


class Upstream(BaseModel):
    """An OpenAI-compatible endpoint. Upstreams come from this file alone, never from requests.

    `kind` is `engine` for this package's engine server and for vLLM, which give token ids and
    logprobs. Without `api_key_env` a client's own Authorization header is passed on to an
    `openai` upstream (unless the gateway checks keys itself).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(pattern=r"^https?://")
    kind: Literal["openai", "engine"] = "openai"
    api_key_env: str | None = None
    timeout_s: float = Field(600.0, gt=0)  # longest silence of the upstream
    connect_timeout_s: float = Field(10.0, gt=0)


class GatewayConfig(BaseModel):
    """`models` maps a model's name to its upstream. Aliases are the store's deployments; a model
    that is deployed but not in `models` is looked for at the upstream `deployed`.

    `capture`: `durable` ends a reply after its commit; `batched` commits within 30 ms (what a
    power cut may lose; a killed gateway may lose what was not yet committed); `off` keeps nothing.

    `fallback` maps an alias to that policy of its deployment (its share may be 0) which answers
    where a request's prompt or tools are others than the drawn policy's adapter was trained with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    upstreams: dict[str, Upstream]
    models: dict[str, str] = {}
    deployed: str | None = None
    fallback: dict[str, str] = {}
    capture: Capture = "batched"
    host: str = "127.0.0.1"
    port: int = Field(8400, ge=0, le=65535)
    require_key: bool = False
    poll_s: float = Field(0.1, gt=0)  # how soon a new deployment or key is seen
    drain_s: float = Field(30.0, ge=0)  # how long a stop waits for what is in flight
    queue_mb: int = Field(256, ge=1)  # captured but not yet on disk; more goes to a spill file
    spill_folder: str | None = None  # beside the store where not given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for model, upstream in self.models.items():
            if upstream not in self.upstreams:
                raise ValueError(f"model {model!r} names an upstream {upstream!r} that is not here")
        if self.deployed is not None and self.deployed not in self.upstreams:
            raise ValueError(f"deployed names an upstream {self.deployed!r} that is not here")
        if not self.require_key and not is_loopback(self.host):
            raise ValueError(f"host {self.host} is open to others: set require_key to true")
        return self


def load_config(path: str | Path, **overrides: object) -> GatewayConfig:
    """The configuration in a .json or .toml file. Raises ValueError with one line."""
    path = Path(path)
    try:
        text = path.read_text()
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        return GatewayConfig.model_validate({**data, **overrides})
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from error
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid {path.suffix.lstrip('.') or 'JSON'}: {error}"
        ) from error
