"""Detections matched with ground truth as COCO does. In: a COCO dict and detection rows. Out: flat arrays."""
