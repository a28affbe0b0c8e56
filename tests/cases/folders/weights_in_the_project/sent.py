"""Print what a job that is submitted from this folder would carry."""

from pathlib import Path

from qdet.launching.ray_backend.uploading.upload import plan_upload

plan = plan_upload(Path.cwd())
print(plan.describe())
print("sent:", *sorted(plan.files))
