"""DINO. In: parts that only it uses. Out: what a second detector needs."""
