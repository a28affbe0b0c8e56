"""Copy the job files into the built package; all other settings are in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithJobs(build_py):
    """`jobs/*.py` become `qdet/jobs/*.py`; an editable installation reads them where they are."""

    def run(self) -> None:
        """Build the package, then add the jobs."""
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib) / "qdet" / "jobs"
            folder.mkdir(parents=True, exist_ok=True)
            for job in sorted(Path("jobs").glob("*.py")):
                shutil.copyfile(job, folder / job.name)


setup(cmdclass={"build_py": BuildWithJobs})
