# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of one form in another: what the scripts that convert call."""
