#!/bin/sh
# Installs Packer from this Debian release or, because later releases have none, from bookworm (a single program that
# needs only libc). Uses the mirror in this machine's apt sources.
set -eu

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
if apt-get install -qy --no-install-recommends packer; then exit 0; fi

. /etc/os-release
mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
    awk -v suite="$VERSION_CODENAME" '$2 == suite && $3 == "main" { print $1; exit }')
[ -n "$mirror" ] || { echo "install-packer: no apt source for $VERSION_CODENAME" >&2; exit 1; }
list=/etc/apt/sources.list.d/hanode-packer.list
trap 'rm -f "$list"' EXIT
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" >"$list"
apt-get update -q
apt-get install -qy --no-install-recommends -t bookworm packer
