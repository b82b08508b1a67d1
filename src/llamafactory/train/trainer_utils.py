# SPDX-License-Identifier: Apache-2.0
"""Functions around a trainer, where LLaMA-Factory's users import them from."""

from .callbacks.reporters import get_swanlab_callback
from .saving.outputs import create_modelcard_and_push

__all__ = ["create_modelcard_and_push", "get_swanlab_callback"]
