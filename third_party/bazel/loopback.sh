# Sourced by remote_cache_test.sh and remote_execution_test.sh: a temporary folder, servers on 127.0.0.1 in it, and
# machines that are folders: a home, a user name and a checkout each.

fail() { echo "$title: FAILED $*"; exit 1; }
skip() { echo "$title: SKIPPED $*"; exit 0; }

# open_work TITLE: $work, which goes at the end with every process that was put into $started.
open_work() {
  title=$1
  started=()
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/centerpoint-bazel
  ./bazelw info release >/dev/null 2>&1 || skip "./bazelw does not run here"
  environment=$(readlink -f "$(./bazelw info output_base 2>/dev/null)"/external/*python_env/environment) || true
  [[ -d "${environment:-}" ]] || { ./bazelw build //base >/dev/null 2>&1 || skip "no Python environment"
    environment=$(readlink -f "$(./bazelw info output_base 2>/dev/null)"/external/*python_env/environment); }
  work=$(mktemp -d)
  trap close_work EXIT
}

# Also where a signal ends the script: a command of Bazel may run then, and `shutdown` would wait for it.
close_work() {
  local file processes=("${started[@]}") try
  trap '' HUP INT TERM
  for file in "$work"/*/home/.cache/bazel/*/*/server/server.pid.txt; do
    [[ ! -f "$file" ]] || processes+=("$(<"$file")")
  done
  for try in {1..200}; do
    kill "${processes[@]}" 2>/dev/null || break  # nobody is left
    sleep 0.1
  done
  kill -KILL "${processes[@]}" 2>/dev/null || true
  chmod -R u+w "$work" && rm -rf "$work"
}

free_port() { "$environment/bin/python3.11" -c 'import socket
with socket.socket() as s: s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# await_port PORT LOG: until somebody listens, five minutes at most: a busy machine takes one to start BuildGrid.
await_port() {
  local try
  for try in {1..600}; do
    (: </dev/tcp/127.0.0.1/"$1") 2>/dev/null && return
    sleep 0.5
  done
  tail -5 "$2" >&2
  fail "the server does not listen on port $1"
}

# unpack_debian FOLDER PACKAGE…: the machine's own Debian packages, unpacked below FOLDER/root, not installed.
unpack_debian() {
  local folder=$1 package
  shift
  mkdir -p "$folder/debs" "$folder/root"
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
  (cd "$folder/debs" && apt-get -q -o APT::Sandbox::User="$(id -un)" download "$@") >"$folder/log" 2>&1 || return 1
  for package in "$folder"/debs/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
}

# BuildGrid in a virtual environment of its own. Nothing of it is used by the product, so that it is in no lock.
install_buildgrid() {
  mkdir -p "$work/buildgrid/cas"
  "$environment/bin/python3.11" -m venv "$work/buildgrid/venv" &&
    "$work/buildgrid/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "BuildGrid==0.4.4" 'setuptools<81' \
      >"$work/buildgrid/log" 2>&1 || skip "BuildGrid cannot be installed here: $(tail -1 "$work/buildgrid/log")"
}

# make_machine NAME CHECKOUT: a home with the same tools, and this tree in a folder of its own.
make_machine() {
  local home=$work/$1/home
  mkdir -p "$home/.cache/centerpoint-bazel/python" "$(dirname "$2")"
  chmod -R go-w "$home"
  cp -al "$environment" "$home/.cache/centerpoint-bazel/python/"
  for root in "$cache"/bazel-*; do [[ ! -d "$root" ]] || cp -al "$root" "$home/.cache/centerpoint-bazel/"; done
  mkdir -p "$2"
  git ls-files -z --cached --others --exclude-standard | tar -c --null --files-from=- --ignore-failed-read 2>/dev/null | tar -x -C "$2" ||
    fail "git does not say which files are this tree"
}

# on_machine NAME ARGUMENT…: ./bazelw there. A server of 2 GB, since there may be several.
on_machine() {
  local name=$1
  shift
  (cd "$work/$name/checkout"/* && env -u XDG_CACHE_HOME HOME="$work/$name/home" USER="$name" LOGNAME="$name" \
    ./bazelw --host_jvm_args=-Xmx2g "$@")
}

# Of Bazel's closing lines ("12 processes: 3 remote cache hit, 8 internal, 1 linux-sandbox."): what was run here, and what was not.
counted() { grep -oE '[0-9]+ process(es)?: .*' "$2" | tr ',:' '\n\n' | awk -v kind="$1" '$0 ~ kind { sum += $1 } END { print sum + 0 }'; }
executed() { counted '(linux-sandbox|processwrapper-sandbox|local|worker)' "$1"; }
hits() { counted 'remote cache hit' "$1"; }
disk_hits() { counted 'disk cache hit' "$1"; }
