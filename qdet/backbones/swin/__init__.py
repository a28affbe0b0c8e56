"""Swin Transformer. In: parts that only Swin uses. Out: what another backbone or detector needs."""
