#!/bin/bash
# Sets up what the Makefile's targets need, and does nothing when it is there.
#   setup.sh           Debian's packages where it can, else it says which are missing; Python
#   setup.sh all       the same, but fails when packages are missing
#   setup.sh python    the virtual environment only
# Behind `some` or `all`, `tests` adds what only tests need.
set -euo pipefail
cd "$(dirname "$0")/.."

SETUP=$PWD/deployments/setup.sh
LISTS=("$PWD/deployments/packages.txt")
POLICY=/usr/sbin/policy-rc.d
SAVED=$POLICY.before-cloudloom
MARK="# Put here by Cloudloom's set-up; it is taken away again."

say() { printf 'set-up: %s\n' "$*" >&2; }
listed() { sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "${LISTS[@]}"; }
is_debian() { [ -r /etc/debian_version ] && command -v apt-get dpkg-query >/dev/null; }

missing() { # the packages of the list that are not installed
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null |
        sed -n 's/^installed //p' | sort -u)
    listed | sort | comm -23 - <(printf '%s\n' "$installed")
}

# --- Debian's packages -----------------------------------------------------------------------

restore_policy() {
    if [ -e "$SAVED" ] || [ -L "$SAVED" ]; then
        mv -f "$SAVED" "$POLICY"
    elif grep -qsF "$MARK" "$POLICY"; then
        rm -f "$POLICY"
    fi
}

deny_services() { # what is installed from now on does not start
    trap restore_policy EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ -e "$POLICY" ] || [ -L "$POLICY" ]; then mv "$POLICY" "$SAVED"; fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$MARK" >"$POLICY.new"
    chmod 755 "$POLICY.new"
    mv "$POLICY.new" "$POLICY"
}

install_packages() { # as root
    local wanted
    exec 9>/run/cloudloom-setup.lock
    flock 9
    wanted=$(missing)
    restore_policy # of a set-up that was killed
    [ -n "$wanted" ] || return 0
    deny_services
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
    apt-get -q update </dev/null 9>&- || say "the package lists could not be refreshed"
    # shellcheck disable=SC2086 - one word for each package
    apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Options::=--force-confold install $wanted </dev/null 9>&-
}

packages() { # status 3 where packages are missing and this machine or user cannot install them
    local wanted name
    if ! is_debian; then
        say "this is no Debian; install by hand what corresponds to:" $(listed)
        return 3
    fi
    wanted=$(missing)
    if [ -n "$wanted" ]; then
        say "Debian packages to be installed, their services not started:"
        for name in $wanted; do grep -hE "^$name([[:space:]]|\$)" "${LISTS[@]}" >&2; done
    elif ! grep -qsF "$MARK" "$POLICY"; then # else a set-up was killed, or is at it
        return 0
    fi
    if [ "$(id -u)" = 0 ]; then
        "$SETUP" install-packages "${WITH_TESTS[@]}"
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        sudo -- "$SETUP" install-packages "${WITH_TESTS[@]}"
    elif [ -n "$wanted" ]; then
        say "only root can install them: apt-get install --no-install-recommends" $wanted
        return 3
    fi
}

# --- Python ----------------------------------------------------------------------------------

find_python() {
    local python
    for python in ${PYTHON:-python3 python3.11 /usr/bin/python3}; do
        if "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    return 1
}

fingerprint() { # of all that the virtual environment is made from
    local kvm=without
    if pkg-config --exists libvirt 2>/dev/null; then kvm=$(pkg-config --modversion libvirt); fi
    { echo "$PWD $kvm"; cat requirements.lock requirements-kvm.lock pyproject.toml "$SETUP"; } |
        sha256sum
}

python() {
    local python stamp=.venv/set-up
    [ "$(cat "$stamp" 2>/dev/null)" != "$(fingerprint)" ] || return 0
    python=$(find_python) || { packages && python=$(find_python); } ||
        { say "Python 3.11 or newer with its venv module is needed"; return 1; }
    mkdir -p build
    exec 8>build/set-up.lock
    flock 8
    [ "$(cat "$stamp" 2>/dev/null)" != "$(fingerprint)" ] || return 0
    say "virtual environment of $("$python" --version), from requirements.lock"
    rm -f "$stamp"
    .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
    local pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input -qq)
    # The lock is whole; where extras are wanted, pip before 23.3 would resolve past its pins.
    "${pip[@]}" install --require-hashes --no-deps -r requirements.lock
    if pkg-config --exists libvirt 2>/dev/null; then
        "${pip[@]}" install --require-hashes --no-build-isolation --no-deps -r requirements-kvm.lock
    else
        say "no headers of libvirt: without KVM hosts"
    fi
    "${pip[@]}" install --no-deps --no-build-isolation --config-settings editable_mode=compat \
        --editable . # the whole checkout is on the path: the demo needs deployments/lab
    fingerprint >"$stamp"
}

WITH_TESTS=()
if [ "${2:-}" = tests ]; then
    WITH_TESTS=(tests)
    LISTS+=("$PWD/deployments/packages-tests.txt")
fi
case ${1:-some} in
    some)
        status=0
        packages || status=$?
        [ "$status" = 0 ] || [ "$status" = 3 ] || exit "$status"
        [ "$status" = 0 ] || say "what needs them will not run here"
        python
        ;;
    all) packages; python ;;
    python) python ;;
    install-packages) install_packages ;;
    *) sed -n '2,6s/^# //p' "$SETUP" >&2; exit 2 ;;
esac
