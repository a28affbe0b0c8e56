"""Evaluate the lines in bash."""

import subprocess
import sys

from qdet.launching.ray_backend.head import Head, export_lines

TOKEN = """/home/me/it's "my" $HOME `id`/.qdet/ray-token"""
head = Head(
    pid=1,
    born=None,
    address="127.0.0.1:6379",
    dashboard="http://127.0.0.1:8265",
    agent="http://127.0.0.1:52365",
    environment={"RAY_AUTH_TOKEN_PATH": TOKEN},
)
command = 'eval "$0"; printf %s "$RAY_AUTH_TOKEN_PATH"'
found = subprocess.run(
    ["bash", "-c", command, export_lines(head)], capture_output=True, text=True, check=True
)
print(found.stdout)
sys.exit(found.stdout != TOKEN)
