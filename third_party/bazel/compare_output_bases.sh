#!/usr/bin/env bash
# compare_output_bases.sh TARGET…: builds the targets in two fresh output bases, without the disk cache, and compares the
# SHA-256 of every file. Prints the list; fails on a difference.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[[ $# -gt 0 ]] || set -- //artifacts/...
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
for base in first second; do
  ./bazelw --output_base="$work/$base" build --disk_cache= --symlink_prefix=/ "$@"
  bin=$(./bazelw --output_base="$work/$base" info bazel-bin 2>/dev/null)
  (cd "$bin/artifacts" && find . -type f \( -name '*.onnx' -o -name '*.engine' -o -name '*.pth' -o -name '*.json' \) \
    ! -path './*_report*' -print0 | sort -z | xargs -0 sha256sum) >"$work/$base.sha256"
  ./bazelw --output_base="$work/$base" shutdown
done
diff "$work/first.sha256" "$work/second.sha256"
[[ -s "$work/first.sha256" ]] || { echo "nothing to compare in //artifacts" >&2; exit 1; }
cat "$work/first.sha256"
echo "equal: $(wc -l <"$work/first.sha256") files in two output bases"
