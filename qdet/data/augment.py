"""How training images are resized, cropped and flipped: the augmentation of DETR and its successors.

DETR (Carion et al., ECCV 2020, section 4); the authors' `datasets/coco.py`. With probability 1/2 the short
side becomes one of `sizes`; otherwise, where `crop` is on, it becomes one of `crop_sizes`, a window whose
sides are drawn from `crop_range` is cut out, and that window is resized as in the first case.
"""

from dataclasses import dataclass

from qdet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Sizes, crops and flips of training images, and the size of evaluated ones."""

    sizes: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """Lengths in pixels, one drawn per image, that the short side is resized to."""
    max_size: int = 1333
    """Longest side in pixels; an image that would exceed it becomes smaller than its drawn size."""
    flip: float = 0.5
    """Probability that an image is mirrored left to right."""
    crop: bool = False
    """Cut a random window out of half of the images."""
    crop_sizes: tuple[int, ...] = (400, 500, 600)
    """Lengths, one drawn per image, that the short side is resized to before a window is cut out."""
    crop_range: tuple[int, int] = (384, 600)
    """Shortest and longest side of that window; it never exceeds the image."""
    pad_multiple: int = 32
    """Batches are padded until both sides divide by this."""
    eval_size: int | None = None
    """Short side of evaluated images; by default the largest of `sizes`."""

    def __post_init__(self) -> None:
        """Reject what could never make an image, in the words of the command line."""
        for flag, lengths in (("sizes", self.sizes), ("crop-sizes", self.crop_sizes)):
            if not lengths or min(lengths) < 1:
                raise ConfigError(f"--data.augment.{flag} must be lengths of at least 1 pixel, got {lengths}")
        if self.max_size < max(self.sizes):
            raise ConfigError(
                f"--data.augment.max-size {self.max_size} is below the largest of --data.augment.sizes, "
                f"{max(self.sizes)}"
            )
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"--data.augment.flip is a probability, got {self.flip}")
        if not 1 <= self.crop_range[0] <= self.crop_range[1]:
            raise ConfigError(
                "--data.augment.crop-range must be the shortest and the longest side of a window, "
                f"got {self.crop_range[0]} and {self.crop_range[1]}"
            )
        if self.pad_multiple < 1:
            raise ConfigError(f"--data.augment.pad-multiple must be at least 1, got {self.pad_multiple}")
        if self.eval_size is not None and not 1 <= self.eval_size <= self.max_size:
            raise ConfigError(
                f"--data.augment.eval-size must lie between 1 and --data.augment.max-size {self.max_size}, "
                f"got {self.eval_size}"
            )

    @property
    def short_side_of_evaluation(self) -> int:
        """Short side of evaluated images, resolved."""
        return self.eval_size if self.eval_size is not None else max(self.sizes)
