"""Answer HTTP requests with a model on Ray Serve. In: loaded models. Out: training, files."""
