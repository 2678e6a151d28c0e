"""The one name of buildozer that Bazel's own tools load."""

def _buildozer_binary_impl(_module_ctx):
    pass

buildozer_binary = module_extension(implementation = _buildozer_binary_impl)
