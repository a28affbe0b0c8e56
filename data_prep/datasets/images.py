"""Images that annotation tools show turned, so that their boxes do not fit the pixels as stored."""

from collections.abc import Iterable
from pathlib import Path

from data_prep.wording import plural, shorten
from qdet.errors import DataError


def check_upright(turned: Iterable[Path]) -> None:
    """Raise DataError naming the images that EXIF turns or mirrors, if there are any."""
    named = [str(file) for file in turned]
    if named:
        raise DataError(
            f"EXIF turns or mirrors {plural(len(named), 'image')}, so their boxes would not fit the pixels "
            f"as stored; store them upright (mogrify -auto-orient) or remove them: {shorten(named)}"
        )
