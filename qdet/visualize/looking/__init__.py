"""What a detector looks at, recorded. In: a detector, one batch. Out: drawing."""
