# SPDX-License-Identifier: Apache-2.0
"""Reinforcement learning: what the stages ppo and grpo share."""
