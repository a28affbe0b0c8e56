"""Files that stand in the place of another: archives, web pages, pointers of Git LFS."""

_KINDS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch that with: git lfs pull"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"BZh", "compressed by bzip2; unpack it"),
    (b"\xfd7zXZ", "compressed by xz; unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"<!doctype html", "a web page, not the file behind it; download it again"),
    (b"<html", "a web page, not the file behind it; download it again"),
)


def misplaced_kind(data: bytes) -> str | None:
    """Return what a file that begins with `data` is, and what to do; None of any other file."""
    begin = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((said for magic, said in _KINDS if begin.lower().startswith(magic.lower())), None)
