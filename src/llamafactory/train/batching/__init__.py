# SPDX-License-Identifier: Apache-2.0
"""Which rows make up which micro-batch, map-style and streamed."""
