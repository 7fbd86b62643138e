"""The command line. Every command is a thin layer over a documented Python call.

Exit codes: 0 done, 1 failed (one line says why), 2 wrong usage, 130 interrupted.
"""

import errno
import sqlite3
import sys
from typing import Any

import typer

from understudy.cli import cost, data, demo, deployments, evaluate, serve, train, world
from understudy.core.allocator import start_again

app = typer.Typer(
    name="understudy",
    help="Make a deployed agent better out of its own production traffic.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.episodes, name="episodes")
app.command("import")(data.import_)
app.command("export")(data.export)
app.command("feedback")(data.feedback)
app.add_typer(world.app, name="world")
app.add_typer(train.app, name="train")
app.command("eval")(evaluate.evaluate)
app.command("up")(serve.up)
app.add_typer(serve.engine, name="engine")
app.command("deploy")(serve.deploy)
app.command("rollback")(serve.rollback)
app.command("deployments")(deployments.deployments)
app.command("cost")(cost.cost)
app.command("demo")(demo.demo)

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # the base of every error in a command line itself
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FOR_MCP = {"mcp", "mcp_types", "uvicorn", "starlette"}
# what a command may raise for a reason that its user can mend; anything else is a bug and shown
EXPECTED = (ValueError, OSError, RuntimeError, ModuleNotFoundError, sqlite3.Error)


def main(argv: list[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    if argv is None and sys.argv[1:3] == ["engine", "serve"]:
        start_again()
    command = typer.main.get_command(app)
    try:
        result = command.main(argv, prog_name="understudy", standalone_mode=False)
    except typer.Exit as error:
        return error.exit_code
    except USAGE_ERROR as error:
        error.show()
        return 2
    except (typer.Abort, KeyboardInterrupt):
        print("understudy: interrupted", file=sys.stderr)
        return 130
    except (*EXPECTED, ExceptionGroup) as error:
        cause = cause_of(error)
        if not isinstance(cause, EXPECTED):
            raise
        print(f"understudy: {_one_line(cause)}", file=sys.stderr)
        return 1
    return result if isinstance(result, int) else 0


def cause_of(error: BaseException) -> BaseException:
    """Of things done side by side the first that failed, else the error itself."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _one_line(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        if error.name in FOR_MCP:
            return f"{error.name} is not installed; MCP needs it: pip install 'understudy[mcp]'"
        need = "training and engines need it: pip install 'understudy[train]'"
        return f"{error.name} is not installed; {need}"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"there is no {error.filename}"
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk takes no more: {text}; make room and run the command again"
    if isinstance(error, sqlite3.Error):
        return f"the store cannot be read or written: {text}"
    return text or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
