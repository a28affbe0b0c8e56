"""The noise of a recording, which the authors' code drew across all images, in the layout of a batch."""

import torch

from qdet.data.denoising.config import DenoisingConfig
from qdet.layers.denoising.apply import Denoised, denoise
from qdet.types import Noise, Targets
from tests.support.recordings import Recording, targets_of


def denoising_of(c: dict, **changes) -> DenoisingConfig:
    """The settings of DN-DETR's or DINO's configuration, grouped by batch as the authors do."""
    if "scalar" in c:
        settings = {
            "kind": "plain",
            "groups": c["scalar"],
            "label_noise": c["label_noise_scale"],
            "box_noise": c["box_noise_scale"],
        }
    else:
        doubled = 2 * c["dn_number"]  # under 100 it is a number of groups
        settings = {
            "kind": "contrastive",
            **({"queries": doubled} if doubled >= 100 else {"groups": doubled}),
            "label_noise": c["dn_label_noise_ratio"] / 2,
            "box_noise": c["dn_box_noise_scale"],
        }
    return DenoisingConfig(**{"grouping": "batch", **settings, **changes})


def noise_of(r: Recording, where: str, counts: tuple[int, ...]) -> Noise:
    """Noise recorded under `where`, whose rows go through all images before the next repetition."""
    n = {key: r[f"{where}/noise/{key}"] for key in ("label_uniform", "label_random", "box_uniform")}
    signs = r.tensors.get(f"{where}/noise/box_sign", torch.ones_like(n["box_uniform"]))
    choice = (n["label_random"] + 0.5) / r.classes
    columns = (n["label_uniform"][:, None], choice[:, None], n["box_uniform"], (signs + 1) / 2)
    numbers = torch.cat([c.to(r.dtype) for c in columns], dim=1)
    repetitions = len(numbers) // max(sum(counts), 1)
    by_image = numbers.unflatten(0, (repetitions, sum(counts))).split(counts, dim=1)
    packed = torch.cat([rows.flatten(0, 1) for rows in by_image])
    return Noise(packed, tuple(tuple(range(n)) for n in counts), (repetitions,) * len(counts))


def denoised(r: Recording, case: str, **changes) -> Denoised:
    """What training adds to the batch of a case."""
    targets, config = targets_of(r, case), denoising_of(r.config, **changes)
    return denoise(config, targets, noise_of(r, f"dn_{case}", targets.counts), r.sizes_hw, r.classes)


def alone(r: Recording, case: str) -> tuple[Targets, Noise]:
    """The objects of a case with the noise that each image got as the only one of its rank."""
    targets = targets_of(r, case)
    parts = [noise_of(r, f"ranks_{case}/image{i}", (n,)) for i, n in enumerate(targets.counts)]
    noise = Noise(
        torch.cat([p.numbers for p in parts]),
        tuple(p.objects[0] for p in parts),
        tuple(p.repetitions[0] for p in parts),
    )
    return targets, noise
