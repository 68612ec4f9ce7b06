#!/usr/bin/env bash
# Runs every test. What they need beside Rust (a C toolchain, Node.js, Chromium and its driver, Redis) is installed from the
# packages of Debian or Ubuntu where it is missing; on other systems this says what to install.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step="setting up"
passed=()
trap '[[ $? -eq 0 ]] || echo "FAILED: $step" >&2' EXIT

fail() {
    step=$*
    exit 1
}

run() {
    step=$1
    shift
    printf '\n== %s: %s\n' "$step" "$*"
    "$@"
    passed+=("$step")
}

# Whether one of these commands is there.
has() {
    local name
    for name in "$@"; do
        if command -v "$name" >/dev/null; then return 0; fi
    done
    return 1
}

# The packages, by Debian's names, whose commands are missing.
missing() {
    has cc || echo build-essential
    has node || echo nodejs
    has chromium chromium-browser google-chrome || echo chromium
    has chromedriver || echo chromium-driver
    has redis-server || echo redis-server
}

install() {
    local package packages=() sudo=()
    has apt-get || fail "$* missing: install a C toolchain, Node.js 18 or newer, Chromium or Chrome and the chromedriver of" \
        "its version, and Redis 7, so that cc, node, chromium, chromedriver and redis-server are in PATH"
    if [[ $EUID -ne 0 ]]; then
        has sudo || fail "$* missing: install them as root"
        sudo=(sudo)
    fi
    step="installing $*"
    "${sudo[@]}" apt-get update
    for package in "$@"; do
        # Ubuntu's names for the two.
        if [[ -z $(apt-cache search --names-only "^$package\$") ]]; then
            package=${package/%chromium/chromium-browser}
            package=${package/%chromium-driver/chromium-chromedriver}
        fi
        packages+=("$package")
    done
    # Chromium only recommends fonts, and the screenshots are of text.
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends "${packages[@]}" fonts-liberation
}

has cargo || fail "cargo is missing: install Rust from https://rustup.rs"
mapfile -t packages < <(missing)
if [[ ${#packages[@]} -gt 0 ]]; then
    install "${packages[@]}"
    mapfile -t packages < <(missing)
    [[ ${#packages[@]} -eq 0 ]] || fail "still missing after the installation: ${packages[*]}"
fi
node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || fail "Node.js is $(node --version), which is older than 18"

# A missing server fails its tests under CI alone.
export CI=true
run "library and scenarios" cargo test --all-features --lib --test it
run "examples" cargo build --all-features --examples
run "stores" cargo test --all-features --test stores
run "doctests" cargo test --all-features --doc
run "hook" node --test tests/hook.test.mjs
run "browser" cargo test --all-features --test browser

printf -v list ', %s' "${passed[@]}"
printf '\nEvery test passed: %s.\n' "${list:2}"
