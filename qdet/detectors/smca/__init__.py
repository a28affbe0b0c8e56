"""SMCA, its three encoders. In: parts that only it uses. Out: what a second detector needs."""
