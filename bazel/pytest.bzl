"""pytest under Bazel.

    pytest_test(
        name = "eval",
        srcs = glob(["*.py"]),
        data = ["//tests/data:golden"],
        deps = ["//eval"],
        shard_count = 2,
    )

One target a package of tests rather than one a file: importing torch and mmdet3d takes seconds. `test.xml` holds every
test case, and `--test_filter=EXPRESSION` is pytest's `-k`.
"""

load("@rules_python//python:defs.bzl", "py_test")

_MAIN = "//bazel/private:pytest_main.py"

def pytest_test(name, srcs, deps = [], data = [], size = "medium", **kwargs):
    """Runs all test files among `srcs` with pytest.

    Args:
      name: name of the target.
      srcs: test files (`test_*.py`) and what they import from their own folder (conftest.py, helpers).
      deps: libraries under test; the Python environment comes with the toolchain.
      data: files the tests read, addressed relative to the repository's root or to the test file.
      size: Bazel's test size, which sets the time limit (medium: 5 minutes, large: 15).
      **kwargs: passed to `py_test` (tags, shard_count, timeout, …).
    """
    tests = [src for src in srcs if src.split("/")[-1].startswith("test_")]
    if not tests:
        fail("pytest_test(name = '{}'): no test_*.py among srcs {}".format(name, srcs))
    py_test(
        name = name,
        size = size,
        srcs = srcs + [_MAIN],
        main = _MAIN,
        args = ["$(rootpath {})".format(test) for test in tests],
        data = data + ["//:pyproject.toml"],
        deps = deps + ["@python_env//:packages"],
        **kwargs
    )
