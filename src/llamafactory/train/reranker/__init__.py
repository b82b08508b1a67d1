# SPDX-License-Identifier: Apache-2.0
"""Scores of documents for a query. ``run_reranker(args, callbacks=None)`` runs it; imported on first use."""

from ...extras.lazy import exports

__getattr__ = exports(__name__, {"run_reranker": "workflow"})
