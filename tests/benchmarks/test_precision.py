"""`benchmarks.precision`: both precisions are computed, by turns, and compared round by round."""

import torch

from benchmarks import precision


def test_both_precisions_are_computed_and_compared_by_round(monkeypatch, capsys):
    computed = []

    def take_turns(variants, device, *, rounds, warmup):
        for name, task in variants.items():
            kept: list[torch.Tensor] = []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t, kept=kept: kept.append(t) or t, lambda t: t
            ):
                task()
            computed.append((name, any(t.dtype == torch.bfloat16 for t in kept)))
        return {"fp32": [2000.0, 1000.0], "bf16": [1000.0, 800.0]}

    monkeypatch.setattr(precision, "take_turns", take_turns)
    precision.main(rounds=2, only=("the demo's AdaMixer",))
    assert computed == [("fp32", False), ("bf16", True)]
    *_, row = capsys.readouterr().out.splitlines()
    assert row == "| the demo's AdaMixer | 1.50 | 0.90 | 0.65 | 0.50 to 0.80 |"
