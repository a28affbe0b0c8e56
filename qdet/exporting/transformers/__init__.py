"""The layout of transformers. In: detectors that it has, too. Out: other formats, reading."""
