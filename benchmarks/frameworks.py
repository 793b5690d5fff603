"""Training beside other frameworks on this machine: the study's own way, PyTorch, and MONAI's U-Nets.

    python benchmarks/frameworks.py                          96 train slices, about ten minutes on 2 idle cores
    python benchmarks/frameworks.py --slices 32 8 --rounds 1 --epochs 2        whether it works

PyTorch and MONAI are installed once, into ``.bench/torch``: 1 GB where pip finds PyTorch without CUDA, several
otherwise. Each way trains at f = 4, 256 x 256, batch 32 in a process of its own, on all cores, with the same slices,
loss (the study's batch Dice) and Adam; the ways take turns, and the first epoch of each is not counted.

- the study's own way: tf.data that decodes PNG files anew in each epoch, and ``model.fit``, with oneDNN;
- PyTorch: our network layer by layer, from our start; that it answers as ours does is checked. Its slices lie decoded
  in memory as float32, its Adam is the fused one, and denormals are flushed, as TensorFlow flushes them. In both
  memory formats, and compiled by ``torch.compile``;
- MONAI: ``BasicUNet``, which is laid out as ours, and ``UNet``, which pools by strides and so computes a quarter of
  it; each of the width that brings it nearest to our number of parameters, in both memory formats.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from targets import mention, tell
from training import FILTERS, SIZE, measure, options_of, peak_mb, prepare

ROOT = Path(__file__).parent.parent
VERSIONS = ("torch==2.13.0", "monai==1.6.1", "numpy==2.4.6")
OURS = "liverseg"
WAYS = {
    "the study's own way": "fit",
    OURS: "ours",
    "PyTorch": "unet",
    "PyTorch, channels last": "unet-last",
    "PyTorch, compiled, channels last": "unet-compiled",
    "MONAI BasicUNet": "basic",
    "MONAI BasicUNet, channels last": "basic-last",
    "MONAI UNet": "strided",
    "MONAI UNet, channels last": "strided-last",
}
RIVALS = {
    "faster_fit": "the study",
    "faster_pytorch": "PyTorch",
    "faster_basic": "MONAI BasicUNet",
    "faster_strided": "MONAI UNet",
}
"""Target and how the names of its ways begin; the fastest of them counts."""

Found = dict[str, list[dict[str, Any]]]


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)
    options = options_of(__doc__, CHILDREN).parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child](options)))
        return
    from machine import machine

    print(machine())
    torch = installed()
    with tempfile.TemporaryDirectory() as name:
        options.folder = Path(name)
        train, _ = prepare(options.folder, dict(zip(("train", "val"), options.slices, strict=True)))
        print(f"{train} train slices, {SIZE} pixels, {FILTERS} filters, batch {options.batch}, {cores()} threads")
        hand_over(options)
        report(measured(options, torch), options.rounds)


def cores() -> int:
    return len(os.sched_getaffinity(0))


def installed() -> Path:
    """The Python of an environment that holds PyTorch and MONAI; made where there is none."""
    folder = ROOT / ".bench" / "torch"
    python, ready = folder / "bin" / "python", folder / " ".join(VERSIONS)
    if not ready.exists():
        print(f"installing {', '.join(VERSIONS)} into {folder}: 1 GB and more")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *VERSIONS]
        subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
        ready.touch()
    return python


def hand_over(options: argparse.Namespace) -> None:
    """The decoded train slices, our start and what it answers, for a process that knows no Keras."""
    from training import ours

    from liverseg_core.data.manifest import select

    spec, manifest, cache = ours(options)
    rows = list(select(manifest, spec.dataset)["train"])
    np.savez(options.folder / "slices.npz", images=cache.images[rows], masks=cache.masks[rows])
    measure("start", options, __file__)


def measured(options: argparse.Namespace, torch: Path) -> Found:
    found: Found = {way: [] for way in WAYS}
    for turn in range(options.rounds):
        for way, child in WAYS.items():
            if child in ("fit", "ours"):
                one = measure(child, options, TF_ENABLE_ONEDNN_OPTS="1")
            else:
                one = measure(child, options, __file__, torch)
            found[way].append(one)
            print(f"  round {turn + 1}  {way:34} {one['images_per_second']:7.1f}   last loss {one['loss']:.4f}")
    return found


def report(found: Found, rounds: int) -> None:
    rates = {way: median(one["images_per_second"] for one in every) for way, every in found.items()}
    print(f"\nimages/s, median of {rounds} (load {os.getloadavg()[0]:.1f})")
    for way, rate in rates.items():
        one, ratio = found[way][-1], rates[OURS] / rate
        more = "".join(f", {one[key]:,.{digits}f} {unit}" for key, digits, unit in MORE if key in one)
        mention(way, rate, "images/s", f"ours / this {ratio:.2f}, peak {one['peak_mb']:,.0f} MB{more}")
    print()
    for key, begin in RIVALS.items():
        rate, way = max((rate, way) for way, rate in rates.items() if way.startswith(begin))
        tell(key, rates[OURS] / rate, f"{way} {rate:.1f} images/s, liverseg {rates[OURS]:.1f}")


MORE = (("parameters", 0, "parameters"), ("megaflop", 0, "MFLOP an image forward"), ("first_s", 1, "s first epoch"))


# --- children -----------------------------------------------------------------------------------------------------


def start(options: argparse.Namespace) -> dict[str, Any]:
    """Keep our network's start, and what it makes of two slices."""
    from liverseg_core.networks import build_network
    from liverseg_core.spec import ModelOptions

    model = build_network(SIZE, ModelOptions(filters=FILTERS))
    images = np.load(options.folder / "slices.npz")["images"][:2, ..., None]
    weights = {f"{number:03}": array for number, array in enumerate(model.get_weights())}
    np.savez(options.folder / "start.npz", **weights, answer=model.predict(images, verbose=0))
    return {}


def torch_training(
    options: argparse.Namespace, network: Callable[[Path], Any], last: bool = False, compiled: bool = False
) -> dict[str, Any]:
    import torch

    torch.set_num_threads(cores())
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    form = torch.channels_last if last else torch.contiguous_format
    kept = np.load(options.folder / "slices.npz")
    images, masks = (torch.from_numpy(kept[kind])[:, None].to(memory_format=form) for kind in ("images", "masks"))
    model = network(options.folder).to(memory_format=form)
    told = {"parameters": parameters(model), "megaflop": megaflop(model)}
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7, fused=True)
    steps = len(images) // options.batch
    marks, loss = [time.monotonic()], 0.0
    for _ in range(options.epochs):
        losses = []
        for chosen in torch.randperm(len(images))[: steps * options.batch].split(options.batch):
            optimizer.zero_grad(set_to_none=True)
            value = dice_loss(masks[chosen], run(images[chosen]))
            value.backward()
            optimizer.step()
            losses.append(value.item())
        loss = sum(losses) / steps
        marks.append(time.monotonic())
    first, *seconds = (end - begin for begin, end in pairwise(marks))
    rate = steps * options.batch / median(seconds)
    return {**told, "images_per_second": rate, "loss": loss, "first_s": first, "peak_mb": peak_mb()}


def dice_loss(y: Any, p: Any) -> Any:
    """:class:`liverseg_core.losses.DiceLoss` over the whole batch."""
    return 1 - (2 * (y * p).abs().sum() + 1) / (y.square().sum() + p.square().sum() + 1)


def parameters(model: Any) -> int:
    return sum(one.numel() for one in model.parameters())


def megaflop(model: Any) -> float:
    """10^6 multiplications and additions of one image on its way forward, counted by PyTorch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, SIZE, SIZE))
    return float(counter.get_total_flops()) / 1e6


def study_network(folder: Path) -> Any:
    """Our network with our start; that it answers as ours does is asserted."""
    import torch

    kept = np.load(folder / "start.npz")
    weights = [kept[name] for name in sorted(kept.files) if name != "answer"]
    model = unet(FILTERS)
    assert parameters(model) == sum(array.size for array in weights)
    with torch.no_grad():
        for own, given in zip(model.parameters(), weights, strict=True):
            own.copy_(torch.from_numpy(given.transpose(3, 2, 0, 1) if given.ndim == 4 else given))
        images = torch.from_numpy(np.load(folder / "slices.npz")["images"][:2, None])
        answer = model.eval()(images).numpy()[:, 0, ..., None]
    assert np.allclose(answer, kept["answer"], atol=1e-4), np.abs(answer - kept["answer"]).max()
    return model.train()


def convolution(received: int, given: int, size: int = 3) -> Any:
    from torch import nn

    return nn.Sequential(nn.Conv2d(received, given, size, padding="same"), nn.ReLU())


def block(received: int, given: int) -> Any:
    from torch import nn

    return nn.Sequential(convolution(received, given), convolution(given, given))


def unet(filters: int, depth: int = 4, dropout: float = 0.5) -> Any:
    """:func:`liverseg_core.networks.build_network` with its defaults, [B, 1, S, S] to [B, 1, S, S].

    Its parameters come in the order of :func:`liverseg_core.weights.network_shapes`.
    """
    import torch
    from torch import nn

    class Decode(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.up = nn.Sequential(nn.Upsample(scale_factor=2), convolution(2 * width, width, 2))
            self.block = block(2 * width, width)

        def forward(self, skip: Any, x: Any) -> Any:
            return self.block(torch.cat([skip, self.up(x)], 1))

    class Unet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [filters * 2**level for level in range(depth + 1)]
            self.encoder = nn.ModuleList(map(block, [1, *widths], widths))
            self.decoder = nn.ModuleList(map(Decode, widths[-2::-1]))
            self.head = nn.Sequential(convolution(filters, 2), nn.Conv2d(2, 1, 1), nn.Sigmoid())
            self.pool, self.dropout = nn.MaxPool2d(2), nn.Dropout(dropout)

        def forward(self, x: Any) -> Any:
            skips = []
            for level, encode in enumerate(self.encoder):
                x = encode(self.pool(x) if level else x)
                x = self.dropout(x) if level >= depth - 1 else x
                skips.append(x)
            for decode, skip in zip(self.decoder, skips[-2::-1], strict=True):
                x = decode(skip, x)
            return self.head(x)

    return Unet()


def monai_network(make: Callable[[int], Any], folder: Path) -> Any:
    """That of a kind, by its width, whose number of parameters is nearest to ours; it ends in a sigmoid."""
    from torch import nn

    kept = np.load(folder / "start.npz")
    wanted = sum(kept[name].size for name in kept.files if name != "answer")
    made = (make(width) for width in range(2, 13))
    return nn.Sequential(min(made, key=lambda model: abs(parameters(model) - wanted)), nn.Sigmoid())


def basic(width: int) -> Any:
    from monai.networks.nets import BasicUNet

    return BasicUNet(2, 1, 1, features=[width * 2**level for level in (0, 1, 2, 3, 4, 0)])


def strided(width: int) -> Any:
    from monai.networks.nets import UNet

    return UNet(2, 1, 1, channels=[width * 2**level for level in range(5)], strides=[2] * 4)


KINDS = {"unet": study_network, "basic": partial(monai_network, basic), "strided": partial(monai_network, strided)}
CHILDREN: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "start": start,
    **{kind: partial(torch_training, network=network) for kind, network in KINDS.items()},
    **{f"{kind}-last": partial(torch_training, network=network, last=True) for kind, network in KINDS.items()},
    "unet-compiled": partial(torch_training, network=study_network, last=True, compiled=True),
}


if __name__ == "__main__":
    main()
