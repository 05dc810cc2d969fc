"""Cross-modal attention between the ultrasound decoder B and the MR decoder C (Jiao 2019, section 2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("none", "mean", "softmax")


class CrossModalAttention(nn.Module):
    """f~_M = eta( delta(f_U)^T . phi(f_U) . g(f_M) ) + f_M, all embeddings 1x1 convolutions.

    With N pixels and C' inner channels, Q = delta(f_U)^T, K = phi(f_U)^T and V = g(f_M)^T are N x C'. The
    formula has no softmax, so the product re-associates exactly, (Q K^T) V = Q (K^T V), and the N x N matrix
    is never built: O(N C'^2) instead of O(N^2 C').

    What that means: without a softmax the whole term is *one* C' x C' map an image, K^T V, applied at every
    pixel alike. Only `norm="softmax"` gives weights that depend on the pair of positions.

    `norm`:
      - "none": the formula as printed; the term grows with the image, N.
      - "mean": divided by N, so that it does not depend on the image's size.
      - "softmax": softmax over the keys, scaled by 1/sqrt(C'), without the N x N matrix either.

    `eta` starts at zero: an untrained block is the identity on f_M.

    Shapes: f_us (B, us_channels, h, w), f_mr (B, mr_channels, h, w) -> (B, mr_channels, h, w).
    """

    def __init__(
        self, us_channels: int, mr_channels: int, inner_channels: int | None = None, norm: str = "mean"
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"attention norm must be one of {NORMS}, not {norm!r}")
        inner = mr_channels if inner_channels is None else inner_channels
        self.norm = norm
        self.delta = nn.Conv2d(us_channels, inner, 1)
        self.phi = nn.Conv2d(us_channels, inner, 1)
        self.g = nn.Conv2d(mr_channels, inner, 1)
        self.eta = nn.Conv2d(inner, mr_channels, 1)
        nn.init.zeros_(self.eta.weight)
        if self.eta.bias is not None:
            nn.init.zeros_(self.eta.bias)

    def forward(self, f_us: Tensor, f_mr: Tensor) -> Tensor:
        q = self.delta(f_us).flatten(2)
        k = self.phi(f_us).flatten(2)
        v = self.g(f_mr).flatten(2)
        if self.norm == "softmax":
            attended = attend_softmax(q, k, v)
        elif torch.jit.is_scripting():
            attended = attend_linear(q, k, v, self.norm == "mean")
        else:
            # Autocast would turn the sum over all pixels into a half-precision product.
            with torch.autocast(q.device.type, enabled=False):
                if torch.jit.is_tracing():  # a trace keeps no branch: it has to sum in float32 whatever comes
                    q, k, v = q.float(), k.float(), v.float()
                attended = attend_linear(q, k, v, self.norm == "mean")
        return self.eta(attended.type_as(f_mr).view_as(v).unflatten(2, f_mr.shape[2:])) + f_mr


def attend_linear(q: Tensor, k: Tensor, v: Tensor, mean: bool) -> Tensor:
    """Q (K^T V), or Q (K^T V) / N when `mean`. q, k, v and the result are (B, C', N).

    Half-precision inputs are summed in float32; float64 stays float64.
    """
    if q.dtype == torch.float16 or q.dtype == torch.bfloat16:
        q, k, v = q.float(), k.float(), v.float()
    context = torch.bmm(v, k.transpose(1, 2))  # (B, C', C'): V^T K, summed over the pixels
    if mean:
        context = context / float(k.shape[2])
    return torch.bmm(context, q)


def attend_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(C')) V over the keys. q, k, v and the result are (B, C', N).

    On views that are not contiguous `scaled_dot_product_attention` falls back to N x N memory: copy first.
    """
    attended = F.scaled_dot_product_attention(
        q.transpose(1, 2).unsqueeze(1).contiguous(),
        k.transpose(1, 2).unsqueeze(1).contiguous(),
        v.transpose(1, 2).unsqueeze(1).contiguous(),
    )
    return attended.squeeze(1).transpose(1, 2).contiguous()
