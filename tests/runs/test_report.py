"""The report needs nothing but itself; prices and progress say what they count."""

import io
import re

import pytest
from rich.console import Console

from understudy.core.prices import Price, cost_of, price_of, prices_from_litellm
from understudy.core.types import Usage
from understudy.runs.plots import Bar, BarChart, LineChart, Series
from understudy.runs.progress import Progress
from understudy.runs.report import Headline, Notes, Plot, Report, Section, Share, Table, render
from understudy.runs.statistics import wilson


def test_a_report_is_self_contained_and_escapes_what_goes_in() -> None:
    bars = BarChart("success", (Bar("<b>old</b>", 0.5, 0.4, 0.6), Bar("new", 0.9, 0.8, 0.95)))
    line = LineChart("reward", (Series("r", (0.0, 1.0, 2.0), (0.1, float("nan"), 0.9)),))
    rows = [("a & b", wilson(5, 10), Share(0.25), None, 1234)]
    section = Section("S", (Plot(bars), Plot(line, half=True), Table(tuple("vwxyz"), rows),
                            Notes((("assumption", "<script>alert(1)</script>"),))))  # fmt: skip
    page = render(Report("T", "lead", (Headline("h", "90%"),), (section,), made_at=0.0))
    links = re.findall(r'(?:src|href|action)\s*=\s*"([^"]*)"', page)
    assert all(link.startswith(("#", "data:")) for link in links)
    urls = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'<)]*", page))
    assert urls <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script|<link rel=.stylesheet|@import|url\(", page)
    assert "&lt;script&gt;" in page
    assert "<b>old</b>" not in page
    assert page.count("<svg") == 4  # a wide and a narrow drawing of each
    for text in ("50%", "24% to 76%", "1,234", "a &amp; b", "1970-01-01"):
        assert text in page
    with pytest.raises(ValueError, match="does not fit the columns"):
        render(Report("T", "", (), (Section("S", (Table(("a",), [(1, 2)]),)),), 0.0))


def test_progress_counts_and_writes_plain_lines() -> None:
    now, out = [0.0], io.StringIO()
    with Progress("rehearse", 4, unit="steps", console=Console(file=out, width=200),
                  clock=lambda: now[0]) as progress:  # fmt: skip
        for reward in (0.25, 0.5):
            now[0] += 20.0
            progress.advance(reward=reward)
        assert progress.seconds_left == pytest.approx(40.0)
    last = out.getvalue().strip().splitlines()[-1]
    assert last.startswith("rehearse: 2/4 steps")
    assert "20.0 s/step" in last
    assert "reward 0.5" in last


def test_costs_at_list_prices() -> None:
    price = Price(2.0, 8.0, 0.5)
    usage = Usage(prompt_tokens=1_000_000, completion_tokens=500_000, cached_tokens=400_000)
    assert cost_of(usage, price) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.5 * 8)
    assert cost_of(Usage(), price) is None
    assert price_of("gpt-4o-mini-2024-07-18") == price_of("gpt-4o-mini")
    assert price_of("gpt-4o-2024-08-06") == price_of("gpt-4o") != price_of("gpt-4o-mini")
    assert price_of("unheard-of") is None
    entry = {"input_cost_per_token": 2e-6, "output_cost_per_token": 8e-6}
    found = prices_from_litellm({"m": entry, "free": {}}, "map")
    assert found == {"m": Price(pytest.approx(2.0), pytest.approx(8.0), None, "map")}  # type: ignore[arg-type]
