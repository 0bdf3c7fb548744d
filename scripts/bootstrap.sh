#!/bin/sh
# Prepares a checkout: system tools (by apt, where it works and something is missing) and a virtual environment from
# the lock file. Safe to run again; does nothing when all is there. Usage: scripts/bootstrap.sh [dev|sam]
set -eu
cd "$(dirname "$0")/.."
which_env=${1:-dev}

say() { printf '%s\n' "berth: $*" >&2; }
die() { say "$*"; exit 1; }

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
            echo "$candidate"; return
        fi
    done
    die "Python 3.11 to 3.14 is needed and none was found. Install it (apt-get install python3) or set PYTHON=/path."
}

updated=""
apt_install() {
    command -v apt-get >/dev/null 2>&1 || die "missing: $*. Install these packages with this system's package manager."
    [ "$(id -u)" = 0 ] || die "missing: $*. Run: sudo apt-get install $*"
    say "installing $* with apt-get"
    if [ -z "$updated" ]; then
        apt-get update -qq >/dev/null 2>&1 || say "apt-get update failed; trying with the list that is there"
        updated=1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>build/apt.log \
        || die "apt-get could not install $*: $(tail -n 3 build/apt.log)"
}

mkdir -p build
PYTHON=$(find_python)

missing=""
if [ "$which_env" = dev ]; then
    # tool:package; iptables is for the kube-proxy rules that the tests write, ping and ip for looking around
    for pair in nft:nftables ip:iproute2 iptables-restore:iptables nsenter:util-linux unshare:util-linux; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 \
            || missing="$missing ${pair##*:}"
    done
fi
# shellcheck disable=SC2086
[ -z "$missing" ] || apt_install $missing

case "$which_env" in
    dev) venv=.venv ;;
    sam) venv=.venv-sam ;;
    *) die "unknown environment '$which_env': dev or sam" ;;
esac
stamp=$venv/.berth-lock
wanted=$(cat "requirements/$which_env.lock" requirements/uv.lock | sha256sum | cut -d' ' -f1)-$("$PYTHON" -V | tr -d ' ')
[ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0

say "preparing $venv from requirements/$which_env.lock"
if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    apt_install "python$version-venv"
fi
rm -rf "$venv"
"$PYTHON" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock
UV_PROJECT_ENVIRONMENT="$venv" "$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" --require-hashes "requirements/$which_env.lock" \
    || die "could not install requirements/$which_env.lock; is a package index reachable?"
echo "$wanted" > "$stamp"
