"""Settings of the demo datasets, for Bazel (`t4_dataset` in BUILD.bazel) and for Python (`datasets.demo`) alike.

One literal: Python reads it without Bazel.
"""

DEMO_DATASETS = {
    # What //deploy:export verifies and evaluates on when no dataset is named.
    "demo": {
        "frames_per_scene": 10,
        "split": "val",
        "val_scenes": 4,
    },
    # What it calibrates on then: scenes of //datasets:calibration, one frame of each.
    "demo_train": {
        "frames_per_scene": 1,
        "split": "train",
        "train_scenes": 25,
    },
}
