# SPDX-License-Identifier: Apache-2.0
"""What a model is beneath the adapters that PEFT put around it."""

from __future__ import annotations

from typing import Any


def beneath_adapters(model: Any) -> Any:
    """Return the transformers model inside a PeftModel; one without adapters is returned as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
