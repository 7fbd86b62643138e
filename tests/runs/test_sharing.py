"""Per token against per GPU hour: plain arithmetic, checked by hand."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from understudy.core.prices import GpuPrice, SizePrice
from understudy.runs.sharing import (
    DAY,
    Speeds,
    Traffic,
    chart,
    million_of,
    sentences,
    sharing,
)

PRICE = SizePrice(8e9, trained=1.0, prompt=1.0, sampled=3.0, cached=0.5, source="s", date="d")
GPU = GpuPrice("g", 2.0, "s", "d")  # 48 dollars a day
SPEEDS = Speeds(dedicated=100.0, shared=80.0, load=0.5)  # 4.32 and 3.456 million tokens a day
TRAFFIC = Traffic(1e6, prompt=0.5, cached=0.5)


def test_the_price_of_a_million_tokens_is_that_of_their_mix() -> None:
    assert million_of(TRAFFIC, PRICE) == pytest.approx(0.25 * 1.0 + 0.25 * 0.5 + 0.5 * 3.0)
    assert million_of(replace(TRAFFIC, cached=0.0), replace(PRICE, cached=None)) == 2.0


def test_costs_are_of_whole_gpus_and_of_single_tokens() -> None:
    found = sharing(10, TRAFFIC, SPEEDS, PRICE, GPU)
    rows = {r.adapters: r for r in found.rows}
    assert set(rows) == set(range(1, 11))
    assert (rows[1].dedicated, rows[1].shared, rows[1].per_token) == (48, 48, 1.875)
    # 4 million tokens a day take two shared GPUs
    assert (rows[4].dedicated, rows[4].shared, rows[4].per_token) == (192, 96, 7.5)
    assert rows[4].cheapest == "per token"
    assert found.shared_from == 2
    assert found.shared_below == pytest.approx(80 * DAY / 2)
    assert found.million == 1.875


def test_who_gives_more_than_a_shared_gpu_does_not_share() -> None:
    busy = Traffic(4e6, prompt=0.5)
    found = sharing(10, busy, SPEEDS, PRICE, GPU)  # one GPU each, or 1.16 shared ones
    assert found.shared_from is None
    assert "never costs less" in sentences(found)[0]


def test_sharing_pays_from_where_it_always_does() -> None:
    """Whole GPUs make it pay here and there before; what counts is from where on it always does."""
    found = sharing(60, Traffic(3.3e6, prompt=0.5), SPEEDS, PRICE, GPU)
    start = found.shared_from
    assert start is not None
    rows = {r.adapters: r for r in sharing(60, found.traffic, SPEEDS, PRICE, GPU).rows}
    assert all(r.shared < r.dedicated for n, r in rows.items() if n >= start)
    assert not rows[start - 1].shared < rows[start - 1].dedicated


def test_a_gpu_pays_from_the_tokens_that_cost_as_much() -> None:
    dear = replace(PRICE, prompt=20.0, sampled=60.0, cached=None)
    found = sharing(4, Traffic(1e6, prompt=0.5), SPEEDS, dear, GPU)  # 40 dollars a million
    assert found.dedicated_above == pytest.approx(1.2e6)
    assert found.shared_above == pytest.approx(1.2e6)
    at = sharing(1, Traffic(1.2e6, prompt=0.5), SPEEDS, dear, GPU).rows[0]
    assert at.per_token == pytest.approx(at.dedicated)
    # cheap tokens: 4.32 million of them cost less than the 48 dollars of a GPU
    assert sharing(4, TRAFFIC, SPEEDS, PRICE, GPU).dedicated_above is None
    even = sharing(4, TRAFFIC, SPEEDS, PRICE, GPU).even
    faster = Speeds(even * 1.01, even * 0.99, 0.5)
    now = sharing(4, TRAFFIC, faster, PRICE, GPU)
    assert (now.dedicated_above is None, now.shared_above is None) == (False, True)


@pytest.mark.parametrize(
    ("adapters", "traffic", "speeds", "gpu"),
    [
        (0, TRAFFIC, SPEEDS, GPU),
        (10_001, TRAFFIC, SPEEDS, GPU),
        (1, replace(TRAFFIC, tokens=float("nan")), SPEEDS, GPU),
        (1, replace(TRAFFIC, prompt=1.5), SPEEDS, GPU),
        (1, TRAFFIC, replace(SPEEDS, shared=0.0), GPU),
        (1, TRAFFIC, replace(SPEEDS, load=0.0), GPU),
        (1, TRAFFIC, SPEEDS, replace(GPU, hour=0.0)),
    ],
)
def test_numbers_that_cannot_be(
    adapters: int, traffic: Traffic, speeds: Speeds, gpu: GpuPrice
) -> None:
    with pytest.raises(ValueError, match="must be"):
        sharing(adapters, traffic, speeds, PRICE, gpu)


def test_the_picture_has_a_line_for_each_way() -> None:
    found = sharing(500, TRAFFIC, SPEEDS, PRICE, GPU)
    assert len(found.rows) < 150
    root = ElementTree.fromstring(chart(found).svg())
    shown = {e.text for e in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"dedicated", "shared", "per token", "US dollars a day"} <= shown
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) == 3
