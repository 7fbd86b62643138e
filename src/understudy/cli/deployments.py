"""What is deployed, how much it is asked for, and which workloads want training again."""

import json
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from understudy.cli.data import DEFAULT_STORE, JsonOption, StoreOption, open_store


def deployments(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List the aliases with their policies and requests, and the workloads that are due for
    retraining: those whose requests have another prompt, or other tools, than the adapter that
    answers them was trained with.

    Example: understudy deployments
    """
    with open_store(store) as db:
        deployed = db.deployments()
        uses, due = db.uses(), db.due()
    requests, differs = Counter[str](), Counter[str]()
    for use in uses:
        requests[use.alias or ""] += use.requests
        differs[use.alias or ""] += use.differs
    rows = [
        {
            "alias": alias,
            "version": d.version,
            "policies": {policy.name: share for policy, share in d.shares},
            "requests": requests[alias],
            "differs": differs[alias],
        }
        for alias, d in sorted(deployed.items())
    ]
    if as_json:
        print(json.dumps({"deployments": rows, "due": [asdict(d) for d in due]}))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("alias", "version", "policies", "requests", "other prompt"):
        number = column in ("version", "requests", "other prompt")
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in row["policies"].items())
        counts = (f"{row['requests']:,}", f"{row['differs']:,}")
        table.add_row(row["alias"], str(row["version"]), shares, *counts)
    console = Console()
    if not console.is_terminal:
        console.width = 200  # nothing to fit into
    console.print(table)
    for mark in due:
        when = datetime.fromtimestamp(mark.since, UTC).strftime("%Y-%m-%d %H:%M")
        print(f"due for retraining since {when}: workload {mark.workload} under {mark.alias}, "
              f"whose {mark.differs} is not what {mark.model} was trained with")  # fmt: skip
