"""What fits into a device's memory. In: the micro-batch, failed allocations. Out: the ZeRO stage."""
