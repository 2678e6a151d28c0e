#!/usr/bin/env bash
# remote_execution_test.sh [--workers=N] [TARGET…]
#
# A cluster on 127.0.0.1: BuildGrid (package index) with PostgreSQL (Debian), and buildbox workers (Debian's unstable suite) in a
# root of their own that has a C library, a shell and no Python. Bazel sends the actions of the targets there; their
# files must be those of the local build. Everything is unpacked in a temporary folder; no system package changes.
# Ends with `remote execution: PASSED …`, `FAILED …` or, where a part cannot be had, `SKIPPED …` (exit codes 0, 1, 0).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source third_party/bazel/loopback.sh

workers=2
[[ "${1:-}" != --workers=* ]] || { workers=${1#*=}; shift; }
[[ $# -gt 0 ]] || set -- //artifacts:centerpoint_onnx //artifacts:centerpoint_fp32_engines
open_work "remote execution"
chmod 755 "$work"

# PostgreSQL refuses to run as root.
as_nobody() { if [[ "$(id -u)" == 0 ]]; then (cd / && exec setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"); else "$@"; fi; }

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
  as_nobody env LC_ALL=C.UTF-8 "$postgres/initdb" -D "$work/database" -A trust -U bgd >"$work/initdb.log" 2>&1 ||
    skip "PostgreSQL does not run here: $(tail -1 "$work/initdb.log")"
  database_port=$(free_port)
  as_nobody "$postgres/postgres" -D "$work/database" -c listen_addresses=127.0.0.1 -c port="$database_port" \
    -c unix_socket_directories="$work/sockets" -c fsync=off >"$work/postgres.log" 2>&1 &
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
    --dev-bind /dev /dev --bind /proc /proc --bind "$work/worker/cache" /cache ${seed:+--ro-bind "$seed" /seed} --clearenv \
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

start_workers() {
  local number
  for ((number = 1; number <= workers; number++)); do
    (in_worker /usr/bin/buildbox-worker --bots-remote="http://127.0.0.1:$cluster" --cas-remote=unix:/cache/casd.sock \
      --buildbox-run=/usr/bin/buildbox-run-hosttools --runner-arg=--staging-mode=copy-or-link --concurrent-jobs=1 "worker$number") \
      >"$work/worker$number.log" 2>&1 &
    started+=($!)
  done
}

sums() { (cd "$1/artifacts" && find -L . -type f \( -name '*.onnx' -o -name '*.engine' -o -name '*.pth' \) ! -path './*_report*' -print0 |
  sort -z | xargs -0 sha256sum); }

start_postgres
start_store
echo "$title: $SECONDS s until the store holds the environment"
start_buildgrid
start_workers
start=$SECONDS
make_machine carol "$work/carol/checkout/centerpoint"
on_machine carol build --config=remote --remote_executor="grpc://127.0.0.1:$cluster" --remote_download_outputs=all \
  --remote_max_connections=2 --spawn_strategy=remote "$@" 2>&1 | tee "$work/carol/log" >&2
seconds=$((SECONDS - start))
remotely=$(counted '[0-9]+ remote' "$work/carol/log")
locally=$(executed "$work/carol/log")
sums "$work/carol/checkout/centerpoint/bazel-bin" >"$work/carol/sums"
./bazelw build "$@" >&2
sums "$(./bazelw info bazel-bin 2>/dev/null)" | grep -Ff <(awk '{ print $2 }' "$work/carol/sums") >"$work/local.sums"
echo "$workers workers: $remotely actions executed there, $locally here, $seconds s, $(du -sm "$work/worker/cache/content" | cut -f1) MB in the cluster's store"
[[ "$remotely" -gt 0 && "$locally" -eq 0 ]] || fail "not every action ran on the workers"
[[ -s "$work/carol/sums" ]] && diff "$work/local.sums" "$work/carol/sums" >&2 || fail "the cluster's files are not the local build's"
echo "remote execution: PASSED, $(wc -l <"$work/carol/sums") files equal those of the local build"
