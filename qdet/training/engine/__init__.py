"""What runs and updates a detector. In: plain torch, DeepSpeed, the choice. Out: losses, the loop."""
