"""Weight matrices: whichever form computes, the product is the same."""

import pytest
import torch

from understudy.engine import matrix as m


def _relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("rows", [1, m.ROWS - 1, m.ROWS, 64])
@pytest.mark.parametrize("shape", [(48, 32), (1030, 1024)], ids=["small", "large"])
def test_products_in_every_form(rows: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(shape), torch.randn(shape[0])
    x, y = torch.randn(rows, shape[1]), torch.randn(rows, shape[0])
    expected = x.double() @ weight.double().T
    before = y.clone()
    matrix = m.matrix(weight)
    assert _relative_error(matrix(x), expected) < 1e-6
    assert _relative_error(matrix(x, bias), expected + bias) < 1e-6
    assert _relative_error(matrix.added(y, x), expected + y) < 1e-6
    assert torch.equal(y, before)
    assert _relative_error(matrix(x.T.contiguous().T), expected) < 1e-6


@pytest.mark.parametrize("shape", [(48, 32), (1030, 1024)], ids=["small", "large"])
def test_the_weight_is_had_back_and_a_large_one_held_once(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    matrix = m.matrix(weight)
    assert torch.equal(matrix.dense(), weight)
    assert matrix.shape == shape
    if m.has_onednn():
        assert (matrix.plain is None) == (weight.numel() > m.SMALL)


def test_padding_of_the_vocabulary_stays_minus_infinity() -> None:
    bias = torch.zeros(8)
    bias[5:] = -torch.inf
    logits = m.matrix(torch.randn(8, 4))(torch.randn(m.ROWS, 4), bias)
    assert bool((logits[:, 5:] == -torch.inf).all())
    assert bool(logits[:, :5].isfinite().all())


def test_other_types_stay_plain() -> None:
    assert m.matrix(torch.randn(3, 3, dtype=torch.float64)).packed is None
