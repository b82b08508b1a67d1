# SPDX-License-Identifier: Apache-2.0
"""Configurations of other programs, in the keys of this one: a table each, and what no key of ours stands for."""

from .translation import DIALECTS, Translation, recognize, translate

__all__ = ["DIALECTS", "Translation", "recognize", "translate"]
