#!/usr/bin/env bash
# remote_cache_test.sh [--server=nginx|buildgrid] [--first=alice|here] [--artifacts="TARGET…"] [--tests="TARGET…"]
#
# Two machines that share nothing but a cache server: other homes, other user names, other checkouts. The first builds
# and writes, the second reads: once with an empty disk, once with what it has got by then. It must execute no action,
# and its files must be the first's. Servers are real (nginx with WebDAV from Debian; BuildGrid from the package index), run
# unpacked in a temporary folder and listen on 127.0.0.1; bytes are counted on the way (relay.py). --first=here: the first machine is
# this checkout, with what its disk cache holds (publish.py), so that nothing is computed twice.
# Then one byte of a package is changed on the second machine: nothing that was made with the package as it was may be taken.
# Ends with `remote cache: PASSED …`, `FAILED …` or, where a server cannot be had, `SKIPPED …` (exit codes 0, 1, 0).
#
# The Python environment and Bazel's root are linked into both homes rather than installed twice; what keeps two
# installations of one lock equal is tested in tests/bazel/test_relocatable.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source third_party/bazel/loopback.sh

server=nginx
first=alice
artifacts="//artifacts:centerpoint_onnx //artifacts:centerpoint_fp32_engines"
tests="//tests/bazel/..."
for argument in "$@"; do
  case "$argument" in
    --server=nginx | --server=buildgrid) server=${argument#*=} ;;
    --first=alice | --first=here) first=${argument#*=} ;;
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

# count_bytes ROLE ADDRESS: an address that leads there, in $counted; its bytes are counted in $work/ROLE.bytes.
count_bytes() {
  "$environment/bin/python3.11" third_party/bazel/relay.py "${2##*:}" "$work/$1.bytes" >"$work/$1.port" &
  started+=($!)
  until [[ -s "$work/$1.port" ]]; do sleep 0.1; done
  counted=${2%:*}:$(<"$work/$1.port")
}

# traffic NAME ROLE BEFORE: what went through since then, into $work/NAME/traffic.
traffic() {
  awk '{ printf "%.1f MB up, %.1f MB down", ($3 - $1) / 1e6, ($4 - $2) / 1e6 }' <<<"$3 $(<"$work/$2.bytes")" >"$work/$1/traffic"
}

# Sums of what repeats: of reports nothing.
sums() {
  (cd "$1/artifacts" && find -L . -type f \( -name '*.onnx' -o -name '*.engine' -o -name '*.pth' -o -name '*.json' \) \
    ! -path './*_report*' -print0 | sort -z | xargs -0 sha256sum)
}

tell() {
  echo "$title: $1: $(executed "$work/$1/log") actions executed, $(hits "$work/$1/log") taken from the cache," \
    "$(disk_hits "$work/$1/log") from its disk, $(<"$work/$1/seconds") s, $(<"$work/$1/traffic")"
}

# build_on MACHINE NAME CONFIG ROLE ADDRESS: both commands on that machine; leaves log, seconds, sums and traffic in $work/NAME.
build_on() {
  local machine=$1 name=$2 options=(--config="$3" --remote_cache="$5") start=$SECONDS before
  mkdir -p "$work/$name"
  before=$(<"$work/$4.bytes")
  on_machine "$machine" build "${options[@]}" $artifacts 2>&1 | tee "$work/$name/log" >&2
  on_machine "$machine" test "${options[@]}" $tests 2>&1 | tee -a "$work/$name/log" >&2
  traffic "$name" "$4" "$before"
  echo $((SECONDS - start)) >"$work/$name/seconds"
  sums "$work/$machine/checkout"/*/bazel-bin >"$work/$name/sums"
  tell "$name"
}

# The first machine is this checkout, and what its disk cache holds is sent as CI would have sent it.
publish_from_here() {
  local start=$SECONDS python=$environment/bin/python3.11
  mkdir -p "$work/here"
  ./bazelw build $artifacts 2>&1 | tee "$work/here/log" >&2
  ./bazelw test $tests 2>&1 | tee -a "$work/here/log" >&2
  [[ "$server" == nginx ]] || python=$work/buildgrid/venv/bin/python
  "$python" third_party/bazel/publish.py "$cache/disk" "$1" >&2 || fail "what the disk cache holds cannot be sent"
  traffic here writer "0 0"
  echo $((SECONDS - start)) >"$work/here/seconds"
  sums "$(./bazelw info bazel-bin 2>/dev/null)" >"$work/here/sums"
  tell here
}

start_"$server"
count_bytes writer "$writer"
writer=$counted
count_bytes reader "$reader"
reader=$counted
make_machine bob "$work/bob/checkout/another-name"
if [[ "$first" == here ]]; then
  publish_from_here "$writer"
else
  make_machine alice "$work/alice/checkout/centerpoint"
  build_on alice alice remote-cache-writer writer "$writer"
  on_machine alice shutdown >/dev/null 2>&1
  [[ "$(executed "$work/alice/log")" -gt 0 ]] || fail "the first machine executed nothing: there was nothing to share"
fi
build_on bob bob-cold remote-cache reader "$reader"
on_machine bob clean >/dev/null 2>&1
build_on bob bob-warm remote-cache reader "$reader"
for name in bob-cold bob-warm; do
  [[ "$(executed "$work/$name/log")" -eq 0 ]] || fail "the second machine executed $(executed "$work/$name/log") actions ($name)"
  # This checkout may hold files of other builds, too.
  awk 'NR == FNR { wanted[$2]; next } $2 in wanted' "$work/$name/sums" "$work/$first/sums" >"$work/$name/first"
  [[ -s "$work/$name/sums" ]] && diff "$work/$name/first" "$work/$name/sums" >&2 || fail "the two machines' files differ ($name)"
done
[[ "$(hits "$work/bob-cold/log")" -gt 0 ]] || fail "the second machine took nothing from the cache"

# A byte more in a package (in a file of its own: the machines share theirs by links), and a target that is on the server.
target=${artifacts%% *}
[[ "$target" != *... ]] || target=//artifacts:centerpoint_onnx
package=$work/bob/home/.cache/centerpoint-bazel/python/$(basename "$environment")/lib/python3.11/site-packages/numpy/version.py
mkdir -p "$work/bob-changed" "$work/bob-unchanged"
cp -p "$package" "$work/version.py"
cp -p "$package" "$package.new" && chmod u+w "$package.new" && echo >>"$package.new" && mv -f "$package.new" "$package"
on_machine bob clean >/dev/null 2>&1
on_machine bob build --config=remote-cache --remote_cache="$reader" "$target" 2>&1 | tee "$work/bob-changed/log" >&2
cp -p "$work/version.py" "$package.new" && mv -f "$package.new" "$package"
on_machine bob clean >/dev/null 2>&1
on_machine bob build --config=remote-cache --remote_cache="$reader" "$target" 2>&1 | tee "$work/bob-unchanged/log" >&2
for name in bob-changed bob-unchanged; do
  echo "$title: $name: $target: $(executed "$work/$name/log") actions executed, $(($(hits "$work/$name/log") + $(disk_hits "$work/$name/log"))) taken"
done
[[ "$(executed "$work/bob-changed/log")" -gt 0 && "$(hits "$work/bob-changed/log")" -eq 0 && "$(disk_hits "$work/bob-changed/log")" -eq 0 ]] ||
  fail "a changed package takes what was made with the unchanged one"
[[ "$(executed "$work/bob-unchanged/log")" -eq 0 ]] || fail "the package as it was has another key than before"
echo "$title: PASSED with $server: 0 actions executed on the second machine, $(wc -l <"$work/bob-cold/sums") files equal"
