"""Fetch the authors' file of a model in the zoo, and convert it to a folder with a card."""

import shlex
from pathlib import Path

from qdet.backbones.download import Source, check_digest, download, forget
from qdet.convert.published import FILES, IMAGES, TOLERANCE, PublishedFile
from qdet.convert.recognize import Recognized
from qdet.errors import CheckpointError, ConfigError, did_you_mean
from qdet.launching.commands import conversion

CARD = "README.md"
_PYTORCH = b"PK\x03\x04", b"\x80"


def fetch(
    name: str,
    folder: Path,
    *,
    file: Path | None = None,
    sha256: str | None = None,
    shown: Path | None = None,
) -> Recognized:
    """Download the published file of a model, check it, and convert it into `folder`.

    Args:
        name: The model's name in the zoo.
        folder: Folder to write; it must not hold anything yet.
        file: The authors' file where it is here already; nothing is downloaded then.
        sha256: Digest that the file must have, or its first digits; by default the published one.
        shown: Name that the folder will have in the end; by default its own.

    Raises:
        ConfigError: There is no published file of that name.
        CheckpointError: It cannot be downloaded, or is another file; the message says what to do by hand.
    """
    published = find(name)
    digest = sha256 or published.sha256
    path = _download(name, published, digest) if file is None else file
    if not path.is_file():
        raise CheckpointError(f"--file {path}: there is no such file")
    found_digest = check_digest(path, Source(str(path), digest, flag="--file"))
    about = {
        "published.name": name,
        "published.ap": published.ap,
        "published.source": published.page,
        "published.sha256": found_digest,
    }
    found = conversion.convert(path, folder, dc5=published.dc5, about=about)
    (folder / CARD).write_text(card(name, published, found_digest, found, shown or folder))
    return found


def find(name: str) -> PublishedFile:
    """Return what is known of a published file; ConfigError where there is none of that name."""
    if name not in FILES:
        hint = did_you_mean(name, FILES)
        raise ConfigError(f"no file of {name} is published.{hint} There are: {', '.join(FILES)}")
    return FILES[name]


def by_hand(name: str, published: PublishedFile) -> str:
    """Say how a person gets the file."""
    return (
        f"download the file of {name} from {published.page} by hand ({published.licence}), then: "
        f"qdet zoo fetch {name} --file PATH"
    )


def _download(name: str, published: PublishedFile, digest: str | None) -> Path:
    if published.url is None:
        raise CheckpointError(f"no address leads to the file itself: {by_hand(name, published)}")
    source = Source(published.url, digest, ours=True, flag="--file")
    try:
        path = download(source)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. Or {by_hand(name, published)}") from error
    with path.open("rb") as content:
        begin = content.read(16)
    if not begin.startswith(_PYTORCH):
        forget(published.url)
        raise CheckpointError(
            f"{published.url} gave no PyTorch file, but what begins with {begin!r}: "
            f"{by_hand(name, published)}"
        )
    return path


def card(name: str, published: PublishedFile, digest: str, found: Recognized, folder: Path) -> str:
    """Return the text that lies beside the converted weights."""
    verified = "published" if published.sha256 else "not published; that of the file that was converted"
    model = shlex.quote(str(folder))
    return f"""# {name}

Weights of {found.title}, converted to qdet.

| | |
| --- | --- |
| authors' page | {published.page} |
| file | {published.url or "by hand, from that page"} |
| SHA-256 | `{digest}` ({verified}) |
| licence of the weights | {published.licence} |
| AP on COCO val2017, {IMAGES:,} images | {published.ap:.1f}, by the authors |
| images are prepared as by | `{found.pipeline}` |

    qdet predict {model} photo.jpg
    qdet evaluate {model} --data data/coco/val2017

The evaluation prints its AP beside the authors'; within {TOLERANCE} points they count as equal.
"""
