"""What several tests need: small jobs and checkpoints, runs on several ranks, the papers' numbers."""
