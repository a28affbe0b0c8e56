"""Names of the formats."""

from typing import Literal, get_args

from qdet.errors import ConfigError

Format = Literal["coco", "yolo", "voc", "labelme", "createml", "hf"]
FORMATS: tuple[Format, ...] = get_args(Format)


def check_format(name: str) -> Format:
    """Return the name of a format; ConfigError if there is no such format."""
    for known in FORMATS:
        if name == known:
            return known
    raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, got {name!r}")
