# SPDX-License-Identifier: Apache-2.0
"""Figures of data and models that scripts print: lengths, perplexity, operations, a rate to begin with."""
