# SPDX-License-Identifier: Apache-2.0
"""Commands that look at the data of a run: preview, preprocess, check-data."""
