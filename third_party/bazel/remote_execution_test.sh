#!/usr/bin/env bash
# remote_execution_test.sh [--workers=N[,N…]] [--shards=N] [--keep=FOLDER] [TARGET…]
#
# A cluster on 127.0.0.1: BuildGrid (package index) with PostgreSQL (Debian), and buildbox workers (Debian's unstable suite) in a
# root of their own that has a C library, a shell and no Python. Bazel sends the actions of the targets there; their
# files must be those of the local build, which cuts nothing into shards. Each number of workers builds everything once:
# seconds and critical path are told, and how long another number of workers would take, by the durations of the actions
# of the first build. FOLDER keeps Bazel's profiles. Without targets: INT8 engines, sensitivity analysis and evaluation on few frames.
# Everything is unpacked in a temporary folder; no system package changes.
# Ends with `remote execution: PASSED …`, `FAILED …` or, where a part cannot be had, `SKIPPED …` (exit codes 0, 1, 0).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source third_party/bazel/loopback.sh

workers=2
shards=4
keep=
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --workers=*) workers=${1#*=} ;;
    --shards=*) shards=${1#*=} ;;
    --keep=*) keep=$(realpath -m "${1#*=}") ;;
    *) echo "remote_execution_test.sh: unknown argument '$1'" >&2; exit 2 ;;
  esac
  shift
done
[[ $# -gt 0 ]] || set -- //tests/bazel:small_int8_engines //tests/bazel:small_sensitivity //tests/bazel:small_evaluation
open_work "remote execution"
chmod 755 "$work"

# as_nobody COMMAND…, in a subshell, whose process it becomes: PostgreSQL refuses to run as root.
as_nobody() {
  [[ "$(id -u)" != 0 ]] || { cd / && set -- setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; }
  exec "$@"
}

start_postgres() {
  local folder
  for folder in /usr/lib/postgresql/*/bin; do [[ ! -x "$folder/initdb" ]] || postgres=$folder; done
  if [[ -z "${postgres:-}" ]]; then
    unpack_debian "$work/postgres" postgresql-15 postgresql-client-15 libpq5 libllvm14 ||
      skip "PostgreSQL cannot be had from Debian's packages here"
    postgres=$work/postgres/root/usr/lib/postgresql/15/bin
    export LD_LIBRARY_PATH=$work/postgres/root/usr/lib/$(uname -m)-linux-gnu
  fi
  mkdir -p "$work/database" "$work/sockets"
  [[ "$(id -u)" != 0 ]] || chown nobody "$work/database" "$work/sockets"
  (as_nobody env LC_ALL=C.UTF-8 "$postgres/initdb" -D "$work/database" -A trust -U bgd) >"$work/initdb.log" 2>&1 ||
    skip "PostgreSQL does not run here: $(tail -1 "$work/initdb.log")"
  database_port=$(free_port)
  (as_nobody "$postgres/postgres" -D "$work/database" -c listen_addresses=127.0.0.1 -c port="$database_port" \
    -c unix_socket_directories="$work/sockets" -c fsync=off) >"$work/postgres.log" 2>&1 &
  started+=($!)
  await_port "$database_port" "$work/postgres.log"
  unset LD_LIBRARY_PATH
}

start_buildgrid() {
  install_buildgrid
  local bgd=$work/buildgrid/venv/bin/bgd database=postgresql+psycopg2://bgd@127.0.0.1:$database_port/postgres
  "$work/buildgrid/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'BuildGrid[database]==0.4.4' alembic \
    >>"$work/buildgrid/log" 2>&1 || skip "BuildGrid's database client cannot be installed here"
  "$bgd" migrate apply "$database" >>"$work/buildgrid/log" 2>&1 || fail "no database: $(tail -1 "$work/buildgrid/log")"
  cluster=$(free_port)
  sed "s#@store@#$store#; s#@port@#$cluster#; s#@database@#$database#" third_party/bazel/buildgrid_cluster.yml.tpl \
    >"$work/buildgrid/cluster.yml"
  "$bgd" server start "$work/buildgrid/cluster.yml" >"$work/buildgrid/log" 2>&1 &
  started+=($!)
  await_port "$cluster" "$work/buildgrid/log"
}

# in_worker COMMAND…: in the workers' root, which sees nothing of this machine but a folder for its cache and, to read, the
# environment that is put into the cluster's store.
in_worker() {
  local root loader
  for root in "$cache"/bazel-*-r*; do :; done
  loader=$(echo "$root"/lib64/ld-linux-*.so.*)
  exec "$loader" --library-path "$(echo "$root"/usr/lib/*-linux-gnu)" "$root/usr/bin/bwrap" --bind "$work/worker/root" / \
    --die-with-parent --dev-bind /dev /dev --bind /proc /proc --bind "$work/worker/cache" /cache ${seed:+--ro-bind "$seed" /seed} --clearenv \
    --setenv PATH /usr/bin:/bin --setenv HOME /tmp -- "$@"
}

# The store of the cluster and its workers. Bazel sends one small file a request, 30,000 of them for the environment, and
# BuildGrid is written in Python: casupload sends many at once, as whoever runs a cluster would for a new lock.
start_store() {
  (source third_party/bazel/provision.sh && unpack_worker "$work/worker") >"$work/worker.log" 2>&1 ||
    skip "buildbox cannot be had from Debian's unstable suite: $(tail -1 "$work/worker.log")"
  mkdir -p "$work/worker/cache"
  (in_worker /usr/bin/bash -c '! command -v python3') || fail "the workers' root has a Python: it would prove nothing"
  store=$(free_port)
  (in_worker /usr/bin/buildbox-casd --bind="127.0.0.1:$store" --bind=unix:/cache/casd.sock --quota-high=20G /cache/content) \
    >"$work/casd.log" 2>&1 &
  started+=($!)
  await_port "$store" "$work/casd.log"
  (seed=$environment in_worker /usr/bin/casupload --remote="http://127.0.0.1:$store" --follow-symlinks /seed) >"$work/seed.log" 2>&1 ||
    fail "the environment cannot be put into the store: $(tail -1 "$work/seed.log")"
}

running=0
# start_workers NUMBER: as many, with those that run already.
start_workers() {
  local number
  for ((number = running + 1; number <= $1; number++)); do
    (in_worker /usr/bin/buildbox-worker --bots-remote="http://127.0.0.1:$cluster" --cas-remote=unix:/cache/casd.sock \
      --buildbox-run=/usr/bin/buildbox-run-hosttools --runner-arg=--staging-mode=copy-or-link --concurrent-jobs=1 "worker$number") \
      >"$work/worker$number.log" 2>&1 &
    started+=($!)
  done
  running=$1
}

# What repeats of what was made below bazel-bin: of reports and parts nothing.
sums() {
  (cd "$1" && find -L . -type f \( -path './artifacts/*' -o -path './tests/bazel/small_*' \) ! -path '*_report*' ! -path '*_parts/*' \
    \( -name '*.onnx' -o -name '*.engine' -o -name '*.pth' -o -name 'report.*' -o -name calibration.json -o -name results.json \
    -o -name detections.jsonl \) -print0 | sort -z | xargs -0 sha256sum)
}

# build_on_cluster NUMBER TARGET…: everything anew on so many workers; leaves log, profile and sums in $work/on-NUMBER.
build_on_cluster() {
  local number=$1 folder=$work/on-$1 begin
  shift
  mkdir -p "$folder"
  start_workers "$number"
  on_machine carol clean >/dev/null 2>&1
  begin=$SECONDS
  on_machine carol build "${options[@]}" --noremote_accept_cached --profile="$folder/profile.gz" \
    --experimental_profile_include_primary_output "$@" 2>&1 | tee "$folder/log" >&2
  echo $((SECONDS - begin)) >"$folder/seconds"
  sums "$work/carol/checkout/centerpoint/bazel-bin" >"$folder/sums"
}

start_postgres
start_store
echo "$title: $SECONDS s until the store holds the environment"
start_buildgrid
make_machine carol "$work/carol/checkout/centerpoint"
options=(--config=remote --remote_executor="grpc://127.0.0.1:$cluster" --remote_download_outputs=all --remote_max_connections=2
  --spawn_strategy=remote --jobs=64 "--//bazel:shards=$shards")
for number in ${workers//,/ }; do
  build_on_cluster "$number" "$@"
  remotely=$(counted '[0-9]+ remote' "$work/on-$number/log")
  locally=$(executed "$work/on-$number/log")
  echo "$title: $number workers: $remotely actions executed there, $locally here, $(<"$work/on-$number/seconds") s," \
    "$(grep -o 'Critical Path: [0-9.]*s' "$work/on-$number/log"), $(du -sm "$work/worker/cache/content" | cut -f1) MB in the cluster's store"
  [[ "$remotely" -gt 0 && "$locally" -eq 0 ]] || fail "not every action ran on the workers"
done
on_machine carol aquery "${options[@]}" --output=jsonproto "deps(set($*))" >"$work/actions.json" 2>/dev/null
first=$work/on-${workers%%,*}
"$environment/bin/python3.11" third_party/bazel/schedule.py "$first/profile.gz" "$work/actions.json" 1 2 4 8 16 32
[[ -z "$keep" ]] || { mkdir -p "$keep"; cp -r "$work"/on-* "$work/actions.json" "$keep"; }
./bazelw build "$@" >&2
for number in ${workers//,/ }; do
  sums "$(./bazelw info bazel-bin 2>/dev/null)" | grep -Ff <(awk '{ print $2 }' "$work/on-$number/sums") >"$work/local.sums"
  [[ -s "$work/on-$number/sums" ]] && diff "$work/local.sums" "$work/on-$number/sums" >&2 ||
    fail "the files of $number workers are not the local build's"
done
echo "remote execution: PASSED, $(wc -l <"$work/local.sums") files equal those of the local build in one piece"
