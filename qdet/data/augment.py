"""How training images are changed at random, and how all images are resized.

The default is the augmentation of DETR (Carion et al., ECCV 2020, section 4; the authors' `datasets/coco.py`)
and of most of its successors. With probability 1/2 the short side becomes one of `sizes`; otherwise, where
`crop` is on, it becomes one of `crop_sizes`, a window whose sides are drawn from `crop_range` is cut out, and
that window is resized as in the first case. Everything else that is drawn is off by default. `pipeline` says
whose rules of rounding, filtering and leaving out apply to what is drawn (`qdet.data.image.pipelines`).
"""

from dataclasses import dataclass, replace

from qdet.data.image.pipelines import RULES, Pipeline, Rules
from qdet.data.image.resize import Resize
from qdet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Sizes, crops, flips and mixtures of training images, and the size of evaluated ones."""

    pipeline: Pipeline = "detr"
    """Whose training code images are prepared as: DETR's, mmdetection's or detectron2's. It decides how sizes
    are rounded, the filter, and which images and boxes are left out; prediction follows it as well."""
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
    scale_jitter: tuple[float, float] | None = None
    """Large-scale jitter in place of `sizes` and `crop`: images are scaled by a factor from this range, such
    as 0.1 2.0, of what fits into `jitter_size`, and what does not fit is cut off."""
    jitter_size: int = 1024
    """Side in pixels of the square that jittered images are fitted into."""
    photometric: bool = False
    """Change brightness, contrast, saturation, hue and the order of the channels at random, as SSD does."""
    mosaic: float = 0.0
    """Probability that an image is seen as one of four around a point, as in YOLOv4."""
    mosaic_size: int = 640
    """Side in pixels of the square that each image of a mosaic is fitted into; the mosaic's is twice that."""
    mixup: float = 0.0
    """Probability that an image is blended half and half with another one, as in YOLOX."""
    resize: Resize | None = None
    """Filter of training, evaluation and exported models: Pillow's bilinear one, which averages where an
    image shrinks (`pillow-exact`: without the shortcut that may be off by 1 of 255), or that of OpenCV and
    mmdetection, which does not; by default that of `pipeline`."""
    pad_multiple: int = 32
    """Batches are padded until both sides divide by this."""
    eval_size: int | None = None
    """Short side of evaluated images; by default the largest of `sizes`."""

    def __post_init__(self) -> None:
        """Reject settings that could make no image."""
        for flag, lengths in (("sizes", self.sizes), ("crop-sizes", self.crop_sizes)):
            if not lengths or min(lengths) < 1:
                raise ConfigError(f"--data.augment.{flag} must be lengths of at least 1 pixel, got {lengths}")
        if self.max_size < max(self.sizes):
            raise ConfigError(
                f"--data.augment.max-size {self.max_size} is below the largest of --data.augment.sizes, "
                f"{max(self.sizes)}"
            )
        for name in ("flip", "mosaic", "mixup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"--data.augment.{name} is a probability, got {getattr(self, name)}")
        if not 1 <= self.crop_range[0] <= self.crop_range[1]:
            raise ConfigError(
                "--data.augment.crop-range must be the shortest and the longest side of a window, "
                f"got {self.crop_range[0]} and {self.crop_range[1]}"
            )
        for name, least in (("pad_multiple", 1), ("jitter_size", 1), ("mosaic_size", 2)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise ConfigError(
                    f"--data.augment.{flag} must be at least {least}, got {getattr(self, name)}"
                )
        if self.eval_size is not None and not 1 <= self.eval_size <= self.max_size:
            raise ConfigError(
                f"--data.augment.eval-size must lie between 1 and --data.augment.max-size {self.max_size}, "
                f"got {self.eval_size}"
            )
        self._check_jitter()

    def _check_jitter(self) -> None:
        if self.scale_jitter is None:
            return
        if not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise ConfigError(
                "--data.augment.scale-jitter must be the least and the largest factor, both above 0, got "
                f"{self.scale_jitter[0]} and {self.scale_jitter[1]}"
            )
        if self.crop:
            raise ConfigError(
                "--data.augment.scale-jitter cuts images by itself; give --data.augment.no-crop with it"
            )

    def at_size(self, short: int) -> "AugmentConfig":
        """Return these settings with evaluated images of that short side, the longest side in proportion.

        Raises:
            ConfigError: It is below 1.
        """
        if short < 1:
            raise ConfigError(f"size must be at least 1 pixel, got {short}")
        longest = max(short, round(self.max_size * short / self.short_side_of_evaluation))
        return replace(self, sizes=(short,), eval_size=short, max_size=longest)

    @property
    def rules(self) -> Rules:
        """What `pipeline` decides."""
        return RULES[self.pipeline]

    @property
    def filter(self) -> Resize:
        """Filter of `resize`, resolved."""
        return self.resize or self.rules.filter

    @property
    def short_side_of_evaluation(self) -> int:
        """Short side of evaluated images, resolved."""
        return self.eval_size if self.eval_size is not None else max(self.sizes)
