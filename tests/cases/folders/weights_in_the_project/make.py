"""Write a project with weights and a dataset in it."""

from pathlib import Path

FILES = [
    "run.py",
    "mine/__init__.py",
    "mine/anchors.npz",
    "model [1].safetensors",
    "weights/detr/rank_0.safetensors",
]
for name in [*FILES, *(f"datasets/mine/{i}.{kind}" for i in range(10) for kind in ("jpg", "txt"))]:
    file = Path("project", name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(1000))
