"""The checks of point files and clouds, and of what a score of them means; `models.known_checks` holds all."""

from __future__ import annotations

from base.checks import Check

__all__ = ["POINT_CHECKS"]

_ROWS = (
    Check(
        "point-file-kind",
        "The first bytes of a point file are numbers, and not those of a NumPy file, an archive, a PCD file under "
        "another name, a bag, text, a picture, or a pointer of Git LFS.",
    ),
    Check(
        "point-file-numbers",
        "The coordinates of a point file, read as float32, are such as a sensor makes; where they are not, float64, "
        "float16, big-endian numbers and integers are tried, and what fits is named.",
        accepting="the file holds float32 records all the same",
    ),
    Check(
        "point-file-columns",
        "The values of a point file repeat their kind (sign, magnitude, whole or not) with the number of columns that "
        "it is read with, in whatever order its points are.",
        accepting="its points have that number of columns all the same",
    ),
    Check(
        "point-file-columns-unclear",
        "The values of a single scan confirm its number of columns; too few points, or columns that are all alike, "
        "cannot.",
        "warning",
    ),
    Check(
        "cloud-values",
        "At most one point in a hundred is more than 100 km away.",
        accepting="such points are left out by what comes after",
    ),
    Check(
        "cloud-unit",
        "Half of a cloud's points are nearer than 250 m and farther away than 0.3 m: coordinates are metres.",
        accepting="coordinates are metres",
    ),
    Check(
        "cloud-frame",
        "A cloud lies around the origin, not on one side far away from it.",
        "warning",
    ),
    Check(
        "cloud-axes",
        "Near surroundings are flat along z, and objects stand on the ground rather than hang from it: axes are x "
        "forward, y left, z up.",
        "warning",
    ),
    Check(
        "cloud-height",
        "The ground around the vehicle is within 0.9 m of where the model expects it (z = 0 for T4 datasets, "
        "`points_trained_on.ground_z_m` of the model config otherwise).",
        "warning",
    ),
    Check(
        "cloud-range",
        "At least a tenth of a cloud's points are in the model's range.",
        "warning",
    ),
    Check(
        "cloud-intensity",
        "Intensities are of the scale that the model was trained on (0 to 255 for T4 and nuScenes, 0 to 1 for KITTI, "
        "`points_trained_on.intensity_max` of the model config otherwise), neither negative nor all alike.",
        "warning",
    ),
    Check(
        "cloud-time-lag",
        "The time lag of a single scan's points, where its file has one, is within 10 s: seconds before the key frame.",
        accepting="the model was trained on such time lags",
    ),
    Check(
        "cloud-viewpoint",
        "`VIEWPOINT` of a PCD file is the origin (0 0 0 1 0 0 0). Points are taken as they are stored, whatever it "
        "says, as PCL's readers take them.",
        "warning",
    ),
    Check("cloud-zeros", "At most one point in a hundred is exactly (0, 0, 0).", "warning"),
    Check("cloud-invalid", "At most half of a cloud's points hold NaN or infinite values.", "warning"),
    Check("cloud-repeated", "At most a tenth of a cloud's points are in it more than once.", "warning"),
    Check(
        "no-ground-truth",
        "The frames that are evaluated have an object to find: of a class, with LiDAR points, within the evaluated "
        "range.",
        accepting="latency alone is wanted",
    ),
    Check(
        "class-without-ground-truth",
        "Every class of the model has an object to find in the frames that are evaluated; the AP of one without is "
        "none.",
        "warning",
    ),
    Check(
        "frames-without-points",
        "Every frame has a point in the model's range; where none has, a run fails.",
        "warning",
    ),
    Check(
        "no-boxes",
        "An evaluation finds a box in at least one frame where there are objects. A model that is not trained finds "
        "none; of any other, files, runtime or device are at fault.",
        "warning",
    ),
    Check(
        "dropped-pillars",
        "No frame has more pillars than the model takes (`max_voxels`); evaluation.gates.max_dropped_pillars_share "
        "says how many may be lost before a run fails.",
        "warning",
    ),
    Check(
        "unmapped-categories",
        "Every category of a raw T4 dataset with objects is mapped to a class, or named as one that is not wanted.",
        "warning",
    ),
    Check(
        "no-mapped-category",
        "An object of a raw T4 dataset with objects has a class.",
        accepting="the dataset holds nothing to detect",
    ),
)

POINT_CHECKS = {check.id: check for check in _ROWS}
