# SPDX-License-Identifier: Apache-2.0
"""Where scripts for LLaMA-Factory import its helpers from; the code lies elsewhere."""

from ..environment import is_env_enabled

__all__ = ["is_env_enabled"]
