"""What one picture costs in a small and in a large set: CPU time and memory of opening, drawing and predicting.

python tools/cost_per_picture.py 100 10000

Each set is made of N pictures of 32 x 32 pixels in two classes and measured in a process of its own, with a tiny
network of random weights: what is measured is everything around the network.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

DRAWN = 500
"""Training samples that are drawn, spread over ten epochs."""


def write_set(root: Path, count: int) -> None:
    """A plain folder of `count` pictures."""
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = ["file_name,tags"]
    for i in range(count):
        name = f"{i:06d}.png"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / "images" / name)
        rows.append(f"{name},{('cat', 'dog', 'cat;dog')[i % 3]}")
    (root / "tags.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def measure(root: Path, count: int) -> None:
    """Print one row: CPU milliseconds per picture, and the most memory so far in MiB after each."""
    import torch

    from tag2mask.config import AugmentConfig, TrainConfig
    from tag2mask.data import open_data
    from tag2mask.data.training.loading import TrainingPictures
    from tag2mask.jobs.predicting.run import predict
    from tag2mask.models import build_network
    from tag2mask.runs.checkpoints import save_model
    from tag2mask.runs.folder import peak_memory

    torch.set_num_threads(1)
    config = TrainConfig.preset("small", backbone="test_efficientnet", weights="none", image_size=32)
    save_model(root / "model.safetensors", build_network(config, ("cat", "dog")), config)
    predict(root / "model.safetensors", next((root / "images").iterdir()), root / "first", device="cpu")  # warm up
    before = time.process_time()
    pictures = open_data(root, split="train")
    opened, memory = time.process_time() - before, peak_memory()
    samples = TrainingPictures(pictures, AugmentConfig(crop_size=32), None, fill_rgb=(0, 0, 0), seed=0)
    before, epoch = time.process_time(), len(pictures.pictures)
    for i in range(DRAWN):
        samples[i * 10 // DRAWN * epoch + i % (DRAWN // 10)]
    drawn, memory_drawn = time.process_time() - before, peak_memory()
    before = time.process_time()
    predict(root / "model.safetensors", root / "images", root / "out", device="cpu")
    done, memory_done = time.process_time() - before, peak_memory()
    costs = (1000 * opened / count, 1000 * drawn / DRAWN, 1000 * done / count)
    peaks = (each["peak_memory_mib"] for each in (memory, memory_drawn, memory_done))
    print(f"| {count} | " + " | ".join(f"{c:.3g} ms | {m} MiB" for c, m in zip(costs, peaks, strict=True)) + " |")


def main(arguments: list[str]) -> None:
    """Measure each number of pictures, or one in this process."""
    if arguments[0] == "--here":
        measure(Path(arguments[1]), int(arguments[2]))
        return
    print("| pictures | open | memory | draw a training sample | memory | predict | memory |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for count in map(int, arguments):
        with tempfile.TemporaryDirectory() as folder:
            write_set(Path(folder), count)
            subprocess.run([sys.executable, __file__, "--here", folder, str(count)], check=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["100", "10000"])
