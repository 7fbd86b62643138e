"""Make a deployed agent better out of its own production traffic."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.sdk import AsyncOpenAI, OpenAI

__all__ = ["AsyncOpenAI", "OpenAI"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The clients, loaded when they are first asked for."""
    if name in __all__:
        from understudy import sdk

        return getattr(sdk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
