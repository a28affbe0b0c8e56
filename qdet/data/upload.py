"""Copying batches to a GPU while it computes: by the readers that made them, on a stream of its own."""

import dataclasses

import torch

from qdet.types import Batch


class Upload:
    """Copies the images of a batch; the rest is small, and stays where training counts with it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.training = torch.cuda.current_stream(device)
        self.copies = torch.cuda.Stream(device)

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch once its images are on the device: the reader waits, training does not."""
        with torch.cuda.stream(self.copies):
            images = batch.images.pin_memory().to(self.device, non_blocking=True)
        self.copies.synchronize()
        # Copies may not be given this memory again before training, on its own stream, has done with it.
        images.record_stream(self.training)
        return dataclasses.replace(batch, images=images)
