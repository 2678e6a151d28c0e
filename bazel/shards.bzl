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

def parts_of(ctx, shards, name, run):
    """Runs the shares of a target's work.

    Args:
      ctx: Of the rule.
      shards: How many there are.
      name: Of a part's file, with {number} and {shards}.
      run: Called with (options, part, said) for each: `--part K/N`, the file to make, and "part K of N".

    Returns:
      The files, for `--merge`.
    """
    parts = []
    for number in range(1, shards + 1):
        part = ctx.actions.declare_file(name.format(number = number, shards = shards))
        options = ctx.actions.args()
        options.add("--part", "{}/{}".format(number, shards))
        run(options, part, "part {} of {}".format(number, shards))
        parts.append(part)
    return parts
