# SPDX-License-Identifier: Apache-2.0
"""Rules between keys: ``rules/X.py`` holds those of ``X_args.py``, and each is one line that names the key."""
