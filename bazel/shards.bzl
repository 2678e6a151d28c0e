"""How many actions share work that people wait for.

    build --//bazel:shards=8  # in .bazelrc, for a cluster

A rule's own `shards` goes before it. What a rule makes is the same to the byte, whatever their number.
"""

ShardsInfo = provider(
    doc = "The value of --//bazel:shards.",
    fields = {"number": "int: actions that share the work of a target that says nothing itself"},
)

def _shards_flag_impl(ctx):
    if ctx.build_setting_value < 1:
        fail("--{} is {}, at least one is needed".format(ctx.label, ctx.build_setting_value))
    return ShardsInfo(number = ctx.build_setting_value)

shards_flag = rule(
    implementation = _shards_flag_impl,
    doc = "The flag.",
    build_setting = config.int(flag = True),
)

SHARDS_ATTRS = {
    "shards": attr.int(default = 0, doc = "actions that share the work; 0: as many as --//bazel:shards says, which is 1"),
    "_shards": attr.label(default = "//bazel:shards", providers = [ShardsInfo]),
}

def shards_of(ctx):
    """The number for a target of a rule with `SHARDS_ATTRS`, at least 1."""
    if ctx.attr.shards < 0:
        fail("{}: shards is {}, it must not be negative".format(ctx.label, ctx.attr.shards))
    return ctx.attr.shards or ctx.attr._shards[ShardsInfo].number
