# SPDX-License-Identifier: Apache-2.0
"""Classification and regression. ``run_classification(args, callbacks=None)`` runs it; imported on first use."""

from ...extras.lazy import exports

__getattr__ = exports(__name__, {"run_classification": "workflow"})
