"""`qdet replay`."""

from collections.abc import Sequence
from dataclasses import dataclass

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class ReplayCommand:
    """Rerun a skipped step on the CPU: its first bad layer, and the range of values in every layer."""

    file: Positional[str]
    """A bad_step_*.safetensors in the folder of a run, by path or URL; or the run, for its last one."""

    def run(self, _: Sequence[str]) -> int:
        """Run the step, and print its layers."""
        from qdet.launching.commands.runs.step_replay import replay

        print(replay(self.file))
        return 0
