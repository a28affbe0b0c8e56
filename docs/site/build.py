"""Build the documentation site: the repository's own Markdown files, and an API reference from docstrings.

    python docs/site/build.py --out site

A page reads the same in the repository and on the site. Links between pages are turned into the site's; what
they link to in the repository but is no page of the site, such as source code, becomes plain text. A link to
nothing ends the build.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import qdet

REPO = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("zensical.toml")
PAGES: Mapping[str, Mapping[str, str]] = {
    "Start": {"Overview": "README.md", "Changelog": "CHANGELOG.md"},
    "Use": {
        "Predict": "docs/use.md",
        "Evaluate": "docs/evaluate.md",
        "Look inside": "docs/visualize.md",
        "Export": "docs/export.md",
        "Serve": "docs/serving.md",
    },
    "Train": {
        "Your own images": "docs/own_data_training.md",
        "Jobs": "docs/jobs.md",
        "Sweeps and ablations": "docs/sweeps.md",
        "Denoising": "docs/denoising.md",
        "Your own data": "docs/own_data.md",
        "Data": "docs/data.md",
        "MLflow": "docs/mlflow.md",
        "Clusters": "docs/clusters.md",
        "Reliability": "docs/reliability.md",
        "Error messages": "docs/errors.md",
        "Exit codes": "docs/exit_codes.md",
        "Callbacks and loggers": "docs/extend.md",
    },
    "Background": {
        "Architecture": "ARCHITECTURE.md",
        "Benchmarks": "docs/benchmarks.md",
        "Performance": "docs/performance.md",
        "Scale": "docs/scale.md",
        "Convergence": "docs/convergence.md",
        "Certificates": "docs/certificates.md",
        "Decisions": "docs/decisions.md",
        "Papers, item by item": "docs/seeds.md",
        "Deviations": "docs/deviations.md",
        "Versions": "docs/versions.md",
        "Compared": "docs/compared.md",
        "Contributing": "CONTRIBUTING.md",
    },
}
"""Title of a section to the titles of its pages and the files that they are made of."""
API: Mapping[str, str] = {
    "Use a model": "load Model Detections evaluate Report export",
    "A job": "launch Job DataConfig AugmentConfig OptimConfig TrainConfig EvalConfig StoreConfig TrackConfig "
    "SetLossConfig DenoisingConfig Callbacks",
    "Recipes and sweeps": "Published Variant Table Sweep Choice Each Uniform LogUniform",
}
"""Pages of the API reference; what else is exported, configurations of models, has a page of its own."""
CODE_OR_LINK = re.compile(
    r"```.*?```|(?P<picture>!?)\[(?P<label>[^\]]*)\]\((?P<target>[^)\s]+)\)|`[^`\n]*`", re.DOTALL
)


def build(out: Path) -> None:
    """Write the site.

    Raises:
        SystemExit: A link leads nowhere, or the generator failed; what is wrong is printed.
    """
    with tempfile.TemporaryDirectory(prefix="qdet-site-") as folder:
        root = Path(folder)
        stage(root)
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", root / CONFIG.name]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the site was not built:\n{done.stdout}{done.stderr}")
        shutil.copytree(root / "site", out, dirs_exist_ok=True)
    print(f"{out}: {sum(1 for _ in out.rglob('*.html'))} pages")


def stage(root: Path) -> None:
    """Write what the generator reads: its settings, the pages, and the files beside them."""
    names = {source: _name(source) for section in PAGES.values() for source in section.values()}
    pages = root / "docs"
    for source, name in names.items():
        target = pages / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(relink((REPO / source).read_text(), source, names, pages))
    for name, text in _api_pages():
        (pages / "api").mkdir(exist_ok=True)
        (pages / name).write_text(text)
    settings = CONFIG.read_text().replace("@NAV@", _nav(names)).replace("@REPO@", str(REPO))
    (root / CONFIG.name).write_text(settings)


def relink(text: str, source: str, names: Mapping[str, str], pages: Path) -> str:
    """Return a page with the site's links; pictures and other files that it shows are copied beside it.

    Args:
        text: The page.
        source: Its file in the repository.
        names: File in the repository to file in the site, of every page.
        pages: Folder of the site's pages.

    Raises:
        SystemExit: A link leads nowhere.
    """

    def replace(found: re.Match[str]) -> str:
        picture, label, target = found["picture"], found["label"], found["target"] or ""
        address, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not address:
            return found[0]
        file = (REPO / source).parent.joinpath(address).resolve()
        if not file.exists() or not file.is_relative_to(REPO):
            raise SystemExit(f"{source}: the link to {target} leads nowhere")
        there = str(file.relative_to(REPO))
        if there in names:
            return f"{picture}[{label}]({names[there]}{'#' if anchor else ''}{anchor})"
        if file.suffix in (".png", ".svg", ".json", ".ipynb"):
            copy = pages / "files" / there.replace("/", "-")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            return f"{picture}[{label}](files/{copy.name})"
        return label

    return CODE_OR_LINK.sub(replace, text)


def _name(source: str) -> str:
    return "index.md" if source == "README.md" else Path(source).name.lower()


def _api_pages() -> Iterator[tuple[str, str]]:
    listed = {name for names in API.values() for name in names.split()}
    rest = " ".join(name for name in qdet.__all__ if name not in listed and not name.isupper())
    for title, names in {**API, "Models and their parts": rest}.items():
        blocks = (f"::: qdet.{name}\n" for name in names.split())
        yield f"api/{title.lower().replace(' ', '-')}.md", f"# {title}\n\n" + "\n".join(blocks)


def _nav(names: Mapping[str, str]) -> str:
    sections = {
        title: {page: names[source] for page, source in section.items()} for title, section in PAGES.items()
    }
    sections["API"] = {text.splitlines()[0].lstrip("# "): name for name, text in _api_pages()}
    lines = (
        f'{{ "{title}" = [{", ".join(f"""{{ "{page}" = "{name}" }}""" for page, name in section.items())}] }}'
        for title, section in sections.items()
    )
    return "[\n    " + ",\n    ".join(lines) + ",\n]"


def main() -> None:
    """Command line of this file."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--out", type=Path, default=Path("site"), help="folder to write (default: site)")
    build(parser.parse_args().out)


if __name__ == "__main__":
    main()
