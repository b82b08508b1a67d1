# SPDX-License-Identifier: Apache-2.0
"""Rewards of completions: functions, reward models, their sum."""
