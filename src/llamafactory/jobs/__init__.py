# SPDX-License-Identifier: Apache-2.0
"""Runs that outlive the page and the terminal they were asked for in: their store, their queue, their output."""

from .runner import ensure_runner
from .store import Job, JobStore

__all__ = ["Job", "JobStore", "ensure_runner"]
