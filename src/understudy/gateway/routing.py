"""From the name in a request to an upstream: models by the configuration, aliases by the store."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from understudy.core.keys import bearer, key_hash, key_id
from understudy.core.openai_wire import WireError, sampling_fields
from understudy.core.types import Deployment, Message, Policy, Request, Sampling
from understudy.gateway.config import GatewayConfig, Upstream
from understudy.store import SQLiteStore

_STICKY = 100_000  # episodes whose policy is remembered
_SAMPLING = (
    "temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "seed", "stop",
    "logit_bias",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes, and as whom."""

    upstream: str
    model: str  # the name that the upstream is asked for
    alias: str | None = None
    policy: Policy | None = None


class Router:
    """Deployments and keys as the store had them at the last `refresh`."""

    def __init__(self, config: GatewayConfig, store: SQLiteStore) -> None:
        self._config, self._store = config, store
        self._version: object = None
        self._sticky: OrderedDict[tuple[str, str], str] = OrderedDict()
        self.deployments: Mapping[str, Deployment] = {}
        self.keys: Mapping[bytes, frozenset[str]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read deployments and keys again if they changed."""
        version = self._store.control_version()
        if version != self._version:
            self.deployments = self._store.deployments()
            self.keys = self._store.keys()
            self._version = version

    @property
    def names(self) -> list[str]:
        """Every name that a request may ask for."""
        return sorted({*self._config.models, *self.deployments})

    def unknown(self, name: str) -> WireError:
        """What a request for a name that nothing has is told."""
        known = ", ".join(self.names) or "none"
        line = f"there is no model {name!r}; the models are: {known}"
        return WireError(line, param="model", status=404, code="model_not_found")

    def resolve(self, name: str, episode_id: str) -> Route:
        """Raises WireError: 404 for an unknown name, 503 for a policy without an upstream."""
        deployment = self.deployments.get(name)
        if deployment is None:
            upstream = self._config.models.get(name)
            if upstream is None:
                raise self.unknown(name)
            return Route(upstream, name)
        policy = self._choose(deployment, episode_id)
        route = self._route(name, policy)
        if route is None:
            why = f"is deployed to {policy.model}, for which no upstream is configured"
            raise WireError(f"alias {name!r} {why}", status=503)
        return route

    def _route(self, alias: str, policy: Policy) -> Route | None:
        """Where a policy is asked; None where the configuration does not say."""
        ref = policy.model
        for candidate in (str(ref), ref.adapter, ref.base):
            if candidate is not None and candidate in self._config.models:
                return Route(self._config.models[candidate], str(ref), alias, policy)
        if self._config.deployed is None:
            return None
        return Route(self._config.deployed, str(ref), alias, policy)

    def _choose(self, deployment: Deployment, episode_id: str) -> Policy:
        """An episode's policy: drawn by hash, the same for the rest of the episode."""
        key = (deployment.alias, episode_id)
        kept = self._sticky.get(key)
        chosen = next((p for p, _ in deployment.shares if p.name == kept), None)
        if chosen is None:
            chosen = draw(deployment, episode_id)
            self._sticky[key] = chosen.name
        self._sticky.move_to_end(key)
        if len(self._sticky) > _STICKY:
            self._sticky.popitem(last=False)
        return chosen

    def fallback(self, route: Route) -> Route | None:
        """Who answers where a prompt is another than the route's adapter was trained with; None
        where nobody is named, or who is named is not of the deployment or has no upstream."""
        deployment = self.deployments.get(route.alias or "")
        named = self._config.fallback.get(route.alias or "")
        if deployment is None or route.policy is None or route.policy.name == named:
            return None
        policy = next((p for p, _ in deployment.shares if p.name == named), None)
        return None if policy is None else self._route(deployment.alias, policy)

    def keep(self, route: Route, episode_id: str) -> None:
        """An episode goes on with this route's policy to its end."""
        if route.alias is not None and route.policy is not None:
            self._sticky[route.alias, episode_id] = route.policy.name

    def check_key(self, authorization: str | None, scope: str) -> str | None:
        """What stands for the key; None where none is required. Raises WireError 401 or 403 where
        keys are required and this one does not do."""
        if not self._config.require_key:
            return None
        key = bearer(authorization)
        hashed = key_hash(key) if key is not None else b""
        scopes = self.keys.get(hashed)
        if scopes is None:
            raise WireError("this gateway needs a valid key", status=401, code="invalid_api_key")
        if scope not in scopes and "admin" not in scopes:
            raise WireError(f"this key lacks the scope {scope!r}", status=403)
        return key_id(hashed)


def draw(deployment: Deployment, episode_id: str) -> Policy:
    """The policy whose share the episode's hash falls into."""
    digest = hashlib.sha256(f"{deployment.alias}:{episode_id}".encode()).digest()
    point = int.from_bytes(digest[:8]) / 2**64
    for policy, share in deployment.shares:
        point -= share
        if point < 0:
            return policy
    return next(p for p, share in reversed(deployment.shares) if share > 0)


def apply_policy(policy: Policy, request: Request, body: dict[str, Any]) -> Request:
    """The request as the policy makes it; `body` is changed to match.

    A prompt replaces the system messages at the start; sampling other than the default replaces
    the client's whole sampling, but not how many logprobs it asked to see.
    """
    messages = request.messages
    if policy.prompt is not None:
        rest = list(messages)
        while rest and rest[0]["role"] in ("system", "developer"):
            rest.pop(0)
        prompt: Message = {"role": "system", "content": policy.prompt}
        messages = (prompt, *rest)
        body["messages"] = list(messages)
    sampling = request.sampling
    if policy.sampling != Sampling():
        sampling = replace(policy.sampling, top_logprobs=sampling.top_logprobs)
        for name in _SAMPLING:
            body.pop(name, None)
        body.update(sampling_fields(sampling))
    return replace(request, messages=messages, sampling=sampling)


def upstream_headers(
    upstream: Upstream, authorization: str | None, require_key: bool
) -> dict[str, str]:
    """Raises WireError (503) when the upstream's key is not in the environment."""
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if upstream.api_key_env is not None:
        key = os.environ.get(upstream.api_key_env)
        if not key:
            raise WireError(
                f"the gateway lacks {upstream.api_key_env} in its environment", status=503
            )
        headers["Authorization"] = f"Bearer {key}"
    elif authorization is not None and not require_key and upstream.kind == "openai":
        headers["Authorization"] = authorization
    return headers
