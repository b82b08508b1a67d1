# SPDX-License-Identifier: Apache-2.0
"""Completions of prompts: the loop with tools, and the engines that generate."""
