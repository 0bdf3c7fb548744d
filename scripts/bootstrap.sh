#!/bin/sh
# Prepares a checkout: system tools (by apt, where it works and something is missing) and a virtual environment from
# the lock file. Safe to run again; does nothing when all is there. Usage: scripts/bootstrap.sh [dev|sam|runtime] [bench]
# "runtime" installs system packages alone: container runtimes, the reference CNI plugins and networkd, for `make runtime`.
# PYTHON chooses the interpreter; without it the environment that is there stays what it is.
set -eu
# trust what this machine trusts (pip does so when told; uv brings its own list of authorities unless told)
export UV_SYSTEM_CERTS=1
unset CDPATH
cd "$(dirname "$0")/.."
which_env=${1:-dev}

say() { printf '%s\n' "berth: $*" >&2; }
die() { say "$*"; exit 1; }

# What installs dies with us: an orphan would go on writing to an environment that the next run removes.
if command -v setpriv >/dev/null 2>&1; then
    tied() { setpriv --pdeathsig KILL "$@"; }
else
    tied() { "$@"; }
fi

supported() { "$1" -I -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; }
version_of() { "$1" -V | tr -d ' '; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 to 3.14 that runs; try PYTHON=/path/to/python3. It said: $("$PYTHON" -V 2>&1 | head -n 1)"
        echo "$PYTHON"; return
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if supported "$candidate"; then echo "$candidate"; return; fi
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
        || die "missing: $*, and apt-get could not install them: $(tail -n 3 build/apt.log)"
}

mkdir -p build
if command -v flock >/dev/null 2>&1; then  # two at once in one checkout would remove each other's work
    exec 9>build/.bootstrap-lock
    flock --nonblock 9 || { say "waiting for another preparation of this checkout"; flock 9; }
fi

missing=""
if [ "$which_env" = runtime ]; then
    # tool:package; a path is looked for as it is. No service is started: tests run their own, on files of their own.
    for pair in containerd:containerd runc:runc podman:podman crun:crun conmon:conmon \
        /usr/lib/cni/portmap:containernetworking-plugins /lib/systemd/systemd-networkd:systemd dbus-daemon:dbus; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
    done
fi
if [ "$which_env" = dev ]; then
    # tool:package; iptables is for the kube-proxy rules that the tests write, ping and ip for looking around
    for pair in nft:nftables ip:iproute2 iptables-restore:iptables nsenter:util-linux unshare:util-linux; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 \
            || missing="$missing ${pair##*:}"
    done
fi
# the plugins that `make bench-cni` times Berth beside; nothing else needs them
if [ "${2:-}" = bench ] && [ ! -e /usr/lib/cni/ptp ]; then missing="$missing containernetworking-plugins"; fi
# shellcheck disable=SC2086
[ -z "$missing" ] || apt_install $missing
[ "$which_env" != runtime ] || exit 0

case "$which_env" in
    dev) venv=.venv ;;
    sam) venv=.venv-sam ;;
    *) die "unknown environment '$which_env': dev, sam or runtime" ;;
esac
stamp=$venv/.berth-lock
locks=$(cat "requirements/$which_env.lock" requirements/uv.lock | sha256sum | cut -d' ' -f1)
if [ -z "${PYTHON:-}" ] && [ -e "$stamp" ] && supported "$venv/bin/python"; then
    [ "$(cat "$stamp")" = "$locks-$(version_of "$venv/bin/python")" ] && exit 0
fi
PYTHON=$(find_python)
wanted=$locks-$(version_of "$PYTHON")
[ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && supported "$venv/bin/python" && exit 0

say "preparing $venv from requirements/$which_env.lock (${wanted##*-}); the first time takes about a minute"
if ! "$PYTHON" -I -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install "python$("$PYTHON" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
fi
unreachable="could not install requirements/$which_env.lock; is a package index reachable? (pip and uv read PIP_INDEX_URL, UV_INDEX_URL)"
rm -rf "$venv" build/tmp/bootstrap
mkdir -p build/tmp/bootstrap
export TMPDIR="$PWD/build/tmp/bootstrap"  # what a kill leaves of pip is here, and goes with the next run
tied "$PYTHON" -m venv "$venv" || die "could not make $venv with $PYTHON"
tied "$venv/bin/python" -m pip install --quiet --retries 1 --disable-pip-version-check --require-hashes -r requirements/uv.lock \
    || die "$unreachable"
tied "$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" \
    --require-hashes "requirements/$which_env.lock" || die "$unreachable"
rm -rf build/tmp/bootstrap
echo "$wanted" > "$stamp"
