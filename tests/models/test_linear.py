"""Products by oneDNN are torch's own, with their gradients, and are taken where they are faster."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.models import linear as ours
from understudy.models.linear import ROWS, inner_product, linear, product

needs_onednn = pytest.mark.skipif(not ours.has_onednn(), reason="no oneDNN here")
SIZES = st.integers(1, 70)


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).norm()) <= 1e-5 * float(b.norm()) + 1e-12


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 300), width=SIZES, out=SIZES, bias=st.booleans(), batch=st.booleans())
def test_it_is_torchs_linear_with_its_gradients(
    rows: int, width: int, out: int, bias: bool, batch: bool
) -> None:
    shape = (1, rows, width) if batch else (rows, width)
    given = [drawn(*shape), drawn(out, width), *([drawn(out)] if bias else [])]
    found = []
    for function in (linear, F.linear):
        own = [x.clone().requires_grad_() for x in given]
        y = function(*own)
        found.append((y, *torch.autograd.grad(y, own, drawn(*y.shape))))
    for mine, right in zip(*found, strict=True):
        assert mine.shape == right.shape
        assert near(mine, right)


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 300), a=SIZES, b=SIZES)
def test_products_of_any_layout(rows: int, a: int, b: int) -> None:
    x, y, w = drawn(rows, a), drawn(rows, b), drawn(a, b)
    assert near(inner_product(x, y), x.t() @ y)
    assert near(product(x, w.t()), x @ w)
    columns = drawn(a, rows).t()  # a transposed view
    assert near(product(columns, w.t()), columns @ w)
    assert near(inner_product(columns, y), columns.t() @ y)


@needs_onednn
def test_it_is_taken_for_many_rows_in_float32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    apply = ours._Linear.apply
    monkeypatch.setattr(ours._Linear, "apply", lambda *x: (taken.append(1), apply(*x))[1])
    weight = drawn(8, 8)
    linear(drawn(ROWS, 8), weight)
    assert taken == [1]
    linear(drawn(ROWS - 1, 8), weight)
    linear(drawn(ROWS, 8).double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(drawn(ROWS, 8), weight).dtype == torch.bfloat16
    assert taken == [1]


@needs_onednn
def test_a_frozen_weight_has_no_gradient_and_costs_no_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ours, "inner_product", None)  # would fail if it were called
    x = drawn(ROWS, 8).requires_grad_()
    weight = drawn(4, 8)
    linear(x, weight).sum().backward()
    assert near(x.grad, weight.sum(0).expand(ROWS, 8))
