"""Write a model for other programs. In: loaded models, files to write. Out: how images are read."""
