"""One module per detector: how the authors' settings build it here, and which of its layers were recorded."""
