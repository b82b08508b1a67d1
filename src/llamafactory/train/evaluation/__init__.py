# SPDX-License-Identifier: Apache-2.0
"""Evaluation sets: their exact loss, and generated responses with scores."""
