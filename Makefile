# hanode: what a person types. `make setup` once, as root, on a Debian machine.

# What building, booting and testing an image takes, apart from cargo.
TOOLS = mmdebstrap debian-archive-keyring systemd-container xorriso mtools gdisk dosfstools e2fsprogs zstd \
        iproute2 openssl ovmf
# In one go: where qemu-utils came from another suite than the default one, so must the rest (see setup).
QEMU = qemu-system-x86 qemu-utils

# True if a package is installed.
installed = dpkg-query -W -f '$${db:Status-Abbrev}' $(1) 2>/dev/null | grep -q '^ii'

.PHONY: setup
setup: setup-tools setup-qemu

.PHONY: setup-tools
setup-tools:
	@missing=; for p in $(TOOLS); do $(call installed,$$p) || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then apt-get update -q && apt-get install -y --no-install-recommends $$missing; fi

# On a machine with packages of its backports suite, plain QEMU conflicts with what is installed: then QEMU comes
# from there too. The suite's source is written as the machine's own ones are, for this one call.
.PHONY: setup-qemu
setup-qemu:
	@missing=; for p in $(QEMU); do $(call installed,$$p) || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	apt-get update -q; \
	apt-get install -y --no-install-recommends $(QEMU) || sh scripts/install-from-backports $(QEMU)

# Cuts the power after every step of the service; a quarter of an hour, as root.
.PHONY: test-failpoints
test-failpoints:
	cargo test --features failpoints --test failpoints -- --ignored --nocapture
