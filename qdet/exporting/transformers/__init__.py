"""The layout of transformers. In: detectors that it has as well. Out: other formats, and reading the layout."""
