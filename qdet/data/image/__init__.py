"""One image: decode, resize, augment. In: pure functions of pixels and a view. Out: files, batches."""
