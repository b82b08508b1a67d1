# SPDX-License-Identifier: Apache-2.0
"""Muon, which torch has by now; ``use_muon: true`` trains with it."""

from torch.optim import Muon

__all__ = ["Muon"]
