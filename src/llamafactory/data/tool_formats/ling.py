# SPDX-License-Identifier: Apache-2.0
"""Ling 2: Qwen's calls; the tail of its tool list is worded differently."""

from dataclasses import replace

from .qwen import tool_format as qwen

tool_format = replace(qwen, tail=qwen.tail)
