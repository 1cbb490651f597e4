"""Commands that work, for the end of each --help."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("tag2mask demo", "tag2mask demo --out runs/first"),
    "train": (
        "tag2mask train small --data photos --out runs/photos",
        "tag2mask train small --data photos --profile official --method.reliable.keep 0.5 --seed 1",
        "tag2mask train --resume runs/photos",
    ),
    "predict": (
        "tag2mask predict runs/photos new_pictures --out results",
        "tag2mask predict runs/photos 'new_pictures/*.jpg' --out results --crf --flip --rank",
        "tag2mask predict runs/photos new_pictures --out tasks --format label-studio coco",
    ),
    "evaluate": (
        "tag2mask evaluate runs/photos --data photos --crf --flip --out scores",
        "tag2mask evaluate --masks results/masks --data photos",
    ),
    "pseudo-label": (
        "tag2mask pseudo-label runs/photos --data photos --crf --scales 1.5 --out photo_masks",
        "tag2mask pseudo-label runs/photos --data photos --min-confidence 0.7 --out photo_masks",
    ),
    "retrain": (
        "tag2mask retrain small --data photos --masks photo_masks --weights runs/photos",
        "tag2mask retrain small --data photos --masks photo_masks --architecture smp:unet",
        "tag2mask retrain --resume runs/photos-2",
    ),
    "explain": (
        "tag2mask explain runs/photos photos/images/a.jpg --out explained",
        "tag2mask explain runs/photos photos/images/a.jpg --tags cat dog --out explained",
    ),
    "check": (
        "tag2mask check photos",
        "tag2mask check photos --out check.html",
        "tag2mask check photos --run runs/photos --out check.html",
    ),
    "export": (
        "tag2mask export runs/photos --data photos",
        "tag2mask export runs/photos --format hub --out photos-model",
    ),
    "convert": (
        "tag2mask convert coco --to folder --out photos",
        "tag2mask convert results --to label-studio --out tasks.json --images new_pictures",
        "tag2mask convert export.zip --to masks --data photos --out corrected",
        "tag2mask convert RRM_final.pth --to safetensors --out rrm.safetensors",
    ),
    "ui": ("tag2mask ui runs/photos", "tag2mask ui runs/photos --ranked results --pictures new_pictures"),
    "bench": ("tag2mask bench --quick", "tag2mask bench --only pair-l21 batch-8 --rounds 15"),
}
"""By verb; lines of at most 98 characters."""
