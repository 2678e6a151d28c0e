#!/usr/bin/env bash
# remote_cache_test.sh [--server=nginx|buildgrid] [--artifacts="TARGET…"] [--tests="TARGET…"]
#
# Two machines that share nothing but a cache server: other homes, other user names, other checkouts. The first builds
# and writes, the second reads; the second must execute no action, and its files must be the first's. Servers are real
# (nginx with WebDAV from Debian; BuildGrid from the package index), run unpacked in a temporary folder and listen on 127.0.0.1.
# Ends with `remote cache: PASSED …`, `FAILED …` or, where a server cannot be had, `SKIPPED …` (exit codes 0, 1, 0).
#
# The Python environment and Bazel's root are linked into both homes rather than installed twice; what keeps two
# installations of one lock equal is tested in tests/bazel/test_relocatable.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source third_party/bazel/loopback.sh

server=nginx
artifacts="//artifacts:centerpoint_onnx //artifacts:centerpoint_fp32_engines"
tests="//tests/bazel/..."
for argument in "$@"; do
  case "$argument" in
    --server=nginx | --server=buildgrid) server=${argument#*=} ;;
    --artifacts=*) artifacts=${argument#*=} ;;
    --tests=*) tests=${argument#*=} ;;
    *) echo "remote_cache_test.sh: unknown argument '$argument'" >&2; exit 2 ;;
  esac
done
open_work "remote cache"

start_nginx() {
  local program=$work/nginx/root/usr/sbin/nginx
  unpack_debian "$work/nginx" nginx || skip "nginx cannot be had from Debian's packages here"
  "$program" -V >/dev/null 2>&1 || skip "Debian's nginx does not run here: $("$program" -V 2>&1 | head -1)"
  mkdir -p "$work/nginx/data" "$work/nginx/tmp"
  writer=$(free_port); reader=$(free_port)
  sed -e "s#@work@#$work/nginx#; s#@writer@#$writer#; s#@reader@#$reader#; s#@user@#$(id -un)#" \
    third_party/bazel/nginx_cache.conf.tpl >"$work/nginx/nginx.conf"
  "$program" -p "$work/nginx" -e "$work/nginx/error.log" -c "$work/nginx/nginx.conf" &
  started+=($!)
  await_port "$reader" "$work/nginx/error.log"
  writer=http://127.0.0.1:$writer; reader=http://127.0.0.1:$reader
  # People read: what is in the cache is written by the other address alone.
  [[ "$(curl -s -o /dev/null -w '%{http_code}' -T /dev/null "$reader/ac/$(printf '0%.0s' {1..64})")" == 403 ]] ||
    fail "the readers' address takes writes"
}

start_buildgrid() {
  install_buildgrid
  local port
  port=$(free_port)
  sed "s#@work@#$work/buildgrid#; s#@port@#$port#" third_party/bazel/buildgrid_cache.yml.tpl >"$work/buildgrid/cache.yml"
  "$work/buildgrid/venv/bin/bgd" server start "$work/buildgrid/cache.yml" >"$work/buildgrid/log" 2>&1 &
  started+=($!)
  await_port "$port" "$work/buildgrid/log"
  writer=grpc://127.0.0.1:$port; reader=$writer
}

# traffic: bytes that clients sent and got so far; what the server's log says, where it has one.
traffic() {
  [[ "$server" == nginx ]] || { echo "0 0"; return; }
  awk '{ up += $3; down += $4 } END { print up + 0, down + 0 }' "$work/nginx/access.log"
}

# build_on NAME CONFIG: both commands on that machine; leaves seconds, actions, sums and traffic in $work/NAME.
build_on() {
  local name=$1 config=$2 address=$3 start=$SECONDS before after
  before=$(traffic)
  on_machine "$name" build --config="$config" --remote_cache="$address" $artifacts 2>&1 | tee "$work/$name/log" >&2
  on_machine "$name" test --config="$config" --remote_cache="$address" $tests 2>&1 | tee -a "$work/$name/log" >&2
  after=$(traffic)
  echo "$before $after" | awk '{ printf "%.1f MB up, %.1f MB down", ($3 - $1) / 1e6, ($4 - $2) / 1e6 }' >"$work/$name/traffic"
  echo $((SECONDS - start)) >"$work/$name/seconds"
  executed "$work/$name/log" >"$work/$name/executed"
  hits "$work/$name/log" >"$work/$name/hits"
  (cd "$work/$name/checkout"/*/bazel-bin/artifacts && find -L . -type f \( -name '*.onnx' -o -name '*.engine' -o -name '*.json' \) \
    ! -path './*_report*' -print0 | sort -z | xargs -0 sha256sum) >"$work/$name/sums"
  on_machine "$name" shutdown >/dev/null 2>&1
}

start_"$server"
make_machine alice "$work/alice/checkout/centerpoint"
make_machine bob "$work/bob/checkout/another-name"
build_on alice remote-cache-writer "$writer"
build_on bob remote-cache "$reader"
for name in alice bob; do
  echo "$name: $(<"$work/$name/executed") actions executed, $(<"$work/$name/hits") taken from the cache," \
    "$(<"$work/$name/seconds") s, $(<"$work/$name/traffic")"
done
[[ "$(<"$work/alice/executed")" -gt 0 ]] || fail "the first machine executed nothing: there was nothing to share"
[[ "$(<"$work/bob/executed")" -eq 0 ]] || fail "the second machine executed $(<"$work/bob/executed") actions"
[[ -s "$work/alice/sums" ]] && diff "$work/alice/sums" "$work/bob/sums" >&2 || fail "the two machines' files differ"
echo "remote cache: PASSED with $server: 0 actions executed on the second machine, $(wc -l <"$work/bob/sums") files equal"
