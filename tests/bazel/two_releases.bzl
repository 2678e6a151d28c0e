"""Two versions of a model beside each other, as a team's own BUILD file has them, and what Bazel says became of each checkpoint."""

load("//bazel:model_release.bzl", "model_release")
load("//bazel:t4_dataset.bzl", "t4_dataset")

def two_releases(name, versions):
    """A release of each version; none of it is built but by name.

    Args:
      name: first part of every target's name.
      versions: names of the versions; `<name>_<version>.pth` stands for a checkpoint.
    """
    t4_dataset(name = name + "_frames", tags = ["manual"], train_scenes = 1, val_scenes = 1)
    everything = []
    here = "//{}:{}".format(native.package_name(), name)
    for version in versions:
        one = "{}_{}".format(name, version)
        native.genrule(name = one + "_checkpoint", outs = [one + ".pth"], cmd = "echo {} > $@".format(version), tags = ["manual"])
        model_release(
            name = one,
            calibration_dataset = ":{}_frames".format(name),
            checkpoint = one + ".pth",
            dataset = ":{}_frames".format(name),
            model_config = "//configs/model:centerpoint_t4_demo.py",
            tags = ["manual"],
            version = version,
        )
        everything += [here + one[len(name):] + part for part in ["", "_report", "_int8_report", "_evaluation", "_int8_evaluation", "_sensitivity"]]
    for version in versions:
        native.genquery(
            name = "became_of_{}_{}".format(name, version),
            testonly = True,
            expression = "rdeps(set({}), {}_{}.pth)".format(" ".join(everything), here, version),
            opts = ["--output=label_kind"],
            scope = everything,
        )
