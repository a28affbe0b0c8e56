"""Transformer encoders, decoders and proposals over tokens. In: stacks. Out: single attentions."""
