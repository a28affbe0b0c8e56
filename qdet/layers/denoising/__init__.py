"""Extra queries in training. In: objects and their noise. Out: queries, contents, what they should find."""
