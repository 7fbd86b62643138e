"""Paths to read: a text, and one self-contained HTML page with the tree drawn. Both are bounded:
what is not shown is counted."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from understudy.runs.plots import percent
from understudy.runs.report import Cell, Headline, Notes, Plot, Report, Section, Table
from understudy.runs.svg import FAINT, document, rect, words
from understudy.world.describing.paths import Branch, Node, Paths, Point, Tally, point_text

_WIDTH = 100  # columns of the text
_ROWS = 20  # of a table
_LINES = 40  # of the tree as text
_COLUMNS = 8  # calls of the drawn tree
_LEVELS = ("#b3440a", "#8f5a2b", "#6d6d78", "#3f6587", "#0072b2")  # from failing to going well
_PIXELS = 14  # the least height of a box with a name


def share_text(tally: Tally) -> str:
    """Episodes and their success rate: `12 episodes, 75% [47, 91] end well`."""
    rate = tally.rate
    if rate is None:
        return f"{tally.episodes} episodes"
    low, high = 100 * rate.low, 100 * rate.high
    return f"{tally.episodes} episodes, {percent(rate.mean)} [{low:.0f}, {high:.0f}] end well"


def text(paths: Paths) -> str:
    """The report as plain text."""
    lines = [f"paths of {share_text(paths.tally)}"]
    lines += [f"left out: {n} episodes {reason}" for reason, n in paths.left_out.items()]
    shares = "; share that ends well" if paths.tally.rate is not None else ""
    lines += ["", f"the tree of paths (episodes{shares})", *_tree_lines(paths)]
    lines += ["", "where success parts"]
    for b in paths.branches[:_ROWS]:
        lines.append(f"  {_after(b)}  ({b.gain:.0f} bits)")
        lines += [f"    {way}: {share_text(t)}" for way, t in list(b.ways.items())[:_ROWS]]
    lines += ["", "the same call with the same result again"]
    for lp in paths.loops[:_ROWS]:
        end, times = lp.ends.most_common(1)[0]
        lines.append(
            f"  {point_text(lp.point)}: {lp.repeats} times, at most {lp.most} in an episode; "
            f"{share_text(lp.tally)}; then mostly {end} ({times})"
        )
    lines += ["", "dead ends"]
    for d in paths.dead_ends[:_ROWS]:
        lines.append(
            f"  {point_text(d.point)}: {share_text(d.tally)}, the others {_rate(d.others)}; "
            f"the last call of {d.last}"
        )
    lines += ["", "tools never called after a failure"]
    for point, (n, tools) in list(paths.unused.items())[:_ROWS]:
        lines.append(f"  {point_text(point)} ({n} episodes): {', '.join(tools) or 'none'}")
    return "\n".join(map(_wrapped, _or_nothing(lines))) + "\n"


def _wrapped(line: str) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return "\n".join(textwrap.wrap(line, _WIDTH, subsequent_indent=indent, break_on_hyphens=False))


def _or_nothing(lines: Sequence[str]) -> Iterator[str]:
    """The lines, with a word under headings that have nothing."""
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        yield line
        if line and not line.startswith((" ", "paths of", "left out")) and not after:
            yield "  nothing that enough episodes show"


def _rate(tally: Tally) -> str:
    return "-" if tally.rate is None else percent(tally.rate.mean)


def _after(branch: Branch) -> str:
    if branch.kind == "answer":
        return f"what {branch.after[0]} answers first"
    return f"what the agent does after {point_text(branch.after)}"


def _tree_lines(paths: Paths) -> Iterator[str]:
    """The commonest ways, depth first; chains without a fork in one line."""
    shown = _common(paths.tree, _LINES)
    yield from _under(paths.tree, shown, "  ")
    if paths.cut:
        yield f"  {paths.cut} episodes go on beyond what is counted"


def _under(node: Node, shown: set[int], indent: str) -> Iterator[str]:
    rest = Tally()
    for point, child in _ordered(node):
        if id(child) not in shown:
            rest.episodes += child.tally.episodes
            continue
        names = [point_text(point)]
        while len(child.children) == 1:
            ((point, only),) = child.children.items()
            if id(only) not in shown:
                break
            names.append(point_text(point))
            child = only
        share = "" if child.tally.rate is None else f", {_rate(child.tally)}"
        yield f"{indent}{_chain(names)}  {child.tally.episodes}{share}"
        yield from _under(child, shown, indent + "  ")
    if rest.episodes and shown:
        yield f"{indent}other ways  {rest.episodes}"


def _chain(names: Sequence[str]) -> str:
    """Points one after the other, repeated ones once with how often."""
    runs = [(name, len(list(same))) for name, same in groupby(names)]
    return " > ".join(name if n == 1 else f"{name} ({n} times)" for name, n in runs)


def _ordered(node: Node) -> list[tuple[Point, Node]]:
    return sorted(node.children.items(), key=lambda c: (-c[1].tally.episodes, c[0]))


def _common(tree: Node, n: int) -> set[int]:
    """The n beginnings that most episodes share."""
    every: list[Node] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        every += node.children.values()
        waiting += node.children.values()
    every.sort(key=lambda node: -node.tally.episodes)
    return {id(node) for node in every[:n]}


@dataclass(frozen=True, slots=True)
class Icicle:
    """The tree of paths from left to right: a box is as high as its episodes are many, its colour
    and its text say how many of them end well."""

    title: str
    tree: Node

    def svg(self, width: int = 720) -> str:
        columns = min(_COLUMNS, max(1, _depth(self.tree)), max(2, width // 150))
        wide, height = width / columns, 420 if width >= 560 else 340
        body: list[str] = []
        self._draw(body, self.tree, 0, columns, wide, 0.0, float(height))
        said = f"{self.tree.tally.episodes} episodes; boxes are calls, from left to right"
        return document(width, height, self.title, said, body)

    def _draw(
        self,
        body: list[str],
        node: Node,
        column: int,
        columns: int,
        wide: float,
        top: float,
        height: float,
    ) -> None:
        if column == columns:
            return
        y, scale = top, height / max(1, node.tally.episodes)
        for point, child in _ordered(node):
            tall = child.tally.episodes * scale
            if tall < 1:
                break  # the rest is thinner still
            name = point_text(point)
            tip = f"{name}: {share_text(child.tally)}"
            fill = FAINT if child.tally.rate is None else _colour(child.tally.rate.mean)
            body.append(
                rect(column * wide, y, wide - 1.5, max(0.8, tall - 1), fill, radius=1, tip=tip)
            )
            if tall >= _PIXELS:
                fits = int((wide - 8) / 6.4)
                label = f"{_rate(child.tally)} {name}"
                label = label if len(label) <= fits else label[: max(1, fits - 1)] + "…"
                y_text = y + min(tall / 2, 40) + 4
                body.append(words(column * wide + 4, y_text, label, fill="#fff", size=11))
            self._draw(body, child, column + 1, columns, wide, y, tall)
            y += tall


def _colour(rate: float) -> str:
    return _LEVELS[min(len(_LEVELS) - 1, int(rate * len(_LEVELS)))]


def _depth(node: Node) -> int:
    """How many calls the longest path holds, up to what is drawn."""
    depth, row = 0, [node]
    while row and depth < _COLUMNS:
        row = [child for n in row for child in n.children.values()]
        depth += bool(row)
    return depth


def page(paths: Paths, title: str) -> Report:
    """The report as a page (`runs.report.write_report` writes it)."""
    rate = paths.tally.rate
    headlines = [Headline("episodes", f"{paths.tally.episodes:,}")]
    if rate is not None:
        note = f"{percent(rate.low)} to {percent(rate.high)}"
        headlines.append(Headline("end well", percent(rate.mean), note))
    notes = [("left out", f"{n} episodes {why}") for why, n in paths.left_out.items()]
    if paths.cut:
        notes.append(("cut", f"{paths.cut} episodes go on beyond what the tree holds"))
    icicle = Plot(
        Icicle("Paths", paths.tree),
        "From left to right, each box a call and what came of it; as high as its episodes are "
        "many; blue where they end well, orange where they do not, with the share in its text.",
    )
    blocks = (icicle, Notes(tuple(notes))) if notes else (icicle,)
    return Report(
        title,
        "Which ways the agent takes through its tools, and how they end.",
        tuple(headlines),
        (
            Section("The tree of paths", blocks),
            Section("Where success parts", tuple(map(_branch_table, paths.branches[:_ROWS]))),
            Section("Loops", (_loops(paths),)),
            Section("Dead ends", (_dead_ends(paths),)),
            Section("Tools never called after a failure", (_unused(paths),)),
        ),
    )


def _branch_table(branch: Branch) -> Table:
    ways = list(branch.ways.items())
    rows: list[tuple[Cell, ...]] = [(way, t.episodes, t.rate) for way, t in ways[:_ROWS]]
    more = len(ways) - _ROWS
    caption = f"{branch.gain:.0f} bits" + (f"; {more} rarer ways not shown" if more > 0 else "")
    return Table(("way", "episodes", "end well"), rows, _after(branch), caption)


def _more(shown: int, every: int) -> str:
    return f"{every - shown} rarer ones not shown" if every > shown else ""


def _loops(paths: Paths) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            point_text(lp.point),
            lp.repeats,
            lp.most,
            lp.tally.episodes,
            lp.tally.rate,
            lp.ends.most_common(1)[0][0],
        )
        for lp in paths.loops[:_ROWS]
    ]
    columns = ("same call, same result", "repeats", "most", "episodes", "end well", "then mostly")
    return Table(columns, rows, caption=_more(len(rows), len(paths.loops)))


def _dead_ends(paths: Paths) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (point_text(d.point), d.tally.episodes, d.tally.rate, d.others.rate, d.last)
        for d in paths.dead_ends[:_ROWS]
    ]
    columns = ("outcome", "episodes", "end well", "the others", "last call of")
    return Table(columns, rows, caption=_more(len(rows), len(paths.dead_ends)))


def _unused(paths: Paths) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (point_text(point), n, ", ".join(tools) or "none")
        for point, (n, tools) in list(paths.unused.items())[:_ROWS]
    ]
    columns = ("failure", "episodes", "never called later")
    return Table(columns, rows, caption=_more(len(rows), len(paths.unused)))
