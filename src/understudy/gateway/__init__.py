"""The endpoint: forwards model calls, captures them, routes aliases, takes feedback."""

from understudy.gateway.app import Running, start
from understudy.gateway.config import GatewayConfig, Upstream, load_config

__all__ = ["GatewayConfig", "Running", "Upstream", "load_config", "start"]
