# SPDX-License-Identifier: Apache-2.0
"""From conversations to token segments: literals, Jinja, and what caches their tokens."""
