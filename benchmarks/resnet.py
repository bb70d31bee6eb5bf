"""Compare the outputs of this package's ResNets with torchvision's for the same weights.

Usage: python -m benchmarks.resnet --python PYTHON

PYTHON is an interpreter of another environment with torch and torchvision, since this package does
not depend on torchvision. With a CPU-only torch, the import of torchvision fails because of missing
operators that no ResNet uses; in this case the operators are declared first. The weights are
random, with two outputs and batch-norm averages that differ from those of a new model. torchvision
saves the weights as ``.pth``, and `qmri_lake.diagnosis.models.resnet` loads them.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from qmri_lake.diagnosis.models.recipes import DEPTHS

PEER = """
import sys
import torch
try:
    import torchvision
except RuntimeError:  # with a CPU-only torch
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
        model(images)  # changes the averages of batch norm
        model.eval()
        torch.save(model.state_dict(), f"{folder}/resnet{depth}.pth")
        torch.save(model(images), f"{folder}/outputs{depth}.pt")
"""


def compare(python: str) -> tuple[str, dict[int, float]]:
    """Return the version of torchvision, and the largest difference between logits by depth."""
    import torch

    from qmri_lake.diagnosis.models.resnet import load_weights, make_resnet

    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-W", "ignore", "-c", PEER, folder, *map(str, DEPTHS)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        images = torch.load(Path(folder) / "images.pt")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        differences = {}
        for depth in DEPTHS:
            model = make_resnet(depth)
            load_weights(model, Path(folder) / f"resnet{depth}.pth", head=True)
            with torch.no_grad():
                ours = model.eval()(images).numpy()
            theirs = torch.load(Path(folder) / f"outputs{depth}.pt").numpy()
            differences[depth] = float(np.abs(ours - theirs).max())
        torch.set_num_threads(threads)
    return done.stdout.split()[-1], differences


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--python", metavar="PYTHON", required=True, help="interpreter with torch and torchvision"
    )
    version, differences = compare(parser.parse_args().python)
    for depth, difference in differences.items():
        print(
            f"ResNet {depth}, torchvision {version}: largest difference of logits {difference:.1e}"
        )


if __name__ == "__main__":
    main()
