"""What travels with a submitted job. In: a project's folder. Out: the patterns that Ray packs it by."""
