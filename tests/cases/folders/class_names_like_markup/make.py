"""Write a COCO dataset whose classes are named like markup."""

from tests.cases.small_coco import write

write(["[red]apple", "x[/small]", ":bee:", r"$\\x$", "it's"])
