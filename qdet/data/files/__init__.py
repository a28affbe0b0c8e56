"""Shard bytes on this machine: disk, cache, pipes. In: bytes by offset. Out: images, samples, plans."""
