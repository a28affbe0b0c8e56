"""One way to open what a URL names."""

import pytest

from qdet.storage import filesystem as storage


def test_a_url_gives_its_file_system_and_the_path_in_it(tmp_path):
    (tmp_path / "here").write_bytes(b"1")
    files, path = storage.filesystem(f"file://{tmp_path}/")
    assert path == str(tmp_path)
    assert files.cat_file(f"{path}/here") == b"1"


def test_a_bucket_is_opened_once_for_all_its_folders(bucket):
    files, path = storage.filesystem(f"{bucket}/one/two/")
    assert path == "shelf/one/two"
    with files.open(f"{path}/name", "wb") as out:
        out.write(b"here")
    same, root = storage.filesystem(bucket)
    assert same is files
    assert root == "shelf"
    assert same.cat_file("shelf/one/two/name") == b"here"


def test_credentials_in_a_url_are_no_part_of_the_path(bucket):
    files, path = storage.filesystem("s3://of:nobody@shelf/one")
    assert path == "shelf/one"
    files.pipe_file(f"{path}/name", b"here")
    assert storage.filesystem(bucket)[0].cat_file("shelf/one/name") == b"here"


@pytest.mark.parametrize("url", ["nothing://here/there", "s3://", "gs://"])
def test_an_unknown_url_scheme_is_a_value_error(url):
    with pytest.raises(ValueError, match=r"\S"):
        storage.filesystem(url)
