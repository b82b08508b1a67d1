# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts. ``run_embedding(args, callbacks=None)`` runs it; it is imported on first use."""

from ...extras.lazy import exports

__getattr__ = exports(__name__, {"run_embedding": "workflow"})
