"""Use a trained model: load it, predict, evaluate. In: checkpoints, images. Out: training, Ray, the web."""
