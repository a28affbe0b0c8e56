"""Findings as one HTML file. In: findings and photographs. Out: text that needs no other file, no network."""
