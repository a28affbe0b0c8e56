"""DAB-DETR and DN-DETR. In: parts that only they use. Out: what a second detector needs."""
