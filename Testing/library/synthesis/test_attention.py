"""The cross-modal attention against the formula written out with its N x N matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from USMRISynthesisLib.synthesis.attention import CrossModalAttention, attend_linear


def naive_attention(attention: CrossModalAttention, f_us: Tensor, f_mr: Tensor) -> Tensor:
    """eta(delta(f_U)^T . phi(f_U) . g(f_M)) + f_M with every one of its N x N weights."""
    q, k = attention.delta(f_us).flatten(2), attention.phi(f_us).flatten(2)
    v = attention.g(f_mr).flatten(2)
    weights = q.transpose(1, 2) @ k
    if attention.norm == "mean":
        weights = weights / weights.shape[-1]
    if attention.norm == "softmax":
        weights = (weights / q.shape[1] ** 0.5).softmax(dim=-1)
    attended = (weights @ v.transpose(1, 2)).transpose(1, 2)
    return attention.eta(attended.reshape(v.shape[:2] + f_mr.shape[2:])) + f_mr


def trained(us: int, mr: int, inner: int | None = None, norm: str = "mean") -> CrossModalAttention:
    """An attention whose eta is not zero any more."""
    attention = CrossModalAttention(us, mr, inner, norm)
    torch.nn.init.normal_(attention.eta.weight)
    return attention


@pytest.mark.parametrize("norm", ["none", "mean", "softmax"])
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_it_equals_the_formula_with_the_full_matrix(norm, batch, height, width, channels, seed):
    torch.manual_seed(seed)
    us, mr, inner = channels
    attention = trained(us, mr, inner, norm).double()
    f_us = torch.randn(batch, us, height, width, dtype=torch.float64)
    f_mr = torch.randn(batch, mr, height, width, dtype=torch.float64)
    torch.testing.assert_close(attention(f_us, f_mr), naive_attention(attention, f_us, f_mr), rtol=1e-9, atol=1e-9)


def test_in_single_precision_it_stays_within_1e_5_at_the_working_size():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 64, 40 * 40) for _ in range(3))
    exact = attend_linear(q.double(), k.double(), v.double(), True)
    torch.testing.assert_close(attend_linear(q, k, v, True).double(), exact, rtol=1e-5, atol=1e-5)


def test_before_training_it_changes_nothing():
    f_us, f_mr = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    assert torch.equal(CrossModalAttention(3, 5)(f_us, f_mr), f_mr)


def test_without_softmax_it_is_one_map_an_image_for_every_pixel():
    """Two pixels with the same f_U receive the same contribution, wherever they are."""
    torch.manual_seed(0)
    attention = trained(3, 4)
    f_us, f_mr = torch.randn(1, 3, 5, 5), torch.randn(1, 4, 5, 5)
    f_us[..., 4, 4] = f_us[..., 0, 1]
    added = attention(f_us, f_mr) - f_mr
    torch.testing.assert_close(added[..., 4, 4], added[..., 0, 1])


def test_the_mean_does_not_depend_on_how_often_the_image_repeats():
    torch.manual_seed(0)
    attention = trained(3, 4)
    f_us, f_mr = torch.randn(1, 3, 4, 4), torch.randn(1, 4, 4, 4)
    twice = attention(f_us.repeat(1, 1, 2, 1), f_mr.repeat(1, 1, 2, 1))
    torch.testing.assert_close(twice[:, :, :4], attention(f_us, f_mr))


@pytest.mark.parametrize("norm", ["none", "mean", "softmax"])
def test_the_gradient_reaches_both_modalities_and_every_embedding(norm):
    attention = trained(3, 4, norm=norm)
    f_us = torch.randn(1, 3, 4, 4, requires_grad=True)
    f_mr = torch.randn(1, 4, 4, 4, requires_grad=True)
    attention(f_us, f_mr).square().sum().backward()
    assert f_us.grad.abs().sum() > 0 and f_mr.grad.abs().sum() > 0
    for name in ("delta", "phi", "g", "eta"):
        assert getattr(attention, name).weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("norm", ["none", "mean", "softmax"])
def test_scripted_and_traced_equal_eager(norm):
    attention = trained(3, 4, norm=norm).eval()
    f_us, f_mr = torch.randn(2, 3, 4, 6), torch.randn(2, 4, 4, 6)
    expected = attention(f_us, f_mr)
    torch.testing.assert_close(torch.jit.script(attention)(f_us, f_mr), expected)
    torch.testing.assert_close(torch.jit.trace(attention, (f_us, f_mr))(f_us, f_mr), expected)


def test_the_sum_over_pixels_stays_in_float32_under_autocast():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 8, 400).bfloat16() for _ in range(3))
    exact = attend_linear(q.double(), k.double(), v.double(), True)
    assert attend_linear(q, k, v, True).dtype == torch.float32
    torch.testing.assert_close(attend_linear(q, k, v, True).double(), exact, rtol=1e-4, atol=1e-5)
    attention = trained(3, 4)
    f_us, f_mr = torch.randn(1, 3, 20, 20), torch.randn(1, 4, 20, 20)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(f_us, f_mr)
    torch.testing.assert_close(out.float(), attention(f_us, f_mr), rtol=0.1, atol=0.1)


def test_an_unknown_norm_is_named():
    with pytest.raises(ValueError, match="'sum'"):
        CrossModalAttention(2, 2, norm="sum")
