"""Read the small text files that hold annotations: safely, within a size, and with their name in every error.

XML may not define entities (defusedxml refuses them), YAML gives strings alone, and a file that is larger
than annotations can be is refused before it is parsed.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from xml.etree.ElementTree import Element, ParseError

import msgspec

from qdet.data.files.json_text import NESTED, check_utf8, plain_json
from qdet.errors import DataError

T = TypeVar("T")
TEXT_BYTES = 16 * 2**20
"""Size of the largest label file or XML file."""
YAML_BYTES = 2 * 2**20
"""Size of the largest YAML file; 10,000 class names take a tenth of it."""
JSON_BYTES = 4 * 2**30
"""Size of the largest JSON file; those of the largest public datasets take a quarter of it."""


def read_bytes(file: Path, most: int) -> bytes:
    """Read a file.

    Raises:
        DataError: It cannot be read or has more than `most` bytes.
    """
    try:
        if file.stat().st_size > most:
            raise DataError(f"{file} has more than {most:,} bytes, too many for annotations")
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


def read_text(file: Path) -> str:
    """Read a UTF-8 text file; a byte order mark is dropped."""
    return _decode(read_bytes(file, TEXT_BYTES), file)


def _decode(data: bytes, file: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file} is not UTF-8 text ({error.reason} at byte {error.start}, line {line}); save it as UTF-8"
        ) from error


def read_json(file: Path, kind: type[T]) -> T:
    """Read a JSON file as `kind`, skipping what that does not name.

    Raises:
        DataError: It is not JSON, or of another form.
    """
    text = plain_json(read_bytes(file, JSON_BYTES), where=str(file), most=JSON_BYTES)
    try:
        return msgspec.json.decode(text, type=kind)
    except UnicodeDecodeError:
        check_utf8(text, where=str(file))
        raise DataError(
            f"{file} has half of a surrogate pair (\\ud800 to \\udfff), which is no text"
        ) from None
    except RecursionError as error:
        raise DataError(f"{file} {NESTED}") from error
    except msgspec.DecodeError as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def read_xml(file: Path) -> Element:
    """Read an XML file; one that defines entities or refers to other files is refused."""
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    data = read_bytes(file, TEXT_BYTES)
    try:
        return fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError(
            f"{file} has a document type or entities, which annotations do not need and attacks use; "
            "remove them"
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise DataError(f"{file} is not XML: {error}") from error


def read_yaml(file: Path) -> Mapping[str, Any]:
    """Read a YAML file that holds a mapping; see `parse_yaml`."""
    return parse_yaml(_decode(read_bytes(file, YAML_BYTES), file), file)


def parse_yaml(text: str, file: Path) -> Mapping[str, Any]:
    """Parse YAML that holds a mapping of strings, lists and mappings.

    Scalars stay strings as they are written: a class named `no` or `1e3` keeps its name. Nothing is
    constructed or merged, so there are no objects and no keys that multiply.
    """
    import yaml

    loader = yaml.BaseLoader(text)
    try:
        content = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{file} is not YAML: {said}") from error
    finally:
        loader.dispose()
    if not isinstance(content, dict):
        raise DataError(f"{file} holds no `name: value` lines")
    return content


def read_csv(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and columns of every row of a CSV file with a header."""
    rows = csv.DictReader(io.StringIO(_decode(read_bytes(file, JSON_BYTES), file), newline=""))
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise DataError(f"{file}, line {rows.line_num}: is not CSV: {error}") from error
