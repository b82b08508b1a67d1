# SPDX-License-Identifier: Apache-2.0
"""From rows to features on disk: encoded in shards, joined, packed, kept under a fingerprint."""
