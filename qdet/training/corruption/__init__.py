"""Find silently wrong bytes. In: computing again, comparing ranks. Out: non-finite numbers, damaged files."""
