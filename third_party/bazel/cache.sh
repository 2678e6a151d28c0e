# Sourced by bazelw and provision.sh: what the user's cache must be before anything in it is run or written.

say() { printf 'bazelw: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

CACHE_REMEDY="XDG_CACHE_HOME=/a/folder/of/yours ./bazelw …"

# A word of a bazelrc: Bazel splits its lines at spaces, knows quotes and comments, and takes a backslash before any
# character for that character.
bazelrc_word() { LC_ALL=C sed "s/[[:space:]\"'#\\]/\\\\&/g" <<<"$1"; }

# The path ends up in shell scripts, apt's and Bazel's settings, BUILD files and a virtual environment: letters of any
# language, digits, spaces and the signs below are safe in all of them (install_env.py holds the same rule).
check_cache_path() {
  local odd
  [[ "$1" == /* ]] || fail "the cache's path '$1' is not absolute; set HOME, or name a folder: $CACHE_REMEDY"
  odd=$(LC_ALL=C tr -d 'A-Za-z0-9\200-\377 _./,+@=~-' <<<"$1" | tr -d '\n')
  [[ -z "$odd" && "$1" != *$'\n'* ]] ||
    fail "the cache's path '$1' holds characters that not every tool takes ('${odd:-line break}'); name a folder: $CACHE_REMEDY"
}

# Makes the cache where it is missing. What lies in it is run: refuses one that somebody else owns or may write to.
open_cache() {
  local cache=$1 strange
  check_cache_path "$cache"
  mkdir -p "$(dirname "$cache")" || fail "the cache's folder cannot be made; name another: $CACHE_REMEDY"
  [[ -d "$cache" ]] || mkdir -m 700 "$cache" 2>/dev/null || [[ -d "$cache" ]] ||
    fail "$cache cannot be made; name another folder: $CACHE_REMEDY"
  strange=$(find -L "$cache" -maxdepth 1 ! -type l ! -user "$(id -u)")
  strange=${strange%%$'\n'*}
  [[ -z "$strange" ]] || fail "$strange is not owned by $(id -un), and what lies in the cache is run ($(ls -Lld "$strange"));" \
    "run bazelw as its owner, remove it, or name a folder: $CACHE_REMEDY"
  strange=$(find -L "$cache" -maxdepth 1 ! -type l \( -perm -020 -o -perm -002 \))
  strange=${strange%%$'\n'*}
  [[ -z "$strange" ]] || fail "others may write to $strange, and what lies in the cache is run ($(ls -Lld "$strange"));" \
    "where you trust what is in it: chmod -R go-w $(printf %q "$cache"); else remove it"
  # Made here, as Bazel and pip would make them with the mode of the user's umask.
  for strange in disk python; do [[ -d "$cache/$strange" ]] || mkdir -m 700 -p "$cache/$strange"; done
}
