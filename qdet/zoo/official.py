"""Settings of a published training, as a configuration or a paper gives them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

Weights = tuple[float, float, float]
"""Of classification, L1 and GIoU."""


@dataclass(frozen=True, kw_only=True)
class Official:
    """Settings of one published training; `None` where neither a configuration nor a paper gives a value."""

    source: str
    """Whose word it is."""
    lr: float | None = None
    """Peak learning rate of what has no other."""
    backbone_lr: float | None = None
    sampling_lr: float | None = None
    """Learning rate of sampling offsets and reference points, where they have their own."""
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    no_decay: str | None = None
    """Parameters without weight decay."""
    clip_norm: float | None = None
    """Largest L2 norm of the gradient."""
    warmup: str | None = None
    """Steps of the linear warm-up, and the fraction that it starts from."""
    epochs: int | None = None
    drops: tuple[int, ...] | None = None
    """Epochs after which the learning rate falls to a tenth."""
    steps: int | None = None
    """Optimizer steps, where a configuration counts them instead of epochs."""
    drop_steps: tuple[int, ...] | None = None
    batch: int | None = None
    images_per_gpu: int | None = None
    sizes: tuple[int, int] | None = None
    """Least and largest short side."""
    longest: int | None = None
    """Longest side."""
    crop: bool | None = None
    crop_longest: int | None = None
    """Longest side of an image before a window is cut out; 0 is no limit."""
    flip: float | None = None
    filter: str | None = None
    """Filter of the resize."""
    empty: str | None = None
    """What happens to training images without objects."""
    padding: str | None = None
    """What a batch is padded to, and to multiples of what."""
    batches: str | None = None
    """Which images share a batch."""
    precision: str | None = None
    average: float | None = None
    """Decay of averaged weights; 0 is none."""
    loss: Weights | None = None
    matching: Weights | None = None
    dropout: float | None = None
    norms: str | None = None
    """What the batch norms of the backbone do."""
    drop_path: str | None = None
    """Largest rate of dropped paths, and the branches that are dropped."""
    centers: str | None = None
    """What becomes of anchor centres that are drawn at random."""

    def settings(self) -> Mapping[str, object]:
        """Return what is known, by name."""
        known = asdict(self)
        del known["source"]
        return {name: value for name, value in known.items() if value is not None}
