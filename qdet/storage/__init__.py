"""Files anywhere: paths, URLs, locks, atomic writes. In: bytes by name. Out: what the bytes mean."""
