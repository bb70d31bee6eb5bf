"""ResNets against torchvision's with the same weights: the largest distance of their outputs.

Usage: python -m benchmarks.resnet --python PYTHON

PYTHON is an interpreter with torch and torchvision, of a throwaway environment: torchvision is no
part of this package. Beside a CPU-only torch its import fails for operators that no ResNet uses;
then they are declared first. The weights are torchvision's, drawn at random with two outputs and
with averages of batch norm of their own, saved as ``.pth`` and loaded by
`qmri_lake.diagnosis.resnet`.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from qmri_lake.diagnosis.recipes import DEPTHS

PEER = """
import sys
import torch
try:
    import torchvision
except RuntimeError:  # beside a CPU-only torch
    for name in [n for n in sys.modules if n.startswith("torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
torch.set_num_threads(1)
folder = sys.argv[1]
images = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
torch.save(images, folder + "/images.pt")
print(torchvision.__version__)
for depth in map(int, sys.argv[2:]):
    torch.manual_seed(depth)
    model = getattr(torchvision.models, f"resnet{depth}")(num_classes=2)
    with torch.no_grad():
        model(images)  # averages of batch norm that are not those of a new model
        model.eval()
        torch.save(model.state_dict(), f"{folder}/resnet{depth}.pth")
        torch.save(model(images), f"{folder}/outputs{depth}.pt")
"""


def compare(python: str) -> tuple[str, dict[int, float]]:
    """Return torchvision's version, and the largest distance of logits by depth."""
    import torch

    from qmri_lake.diagnosis.resnet import load_weights, make_resnet

    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-W", "ignore", "-c", PEER, folder, *map(str, DEPTHS)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        images = torch.load(Path(folder) / "images.pt")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        far = {}
        for depth in DEPTHS:
            model = make_resnet(depth)
            load_weights(model, Path(folder) / f"resnet{depth}.pth", head=True)
            with torch.no_grad():
                ours = model.eval()(images).numpy()
            theirs = torch.load(Path(folder) / f"outputs{depth}.pt").numpy()
            far[depth] = float(np.abs(ours - theirs).max())
        torch.set_num_threads(threads)
    return done.stdout.split()[-1], far


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", metavar="PYTHON", required=True)
    version, far = compare(parser.parse_args().python)
    for depth, distance in far.items():
        print(f"ResNet {depth}, torchvision {version}: largest distance of logits {distance:.1e}")


if __name__ == "__main__":
    main()
