"""AdaMixer. In: parts that only AdaMixer uses. Out: what a second detector needs (qdet.layers)."""
