%shebang%
# Starts %main% with the environment's own interpreter. Bazel fills it in for every py_binary and py_test, in place of a
# script that would need a Python of the machine to find the Python of the build.
set -eu

main='%main%'
runfiles=${RUNFILES_DIR:-}
if [ -z "$runfiles" ] && [ -n "${RUNFILES_MANIFEST_FILE:-}" ]; then
  case "$RUNFILES_MANIFEST_FILE" in
    *.runfiles_manifest) runfiles=${RUNFILES_MANIFEST_FILE%_manifest} ;;
    *.runfiles/MANIFEST) runfiles=${RUNFILES_MANIFEST_FILE%/MANIFEST} ;;
  esac
fi
# What the caller names may be its own runfiles; then those beside this file, or the folder of runfiles that it lies in.
if [ -z "$runfiles" ] || [ ! -e "$runfiles/$main" ]; then
  self=$0
  case "$self" in /*) ;; *) self=$PWD/$self ;; esac
  while :; do
    if [ -d "$self.runfiles" ]; then runfiles=$self.runfiles; break; fi
    case "$self" in *.runfiles/*) runfiles=${self%%.runfiles/*}.runfiles; break ;; esac
    [ -L "$self" ] || { echo "cannot find the runfiles of $0" >&2; exit 1; }
    target=$(readlink "$self")
    case "$target" in /*) self=$target ;; *) self=$(dirname "$self")/$target ;; esac
  done
fi

path=$runfiles/%workspace_name%
imports='%imports%'
while [ -n "$imports" ]; do
  path=$path:$runfiles/${imports%%:*}
  case "$imports" in *:*) imports=${imports#*:} ;; *) imports= ;; esac
done
interpreter='%python_binary%'
place=${interpreter%/*}/environment
environment=$runfiles/$place
# A cluster's worker gets a source directory where the repository lies, and not once more among the runfiles.
[ -d "$environment" ] || environment=${runfiles%%/bazel-out/*}/external/$place

export RUNFILES_DIR="$runfiles"
export PYTHONPATH="$path${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONSAFEPATH=1  # the folder of the program is not searched
export PYTHONNOUSERSITE=1  # and the user's own packages are no part of the build
exec "$environment/bin/python3.11" "$runfiles/$main" "$@"
