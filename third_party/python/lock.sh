#!/usr/bin/env bash
# Makes a lock from its list of requirements: every distribution, pinned, with the hashes of all its files.
#
#   third_party/python/lock.sh            requirements.in -> requirements_lock.txt (torch's CPU build)
#   third_party/python/lock.sh cuda       … + requirements_cuda.in -> requirements_lock_cuda.txt (torch's CUDA build)
#   third_party/python/lock.sh tensorrt   requirements_tensorrt.in -> requirements_lock_tensorrt.txt (TensorRT 10)
#
# The wheels of stand_ins.toml are made anew (build_wheels.py) and pinned like all others. pip finds them by the lock's
# first line, which it reads relative to the lock: `pip install -r requirements_lock.txt` works from any folder.
#
# CENTERPOINT_TORCH_INDEX=URL names a mirror of PyTorch's index. All other indexes and find-links come
# from the machine's own pip configuration; none reaches the lock. An existing lock is the starting point: what still
# fits keeps its version (--upgrade as the last argument asks for newer ones). Without an index: exit code 1, no change.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
variant=${1:-cpu}
here=third_party/python
case "$variant" in
  cpu) inputs=(requirements.in); output=requirements_lock.txt; wheels=$here/wheels
    torch=https://download.pytorch.org/whl/cpu ;;
  cuda) inputs=(requirements.in "$here/requirements_cuda.in"); output=$here/requirements_lock_cuda.txt; wheels=wheels
    torch=https://download.pytorch.org/whl/cu130 ;;
  tensorrt) inputs=("$here/requirements_tensorrt.in"); output=$here/requirements_lock_tensorrt.txt
    wheels=wheels; torch= ;;
  *) echo "lock.sh: unknown variant '$variant' (cpu, cuda, tensorrt)" >&2; exit 2 ;;
esac
torch=${CENTERPOINT_TORCH_INDEX:-$torch}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet uv
python3.11 "$here/build_wheels.py" >"$work/stand_ins.txt"

# pip's configuration as uv's options. Only the CUDA and CPU wheels of torch live elsewhere.
options=(--python-version 3.11 --generate-hashes --no-header --no-annotate
  --constraint "$work/stand_ins.txt" --find-links "$here/wheels" --index-strategy unsafe-best-match --no-emit-index-url --no-emit-find-links)
setting() { python3.11 -m pip config list | sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | tr '\n' ' '; }
for url in $(setting index-url | awk '{print $1}'); do options+=(--index-url "$url"); done
for url in $(setting extra-index-url); do options+=(--extra-index-url "$url"); done
links=$(setting find-links)
for place in $(printf '%s\n' $links | sort -u); do options+=(--find-links "$place"); done
if [[ "$variant" == cuda || ("$variant" == cpu && -z "$links") ]]; then options+=(--extra-index-url "$torch"); fi

if [[ -f "$output" ]]; then grep -v '^--find-links' "$output" >"$work/lock.txt"; fi
if ! "$work/venv/bin/uv" pip compile "${options[@]}" "${@:2}" --output-file "$work/lock.txt" "${inputs[@]}" >/dev/null; then
  {
    echo "lock.sh: no lock for '$variant': the reason stands above, $output is left as it was."
    case "$variant" in
      cuda) echo "lock.sh: the machine must reach $torch, or a mirror of it: CENTERPOINT_TORCH_INDEX=URL third_party/python/lock.sh cuda" ;;
      tensorrt) echo "lock.sh: TensorRT 10's libraries lie in NVIDIA's own package index: name it in pip's configuration" \
        "(pip config set global.extra-index-url URL) on a machine that reaches it." ;;
      *) echo "lock.sh: the machine must reach the indexes of its pip configuration (pip config list)." ;;
    esac
  } >&2
  exit 1
fi
if grep -nE '://|^-|(^|[ =])/' "$work/lock.txt"; then
  echo "lock.sh: the lines above name a host or a path of this machine; the lock is left as it was" >&2
  exit 1
fi
{
  echo "# Every distribution of the Python environment with its hashes. Made by third_party/python/lock.sh ($variant)"
  echo "# from ${inputs[*]} and $here/stand_ins.toml; do not edit."
  echo "--find-links $wheels"
  cat "$work/lock.txt"
} >"$output.new"
mv "$output.new" "$output"
echo "lock.sh: wrote $output ($(grep -c '==' "$output") packages)"
