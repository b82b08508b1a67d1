# SPDX-License-Identifier: Apache-2.0
"""The fields of the page: their table, what they mean together, and what the page makes of them."""
