"""The documentation site: it builds, a broken link ends the build, and no page asks another host."""

import importlib.util
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

import qdet
from tests.support.recipes import REPO

pytest.importorskip("zensical")


def load_builder(file: Path):
    spec = importlib.util.spec_from_file_location("build_site", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builder = load_builder(REPO / "docs" / "site" / "build.py")


class Links(HTMLParser):
    """Collects what a page links to and loads."""

    def __init__(self) -> None:
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], set()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag in ("script", "img", "iframe") and attributes.get("src"):
            self.loaded.append(attributes["src"])
        if tag == "link" and attributes.get("rel") in ("stylesheet", "preload"):
            self.loaded.append(attributes["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    builder.build(out)
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    found = {}
    for file in site.rglob("*.html"):
        found[file] = Links()
        found[file].feed(file.read_text())
    return found


def test_every_page_of_the_repository_is_on_the_site(site: Path):
    listed = {source for section in builder.PAGES.values() for source in section.values()}
    written = {f"docs/{path.name}" for path in (REPO / "docs").glob("*.md")}
    assert written <= listed
    assert all((site / builder._name(source).replace(".md", ".html")).is_file() for source in listed)


def test_every_link_on_the_site_leads_somewhere(pages: dict[Path, Links]):
    broken = []
    for file, page in pages.items():
        if file.name == "404.html":
            continue
        for link in page.links:
            address, _, anchor = link.partition("#")
            if re.match(r"\w+:", address):
                continue
            target = (file.parent / address).resolve() if address else file
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append((file.name, link))
    assert not broken


def test_no_page_loads_anything_from_another_host(pages: dict[Path, Links]):
    assert not [(file.name, src) for file, page in pages.items() for src in page.loaded if "//" in src]


def test_every_public_name_has_its_docstring_in_the_reference(site: Path):
    text = "".join(file.read_text() for file in (site / "api").glob("*.html"))
    names = [name for name in qdet.__all__ if not name.isupper()]
    assert not [name for name in names if f'id="qdet.{name}"' not in text]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a](nowhere.md)", "docs/x.md: the link to nowhere.md leads nowhere"),
        ("[a](../../../../etc/passwd)", "leads nowhere"),
        ("![a](no.png)", "the link to no.png leads nowhere"),
    ],
)
def test_a_link_to_nothing_ends_the_build(text: str, says: str, tmp_path: Path):
    with pytest.raises(SystemExit, match=re.escape(says)):
        builder.relink(text, "docs/x.md", {}, tmp_path)


def test_a_missing_anchor_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("docs/use.md", "docs/site/zensical.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPO / name, tmp_path / name)
    (tmp_path / "README.md").write_text("# qdet\n\n[a](docs/use.md#no-such-heading)\n")
    monkeypatch.setattr(builder, "REPO", tmp_path)
    monkeypatch.setattr(builder, "PAGES", {"Start": {"Overview": "README.md", "Use": "docs/use.md"}})
    monkeypatch.setattr(builder, "API", {})
    (tmp_path / "docs" / "use.md").write_text("# Use\n")
    monkeypatch.setattr(builder, "_api_pages", lambda: iter([("api/x.md", "# X\n")]))
    with pytest.raises(SystemExit, match="the site was not built"):
        builder.build(tmp_path / "out")


def test_links_in_code_are_left_alone(tmp_path: Path):
    text = "`[a](b.md)`\n\n```\n[c](d.md)\n```\n"
    assert builder.relink(text, "docs/x.md", {}, tmp_path) == text
