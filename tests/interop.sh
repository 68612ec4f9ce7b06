#!/usr/bin/env bash
# Runs the layer with real clients and proxies: Java, curl, nginx and haproxy. They are installed from the packages of
# Debian or Ubuntu where they are missing; on other systems the script says what to install.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

declare -A packages=([javac]=openjdk-17-jdk-headless [curl]=curl [nginx]=nginx-light [haproxy]=haproxy)
missing=()
for command in "${!packages[@]}"; do
    PATH=$PATH:/usr/sbin command -v "$command" >/dev/null || missing+=("${packages[$command]}")
done
if [[ ${#missing[@]} -gt 0 ]]; then
    command -v apt-get >/dev/null || {
        echo "install Java 17 (a JDK), curl, nginx and haproxy; missing by Debian's names: ${missing[*]}" >&2
        exit 1
    }
    sudo=()
    [[ $EUID -eq 0 ]] || sudo=(sudo)
    "${sudo[@]}" apt-get update
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
fi

PATH=$PATH:/usr/sbin cargo test --all-features --test interop
