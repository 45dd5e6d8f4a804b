# Sourced by the other scripts: the environment in .venv, and Debian's packages.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PIP_VERSION=26.3 # dependency groups need 25.1
POLICY=/usr/sbin/policy-rc.d

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

# Make .venv hold what pyproject.toml asks for ("runtime", or "dev" for the groups as well), at the
# versions of constraints.txt. A stamp for each makes the next run quick.
install_python() {
  local wanted=$1 stamp
  stamp=$(cat pyproject.toml constraints.txt scripts/setup.sh <(pwd) | sha256sum)
  is_installed "$wanted" "$stamp" && return
  exec 9<. # the folder itself is the lock: two scripts may be started at once
  flock 9
  if ! is_installed "$wanted" "$stamp"; then
    say "Installing Python packages into .venv ($wanted)"
    .venv/bin/pip --version &>/dev/null || make_venv
    .venv/bin/python -m pip install -qq --disable-pip-version-check "pip==$PIP_VERSION"
    local group=()
    [[ $wanted == runtime ]] || group=(--group "$wanted")
    .venv/bin/pip install -qq --disable-pip-version-check --root-user-action ignore \
      --constraint constraints.txt --editable . "${group[@]}"
    printf '%s' "$stamp" >".venv/installed-$wanted"
  fi
  exec 9<&-
}

# What the developers have is enough to serve with.
is_installed() {
  local wanted
  for wanted in "$1" dev; do
    [[ -f .venv/installed-$wanted && $(<".venv/installed-$wanted") == "$2" ]] && return
  done
  false
}

# Why the system's Python goes first: distributions build theirs with profile-guided optimisation,
# and one built without takes a sixth more CPU for our code. PYTHON names another.
make_venv() {
  local python=${PYTHON:-}
  [[ -n $python ]] || python=$(find_python)
  is_new_enough "$python" || fail "$python is not Python 3.11 or newer."
  makes_venvs "$python" || install_packages python3-venv
  rm -rf .venv
  "$python" -m venv .venv || fail "$python cannot make an environment."
}

# The first that makes environments; the system's learns to, if it can be taught.
find_python() {
  local python
  if is_new_enough /usr/bin/python3 && ! makes_venvs /usr/bin/python3 && can_install; then
    (install_packages python3-venv) || say "So another Python is looked for."
  fi
  for python in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
    is_new_enough "$python" && makes_venvs "$python" && echo "$python" && return
  done
  install_packages python3 python3-venv
  echo /usr/bin/python3
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
makes_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Install a package of npm, by the Node.js that is in .venv, into .venv/node.
install_node_package() {
  [[ -e .venv/node/$1 ]] && return
  say "Installing $1 into .venv/node"
  .venv/bin/npm install --silent --no-audit --no-fund --prefix .venv/node "$1"
  touch ".venv/node/$1"
}

# Install the named Debian packages that are missing, or say which ones they are and fail.
install_packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query --show --showformat '${db:Status-Status}\n' "$name" 2>/dev/null |
      grep -qx installed || missing+=("$name")
  done
  ((${#missing[@]} == 0)) && return
  can_install || fail "Missing, to be installed as root: apt-get install ${missing[*]}"
  say "Installing Debian packages: ${missing[*]}"
  without_autostart apt_install "${missing[@]}" || fail "Could not install: ${missing[*]}"
}

can_install() { [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; }

apt_install() {
  local options=(-qq -o DPkg::Lock::Timeout=300)
  apt-get "${options[@]}" update
  DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install -y --no-install-recommends "$@"
} </dev/null >&2

# Run a command while Debian starts no service that it installs; a policy of the machine's own is
# put back afterwards.
without_autostart() (
  [[ ! -e $POLICY || -e $POLICY.kept ]] || mv "$POLICY" "$POLICY.kept"
  trap 'rm -f "$POLICY"; [[ ! -e $POLICY.kept ]] || mv "$POLICY.kept" "$POLICY"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$POLICY"
  chmod 755 "$POLICY"
  "$@"
)
