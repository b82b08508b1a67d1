# SPDX-License-Identifier: Apache-2.0
"""Where scripts for LLaMA-Factory import the drawing of losses from (its own spelling); the code lies elsewhere."""

from .plotting import plot_loss

__all__ = ["plot_loss"]
