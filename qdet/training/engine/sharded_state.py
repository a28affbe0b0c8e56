"""The part of weights, AdamW's moments and their average that this rank saves, at every ZeRO stage.

    stage   weights and moments
    0       all ranks hold all of them: each saves an equal share of the bytes
    1, 2    this rank's part of DeepSpeed's flat fp32 groups; frozen parameters and buffers by equal shares
    3       this rank's slice of every parameter; buffers by equal shares

So saving needs no communication, and loading fills each rank's part from what any number of ranks saved.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdet.checkpoint import Checkpoint, Piece
from qdet.checkpoint.pieces import cut, even_shares
from qdet.training.distributed import World

MOMENTS = ("exp_avg", "exp_avg_sq")


class ShardedState:
    """This rank's part of the weights of `module` and of the moments of its optimizer.

    Args:
        module: The detector inside the engine.
        optimizer: torch's at stage 0, otherwise the one that DeepSpeed returned.
        stage: ZeRO stage of the engine; 0 is plain torch.
        world: The ranks.
    """

    def __init__(self, module: nn.Module, optimizer: Any, *, stage: int, world: World) -> None:
        self.module, self.stage, self.world = module, stage, world
        self._optimizer = optimizer
        kept = module.state_dict().keys()
        self._parameters = dict(module.named_parameters())
        self._buffers = [name for name, _ in module.named_buffers() if name in kept]
        self._shares = self._find_shares()

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shape of every parameter and buffer."""
        found = {name: list(getattr(p, "ds_shape", p.shape)) for name, p in self._parameters.items()}
        return found | {name: list(self.module.get_buffer(name).shape) for name in self._buffers}

    @property
    def trained(self) -> list[str]:
        """Names of the trainable parameters."""
        return [name for name, p in self._parameters.items() if p.requires_grad]

    @property
    def updates(self) -> int:
        """Steps that AdamW has made."""
        return next((int(state["step"]) for state in self._state().values() if "step" in state), 0)

    def pieces(self) -> list[Piece]:
        """Return this rank's part of weights and moments, as views of their memory."""
        self._link()
        found = [Piece(f"weights/{n}", s.start, self._weight(n, s)) for n, s in self._shares.items()]
        for key in MOMENTS if self.updates else ():
            for name in self.trained:
                if name in self._shares:
                    share = self._shares[name]
                    found.append(Piece(f"{key}/{name}", share.start, self._moment(name, key, share)))
        return found

    def copies(self) -> list[Tensor]:
        """Return what every rank holds whole, in one order: buffers, and by stage weights and moments."""
        found = [self.module.get_buffer(name) for name in self._buffers]
        if self.stage < 3:
            found += self._parameters.values()
        if self.stage == 0:
            found += [state[key] for state in self._state().values() for key in MOMENTS if key in state]
        return found

    def own(self) -> list[Tensor]:
        """Return what this rank alone holds, in one order: by stage its share of moments and of weights."""
        if self.stage == 0:
            return []
        if self.stage == 3:
            found = [p.ds_tensor for p in self._parameters.values()]  # pyright: ignore[reportAttributeAccessIssue]
        else:
            found = list(self._optimizer.single_partition_of_fp32_groups)
        return found + [state[key] for state in self._state().values() for key in MOMENTS if key in state]

    def piece_of(self, kind: str, name: str, held: Tensor) -> Piece | None:
        """Return this rank's part of a tensor that is laid out like parameter `name`, such as its average."""
        share = self._shares.get(name)
        if share is None:
            return None
        values = held.reshape(-1)[: len(share)] if self.stage == 3 else cut(held, share)
        return Piece(f"{kind}/{name}", share.start, values.detach())

    def held_part(self, saved: Checkpoint, name: str, like: Tensor) -> Tensor:
        """Return the part of a saved tensor that this rank holds: all, or its padded slice under ZeRO-3."""
        if self.stage != 3:
            return saved.whole(name)
        start = like.numel() * self.world.rank
        values = saved.part(name, range(start, start + like.numel()))
        return F.pad(values, (0, like.numel() - values.numel())).view_as(like)

    def load_moments(self, saved: Checkpoint) -> None:
        """Restore AdamW's state from `saved`."""
        if not saved.state.updates:  # AdamW makes its state in its first step
            return
        self._make_state(saved.state.updates)
        for key in MOMENTS:
            for name in self.trained:
                share = self._shares.get(name)
                if self.stage == 0:
                    self._state()[self._parameters[name]][key].copy_(saved.whole(f"{key}/{name}"))
                elif share is not None:
                    self._moment(name, key, share).copy_(saved.part(f"{key}/{name}", share))

    def _find_shares(self) -> dict[str, range]:
        by_bytes: dict[str, Tensor] = {name: self.module.get_buffer(name) for name in self._buffers}
        shares: dict[str, range] = {}
        for name, parameter in self._parameters.items():
            if self.stage == 3:
                size = parameter.ds_tensor.numel()  # pyright: ignore[reportAttributeAccessIssue]  (DeepSpeed's)
                start = size * self.world.rank
                numel = parameter.ds_numel  # pyright: ignore[reportAttributeAccessIssue]  (DeepSpeed's)
                shares[name] = range(start, min(start + size, numel))
            elif self.stage in (1, 2) and parameter.requires_grad:
                mapping = _fragment(parameter)
                if mapping is not None:
                    at = mapping.lp_fragment_address
                    shares[name] = range(at.start, at.start + at.numel)
            else:
                by_bytes[name] = parameter
        shares |= even_shares(by_bytes, rank=self.world.rank, world=self.world.size)
        return {name: share for name, share in shares.items() if len(share)}

    def _weight(self, name: str, share: range) -> Tensor:
        if name in self._buffers:
            return cut(self.module.get_buffer(name), share)
        parameter = self._parameters[name]
        if self.stage == 3:
            return parameter.ds_tensor.detach().reshape(-1)[: len(share)]  # pyright: ignore[reportAttributeAccessIssue]
        fragment = _fragment(parameter) if self.stage and parameter.requires_grad else None
        return fragment.get_hp_fragment().detach() if fragment is not None else cut(parameter, share)

    def _moment(self, name: str, key: str, share: range) -> Tensor:
        parameter = self._parameters[name]
        if self.stage == 0:
            return cut(self._state()[parameter][key], share)
        if self.stage == 3:  # DeepSpeed's own setter rejects padded sizes
            held, _ = self._optimizer._get_fp32_opt_state_partition(
                parameter, release_swap_buffers=False, optim_state_key=key
            )
            return held[: len(share)]
        return _fragment(parameter).get_hp_fragment(key)

    def _state(self) -> dict[Any, dict[str, Tensor]]:
        """Return the state of torch's optimizer, which DeepSpeed's holds."""
        inner = self._optimizer if self.stage == 0 else self._optimizer.optimizer
        return inner.state

    def _make_state(self, updates: int) -> None:
        """Create the state that AdamW otherwise makes in its first step."""
        if self.stage == 3:
            held = self._optimizer.fp32_partitioned_groups_flat
        elif self.stage == 0:
            held = [p for group in self._optimizer.param_groups for p in group["params"]]
        else:
            held = self._optimizer.single_partition_of_fp32_groups
        for tensor in held:
            self._state()[tensor] = {
                # One tensor each: a shared one would advance once per tensor.
                "step": torch.tensor(float(updates), device=tensor.device),  # where the fused step counts
                **{key: torch.zeros_like(tensor.detach()) for key in MOMENTS},
            }
        self._link()

    def _link(self) -> None:
        """Link each parameter to its slice of the flat state; DeepSpeed only links the first group."""
        if self.stage in (1, 2) and self._state():
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()


def _fragment(parameter: nn.Parameter) -> Any:
    """Return this rank's fragment of a parameter (ZeRO 1 and 2); None if it has none."""
    return getattr(parameter, "_hp_mapping", None)
