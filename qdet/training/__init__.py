"""The training engine: one `train(job)` on torch.distributed and DeepSpeed, without Ray."""
