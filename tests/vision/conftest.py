# SPDX-License-Identifier: Apache-2.0
"""These tests are for the environment that has torchvision; elsewhere they are not there, rather than skipped."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torchvision") else ["test_*.py"]
