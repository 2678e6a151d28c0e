#!/usr/bin/env bash
# provision.sh PYTHON: makes sure that the user's cache holds a root with Bazel 7.7.1; prints the root's path.
#
# The packages come from the machine's own Debian mirror, unstable suite, through apt-get with every state folder of its
# own: the system's package database is neither read nor written. apt checks the suite's signature with Debian's
# keyring and every package by its hash. Nothing of a package is executed while it is unpacked, no file keeps a set-uid or
# set-gid bit, and the versions that the repository relies on are checked before the download and again in what was installed.
# Killed half-way: the next call starts the unfinished step again (work goes to a temporary folder and is renamed).
# Two at once: the second waits for the first's lock.
#   CENTERPOINT_DEBIAN_MIRROR=URL   the mirror, where the machine's apt configuration names none
set -euo pipefail

REVISION=7.7.1-r4  # raise it when the list of packages or the layout changes
PACKAGES=(bazel-bootstrap bazel-rules-shell bubblewrap libc-bin bash coreutils sed grep findutils tar gzip diffutils mawk
  hostname util-linux g++)
# What the packages ask for and neither Bazel nor the tests need: the JDK (the JRE stays), Perl, Debian's own Python (the
# machine's 3.11 is bound in), sanitizers, documentation. g++ stays: tests compile CUDA kernels for the CPU.
UNNEEDED='^(make|patch|build-essential|dpkg-dev|perl|python3|openjdk-[0-9]+-jdk'
UNNEEDED+='|default-jdk|debconf|node-|libjs-|media-types|netbase|readline-common|libpam|openssl|bzip2|libpython3|libperl'
UNNEEDED+='|libc-gconv|libdpkg|lib(asan|lsan|tsan|ubsan|hwasan|itm|quadmath|gprofng))'

# Versions by Debian's names, as MODULE.bazel and .bazelversion have them; unstable moves on, the tree does not.
EXPECTED=('bazel-bootstrap = 7.7.1' 'bazel-bootstrap-data = 7.7.1' 'bazel-rules-python = 0.22.1' 'bazel-skylib >= 1.3.0')

source "$(dirname "${BASH_SOURCE[0]}")/cache.sh"

debian_mirror() {
  if [[ -n "${CENTERPOINT_DEBIAN_MIRROR:-}" ]]; then echo "$CENTERPOINT_DEBIAN_MIRROR"; return; fi
  local codename
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(CREATED_BY)' 2>/dev/null |
    awk -v suite="$codename" '($2 == suite || $2 == "stable" || $2 == "unstable") && $3 == "main" { print $1; exit }'
}

# apt-get with folders of its own: $1 is that folder, the rest are apt-get's arguments.
private_apt() {
  local state=$1
  shift
  apt-get -q -c "$state/apt.conf" "$@"
}

configure_apt() {
  local state=$1 mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  mirror=$(debian_mirror)
  [[ -n "$mirror" ]] || fail "apt's configuration names no Debian mirror; set CENTERPOINT_DEBIAN_MIRROR to one"
  [[ -r "$keyring" ]] || fail "$keyring is missing (package debian-archive-keyring): signatures cannot be checked"
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  : >"$state/status"
  echo "deb [signed-by=$keyring] $mirror unstable main" >"$state/sources.list"
  cat >"$state/apt.conf" <<CONF
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear APT::Default-Release;
Dir::State "$state";
Dir::State::Lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
Dir::Etc::SourceList "$state/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
APT::Sandbox::User "$(id -un)";
CONF
  say "reading the package lists of the unstable suite from $mirror"
  private_apt "$state" update >"$state/log" 2>&1 || { tail -5 "$state/log" >&2; fail "apt-get update failed"; }
}

# Standard input: lines of a package and its Debian version ([epoch:]upstream[+suffix][-revision]).
check_versions() {
  local line name relation expected found upstream packages
  packages=$(cat)
  for line in "${EXPECTED[@]}"; do
    read -r name relation expected <<<"$line"
    found=$(awk -v name="$name" '$1 == name { print $2; exit }' <<<"$packages")
    [[ -n "$found" ]] || fail "$1: $name is missing; this repository needs version $expected of it"
    upstream=$(sed -E 's/^[0-9]+://; s/-[^-]*$//; s/[+~].*$//' <<<"$found")
    [[ "$upstream" == "$expected" ]] || { [[ "$relation" == '>=' ]] && sort -VC <<<"$expected"$'\n'"$upstream"; } ||
      fail "$1: $name is $found; this repository needs $relation $expected." \
        "CENTERPOINT_DEBIAN_MIRROR=URL names a mirror (or a dated snapshot of one) that has it"
  done
}

download() {
  local state=$1 planned package wanted=()
  planned=$(private_apt "$state" -s install --no-install-recommends "${PACKAGES[@]}" |
    awk '$1 == "Inst" { version = $3; sub(/^\(/, "", version); print $2, version }' | grep -vE "$UNNEEDED") ||
    fail "the unstable suite offers no installable bazel-bootstrap"
  check_versions "the unstable suite of the mirror" <<<"$planned"
  mapfile -t wanted < <(tr ' ' '=' <<<"$planned")
  say "downloading ${#wanted[@]} packages (about 290 MB)"
  (cd "$state/cache/archives" && private_apt "$state" download "${wanted[@]}") >"$state/log" 2>&1 ||
    { tail -5 "$state/log" >&2; fail "the download failed; call bazelw again to resume it"; }
  for package in "$state"/cache/archives/*.deb; do  # an interrupted download of other versions is not unpacked as well
    grep -qxF "$(dpkg-deb --show --showformat '${Package} ${Version}' "$package")" <<<"$planned" || rm "$package"
  done
}

# No program of the root gains rights: set-uid and set-gid bits go, and it is an error if one stays.
drop_privileges() {
  local left
  find "$1" -xdev -type f -perm /6000 -exec chmod ug-s {} +
  find "$1" -xdev -type d -perm /6000 -exec chmod ug-s {} +
  left=$(find "$1" -xdev -perm /6000 -print -quit)
  [[ -z "$left" ]] || fail "$left keeps its set-uid or set-gid bit; is $1 on a file system that takes chmod?"
}

# unpack_archives STATE TARGET: the downloaded packages as a root, with the shell's usual name.
unpack_archives() {
  local state=$1 target=$2 package count=0 total directory
  local packages=("$state"/cache/archives/*.deb)
  total=${#packages[@]}
  mkdir -m 700 "$target"  # nobody else reaches what lies in it before it is whole
  mkdir -p "$target"/usr/{bin,sbin,lib,lib64} "$target"/{etc,proc,dev,sys,tmp}
  for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$target/$directory"; done
  : >"$target/.packages"
  for package in "${packages[@]}"; do
    dpkg-deb --show --showformat '${Package} ${Version}\n' "$package" >>"$target/.packages" &&
      dpkg-deb --fsys-tarfile "$package" | tar -x -C "$target" --no-same-owner --no-same-permissions \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
        --exclude='./usr/share/info/*' || fail "$package cannot be unpacked; remove $state and call bazelw again"
    count=$((count + 1))
    ((count % 50)) || say "unpacked $count of $total packages"
  done
  drop_privileges "$target"
  ln -sf bash "$target/usr/bin/sh"
}

unpack() {
  local target=$2
  unpack_archives "$@"
  # Links that maintainer scripts would have made.
  ln -sf mawk "$target/usr/bin/awk"
  [[ ! -e "$target/usr/bin/which.debianutils" ]] || ln -sf which.debianutils "$target/usr/bin/which"
  # Debian's own settings less a JDK (there is only a JRE) and less a C compiler (Bazel compiles nothing here, but its
  # Python rules ask for a C toolchain to be configured).
  local overrides
  overrides=$(grep '^common --override_module' "$target/etc/bazel/bazelrc")
  cat >"$target/etc/bazel/bazelrc" <<RC
startup --install_base=/usr/share/bazel --trust_install_base
startup --server_javabase=/usr/lib/jvm/default-java
common --repo_env=CC=/usr/bin/true
$overrides
RC
}

# unpack_worker FOLDER: FOLDER/root with a worker of a cluster and what its actions start with, for remote_execution_test.sh.
unpack_worker() {
  local state=$1/apt planned
  configure_apt "$state"
  planned=$(private_apt "$state" -s install --no-install-recommends buildbox bash coreutils sed grep mawk findutils libstdc++6 |
    awk '$1 == "Inst" { version = $3; sub(/^\(/, "", version); print $2 "=" version }' | grep -vE '^(debconf|perl|python3)')
  (cd "$state/cache/archives" && private_apt "$state" download $planned) >"$state/log" 2>&1 ||
    { tail -5 "$state/log" >&2; fail "the download failed"; }
  unpack_archives "$state" "$1/root"
}

# The machine's Python and git need shared libraries that the root may lack: copy those, never the C library's own.
adopt_host_programs() {
  local stamp library programs name
  stamp="$python $(stat -Lc '%Y %s' "$python")"
  [[ "$(cat "$root/.host-programs" 2>/dev/null || true)" != "$stamp" ]] || return 0
  programs=("$python" "$("$python" -c 'import sysconfig; print(sysconfig.get_path("platstdlib"))')"/lib-dynload/*.so)
  [[ ! -x /usr/bin/git ]] || programs+=(/usr/bin/git)
  for library in $(ldd "${programs[@]}" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u); do
    name=$(basename "$library")
    case "$library" in /lib/* | /usr/lib/*) ;; *) continue ;; esac  # elsewhere: visible in the root as it is
    [[ -e $(echo "$root"/usr/lib/*-linux-gnu)/$name ]] ||
      cp -L "$library" "$(echo "$root"/usr/lib/*-linux-gnu)/$name"
  done
  rm -f "$root"/usr/bin/python3 "$root"/usr/bin/python3.11
  case "$python" in
    /usr/bin/*) ln -s "$(basename "$python")" "$root/usr/bin/python3" ;;
    *) ln -s "$python" "$root/usr/bin/python3"; ln -s "$python" "$root/usr/bin/python3.11" ;;
  esac
  echo "$stamp" >"$root/.host-programs"
}

ready() { [[ -f "$root/.host-programs" && "$(cat "$root/.host-programs")" == "$python $(stat -Lc '%Y %s' "$python")" ]]; }

# A program of the root, in the root.
run_in_root() {
  local loader
  loader=$(echo "$root"/lib64/ld-linux-*.so.*)
  "$loader" --library-path "$(echo "$root"/usr/lib/*-linux-gnu)" "$root/usr/bin/bwrap" --bind "$root" / --dev-bind /dev /dev \
    --bind /proc /proc "$@"
}

provision() {
  local state version
  if [[ ! -d "$root" ]]; then
    say "no bazel on PATH: provisioning Bazel 7.7.1 in $cache (once, about a minute, 0.8 GB)"
    rm -rf "$cache"/unpacking.*
    state=$cache/apt
    configure_apt "$state"
    download "$state"
    unpack "$state" "$cache/unpacking.$$"
    check_versions "what was installed" <"$cache/unpacking.$$/.packages"
    chmod 755 "$cache/unpacking.$$"
    mv -T "$cache/unpacking.$$" "$root"
    rm -rf "$state"
  fi
  adopt_host_programs
  run_in_root /usr/bin/true || {
    rm -f "$root/.host-programs"
    fail "this machine does not let bubblewrap make a mount namespace (a container without CAP_SYS_ADMIN?)"
  }
  version=$(run_in_root --setenv USER "$(id -un)" --setenv HOME /tmp /usr/bin/bazel --version)
  [[ "$version" == "bazel ${REVISION%-*}" ]] || fail "$root/usr/bin/bazel calls itself '$version', not 'bazel ${REVISION%-*}'; remove $root"
  say "Bazel is ready in $root"
}

main() {
  python=$1
  cache=$CENTERPOINT_CACHE
  root=$cache/bazel-$REVISION
  umask 022
  open_cache "$cache"
  if ! ready; then
    exec 9>"$cache/provision.lock"
    flock -n 9 || { say "waiting for another bazelw that is provisioning"; flock 9; }
    provision
  fi
  echo "$root"
}

# Sourced (by its test), it only defines.
[[ "${BASH_SOURCE[0]}" != "$0" ]] || main "$@"
