"""A file per command that uses a trained model. In: flags. Out: what the commands do."""
