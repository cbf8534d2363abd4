# Shared by deploy/demo and deploy/test: says what it does, does only what is missing, fails with one clear sentence.

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }

fail() {
    printf '\033[31mfailed:\033[0m %s\n' "$*" >&2
    exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# packages NAME...: install Debian packages that are not there yet. Needs root (or sudo without a password).
packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    command -v apt-get >/dev/null || fail "these packages are missing, and there is no apt-get to install them: ${missing[*]}"
    local sudo=""
    if ! is_root; then
        sudo -n true 2>/dev/null || fail "these packages are missing: ${missing[*]}; as root: apt-get install ${missing[*]}"
        sudo="sudo -n"
    fi
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    $sudo apt-get -qq -o DPkg::Lock::Timeout=120 install --no-install-recommends -y "${missing[@]}" >/dev/null 2>&1 && return 0
    $sudo apt-get -qq update >/dev/null || fail "apt-get update failed: is there a network?"
    $sudo apt-get -qq -o DPkg::Lock::Timeout=120 install --no-install-recommends -y "${missing[@]}" >/dev/null ||
        fail "apt-get could not install ${missing[*]}"
}

# find_python: prints the newest Python that Tanist runs on.
find_python() {
    local each
    for each in python3.13 python3.12 python3.11 python3; do
        if command -v "$each" >/dev/null && "$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$each"
            return
        fi
    done
    fail "Tanist needs Python 3.11 or newer; Debian 12: apt-get install python3"
}

# environment EXTRAS: a virtual environment in .venv with Tanist in it, made once and brought up to date.
environment() {
    local extras="$1" python pip
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
        python="$(find_python)"
        say "making a virtual environment with $("$python" --version) in .venv"
        rm -rf .venv
        if ! "$python" -m venv .venv >/dev/null 2>&1; then
            rm -rf .venv
            if is_root || sudo -n true 2>/dev/null; then
                packages python3-venv
                "$python" -m venv .venv || fail "$python -m venv .venv does not work"
            elif "$python" -m pip --version >/dev/null 2>&1; then
                "$python" -m venv --without-pip .venv || fail "$python -m venv does not work"
            else
                fail "Python can make no virtual environments here; as root: apt-get install python3-venv"
            fi
        fi
    fi
    if [ -x .venv/bin/pip ]; then
        pip=(.venv/bin/python -m pip)
    else
        pip=("$(find_python)" -m pip --python .venv/bin/python)
    fi
    local wanted stamp target="."
    [ -z "$extras" ] || target=".[$extras]"
    wanted="$(sha256sum pyproject.toml | cut -d' ' -f1) $extras"
    stamp=.venv/tanist-installed
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        say "installing Tanist and what it needs into .venv"
        "${pip[@]}" install --quiet --disable-pip-version-check --editable "$target" ||
            fail "pip could not install Tanist's dependencies: is there a way to PyPI?"
        printf '%s' "$wanted" >"$stamp"
    fi
}
