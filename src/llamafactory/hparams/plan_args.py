# SPDX-License-Identifier: Apache-2.0
"""What the command ``plan`` asks beyond the run that it plans."""

from __future__ import annotations

from dataclasses import dataclass

from .field import arg


@dataclass(frozen=True)
class PlanArguments:
    """Planning a run."""

    device: str | None = arg(
        None, "plan: a size (24GiB), a GPU (H100, 2xA100-80GB) or cpu; unset = what this machine has."
    )
