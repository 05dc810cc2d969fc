"""From a stack of canonical slices to the generator's input channels, the same in training and in use."""

from __future__ import annotations

import torch
from torch import Tensor

LOCATION_SCALE_MM = 48.0  # half the canonical space: its slices lie in about -1..1


def assemble_input(slices: Tensor, z_mm: Tensor, neighbours: int, location: bool, plane: float | None = None) -> Tensor:
    """Channels of every slice of a stack: slices k-n..k+n (edges repeat), `plane` if given, z_mm / 48 if `location`.

    slices (K, H, W) in [-1, 1] and z_mm (K,) in mm, the position along the stack; plane: see `planes.plane_code`
    -> (K, 2 * neighbours + 1 + (plane given) + location, H, W). A single 2D frame, K = 1, is its own neighbour.
    """
    count, height, width = slices.shape
    offsets = torch.arange(-neighbours, neighbours + 1, device=slices.device)
    index = torch.arange(count, device=slices.device)[:, None] + offsets[None, :]
    parts = [slices[index.clamp(0, count - 1)]]
    if plane is not None:
        parts.append(torch.full_like(slices[:, None], plane))
    if location:
        parts.append((z_mm.to(slices) / LOCATION_SCALE_MM).view(count, 1, 1, 1).expand(count, 1, height, width))
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
