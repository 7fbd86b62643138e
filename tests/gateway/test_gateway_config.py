"""What a configuration may not say."""

from typing import Any

import pytest

from understudy.gateway import GatewayConfig


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"models": {"m": "x"}}, "names an upstream"),
        ({"host": "0.0.0.0"}, "require_key"),
        ({"upstreams": {"a": {"base_url": "ftp://x"}}}, "base_url"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_wrong_configuration_is_refused(fields: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        GatewayConfig.model_validate({"store": "s.db", "upstreams": {}, **fields})
