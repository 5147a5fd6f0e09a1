#!/bin/sh
# Installs packages from the backports suite of this machine's release, from the mirror in its apt sources.
# usage: install-from-backports PACKAGE...
set -eu

. /etc/os-release
suite="$VERSION_CODENAME-backports"

# The mirror of the main suite in apt's parsed sources.
mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
    awk -v suite="$VERSION_CODENAME" '$2 == suite && $3 == "main" { print $1; exit }')
if [ -z "$mirror" ]; then
    echo "install-from-backports: no apt source for $VERSION_CODENAME; add one and try again" >&2
    exit 1
fi

# A temporary source, unless the machine has one for backports.
list=/etc/apt/sources.list.d/hanode-backports.list
if apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages' | grep -qx "$suite"; then
    list=
else
    trap 'rm -f "$list"' EXIT
    echo "deb $mirror $suite main" >"$list"
    apt-get update -q
fi
apt-get install -y --no-install-recommends -t "$suite" "$@"
