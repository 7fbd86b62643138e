"""What models were used for, by one query over the completions: an index holds all it reads. And
what those that are deployed were trained on, which was told when they were."""

import json
import sqlite3
from dataclasses import replace
from typing import Any

from understudy.core.meter import NOBODY, TRAIN, Tokens, Use
from understudy.core.serial import model_ref_from_json

_BY = "alias, model, served, purpose, metered"
# calls that never ended have no row in the index; there are few
_QUERY = """
SELECT {by}, count(*), total(status <> 'ok'),
    total(prompt_tokens IS NULL OR completion_tokens IS NULL), total(estimated),
    total(prompt_tokens), total(cached_tokens), total(completion_tokens)
FROM completions WHERE status <> 'started' AND {where} GROUP BY {by}
UNION ALL
SELECT {by}, count(*), count(*), count(*), 0, 0, 0, 0
FROM completions WHERE status = 'started' AND {where} GROUP BY {by}
"""
# of an alias, what any of its versions stood for; a model is named as str(ModelRef) does
_TRAINED = """
SELECT model, run, tokens, parameters, at FROM trained WHERE :alias IS NULL OR model IN (
    SELECT coalesce(
        json_extract(share.value, '$[0].model.adapter')
            || coalesce('@' || json_extract(share.value, '$[0].model.version'), ''),
        json_extract(share.value, '$[0].model.base')
    )
    FROM deployments, json_each(deployment, '$.shares') AS share WHERE alias = :alias
) ORDER BY seq
"""


def uses(connection: sqlite3.Connection, alias: str | None, since: float | None) -> list[Use]:
    """Completions by alias, model, key and purpose; of one alias, or of all and those without.
    `since` is a Unix time. A key is what stands for it (core.keys.key_id). What models were trained
    on is in it where it became known since then."""
    where, values = "1", dict[str, Any]()
    if alias is not None:
        where += " AND alias = :alias"
        values["alias"] = alias
    if since is not None:
        where += " AND started_at >= :since"
        values["since"] = since
    found: dict[tuple[Any, ...], Use] = {}
    for row in connection.execute(_QUERY.format(by=_BY, where=where), values):
        use = _use(row)
        key = (use.alias, use.model, use.key, use.purpose, use.parameters)
        found[key] = _sum(found[key], use) if key in found else use
    for use in _trained(connection, alias, since):
        key = (use.alias, use.model, use.key, use.purpose, use.parameters)
        found[key] = _sum(found[key], use) if key in found else use
    return sorted(found.values(), key=lambda u: (u.alias or "", u.model, u.key, u.purpose))


def _trained(connection: sqlite3.Connection, alias: str | None, since: float | None) -> list[Use]:
    """What models were trained on, one a run, where it became known since then. Of a run that went
    into several models the most tokens are counted, at the model and the time of the first."""
    runs: dict[str, tuple[Use, float]] = {}
    for model, run, tokens, parameters, at in connection.execute(_TRAINED, {"alias": alias}):
        new = Use(model, NOBODY, TRAIN, alias, tokens=Tokens(trained=tokens), parameters=parameters)
        use, first = runs.get(run, (new, at))
        most = Tokens(trained=max(use.tokens.trained, tokens))
        runs[run] = replace(use, tokens=most), first
    return [use for use, first in runs.values() if since is None or first >= since]


def _use(row: Any) -> Use:
    alias, model, served, purpose, metered, *counts = row
    requests, unfinished, unreported, estimated, *tokens = map(int, counts)
    said: dict[str, Any] = json.loads(metered or "{}")
    if "model" in said:
        model = said["model"]
    elif served is not None:
        model = str(model_ref_from_json(json.loads(served)))
    return Use(
        model=model,
        key=said.get("key", NOBODY),
        purpose=purpose,
        alias=alias,
        requests=requests,
        unfinished=unfinished,
        unreported=unreported,
        estimated=estimated,
        differs=requests if "prompt" in said else 0,
        tokens=Tokens(*tokens),
        parameters=said.get("parameters"),
    )


def _sum(one: Use, other: Use) -> Use:
    counted = ("requests", "unfinished", "unreported", "estimated", "differs", "tokens")
    return replace(one, **{k: getattr(one, k) + getattr(other, k) for k in counted})
