# SPDX-License-Identifier: Apache-2.0
"""Keys of the memory-saving optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .field import arg
from .ranges import AT_LEAST_0, AT_LEAST_1, PART, POSITIVE, Range


@dataclass(frozen=True)
class GaloreArguments:
    """GaLore: gradients in a low-rank space."""

    use_galore: bool = arg(False, "Train with GaLore.")
    galore_target: str = arg(
        "all", "Modules whose gradients are projected, comma list; all = every linear layer.", comma=True
    )
    galore_rank: int = arg(16, "Projection rank.", within=AT_LEAST_1)
    galore_update_interval: int = arg(200, "Steps between new projections.", within=AT_LEAST_1)
    galore_scale: float = arg(2.0, "Factor of the update.", within=POSITIVE)
    galore_proj_type: Literal["std", "reverse_std", "right", "left", "full"] = arg("std", "Which side is projected.")
    galore_layerwise: bool = arg(False, "Per-layer optimizer hooks (single device).")


@dataclass(frozen=True)
class ApolloArguments:
    """APOLLO: gradient scaling in a low-rank space."""

    use_apollo: bool = arg(False, "Train with APOLLO.")
    apollo_target: str = arg(
        "all", "Modules whose gradients are projected, comma list; all = every linear layer.", comma=True
    )
    apollo_rank: int = arg(16, "Auxiliary rank.", within=AT_LEAST_1)
    apollo_update_interval: int = arg(200, "Steps between new projections.", within=AT_LEAST_1)
    apollo_scale: float = arg(32.0, "Factor of the update.", within=POSITIVE)
    apollo_proj: Literal["svd", "random"] = arg("random", "SVD or random projection.")
    apollo_proj_type: Literal["std", "right", "left"] = arg("std", "Which side is projected.")
    apollo_scale_type: Literal["channel", "tensor"] = arg("channel", "Per channel or per tensor scale.")
    apollo_layerwise: bool = arg(False, "Per-layer optimizer hooks (single device).")
    apollo_scale_front: bool = arg(False, "Norm-growth limiter before scaling.")


@dataclass(frozen=True)
class BAdamArguments:
    """BAdam: one block of weights at a time."""

    use_badam: bool = arg(False, "Train with BAdam.")
    badam_mode: Literal["layer", "ratio"] = arg("layer", "Block-wise or ratio-wise update.")
    badam_start_block: int | None = arg(None, "First active block.", within=AT_LEAST_0)
    badam_switch_mode: Literal["ascending", "descending", "random", "fixed"] | None = arg(
        "ascending", "Block visiting order."
    )
    badam_switch_interval: int | None = arg(
        50, "Steps per block, -1 = never switch.", within=Range(least=1, also=(-1,))
    )
    badam_update_ratio: float = arg(0.05, "Fraction of weights updated (ratio mode).", within=PART)
    badam_mask_mode: Literal["adjacent", "scatter"] = arg("adjacent", "Contiguous or random mask (ratio mode).")
    badam_verbose: int = arg(0, "0 silent / 1 block name / 2 parameter names.", within=Range(least=0, most=2))
