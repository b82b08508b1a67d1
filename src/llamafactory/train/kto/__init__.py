# SPDX-License-Identifier: Apache-2.0
"""Preference optimisation on judged completions. ``run_kto(args, callbacks=None)`` runs it, imported on first use."""

from ...extras.lazy import exports

__getattr__ = exports(__name__, {"run_kto": "workflow"})
