# SPDX-License-Identifier: Apache-2.0
"""Where scripts for LLaMA-Factory's v1 engine look for it: there is one core, which reads that engine's files too."""

from . import launcher

__all__ = ["launcher"]
