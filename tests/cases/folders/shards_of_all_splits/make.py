"""Write a small COCO dataset."""

from tests.cases.small_coco import write

write(["a"])
