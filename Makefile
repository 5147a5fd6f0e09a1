# hanode: what a person types. As root, on a Debian machine with cargo.

# What building, booting and testing an image takes, apart from cargo.
TOOLS = build-essential mmdebstrap debian-archive-keyring systemd-container xorriso mtools gdisk dosfstools \
        e2fsprogs zstd iproute2 openssl ovmf openssh-client postgresql-client redis-tools curl gpg \
        groff-base zsh fish python3-jsonschema python3-prometheus-client faketime xz-utils apt-utils dnsmasq-base
# In one go: where qemu-utils came from another suite than the default one, so must the rest (see setup-qemu).
QEMU = qemu-system-x86 qemu-utils

# True if a package is installed.
installed = dpkg-query -W -f '$${db:Status-Abbrev}' $(1) 2>/dev/null | grep -q '^ii'

TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
PROGRAM = $(TARGET_DIR)/release/hanode

.PHONY: help
help:
	@echo 'make demo        build an image, run it as a cluster here, show that it works (minutes)'
	@echo 'make test        set up and run all tests but the long ones'
	@echo 'make test-vm     what takes an emulated machine: disks, clock, clouds, older releases, an image made by Packer (an hour)'
	@echo 'make test-targets  the old distributions as clusters, from what can be had of them (half an hour)'
	@echo 'make test-faults   single servers and the network broken under write load (a quarter of an hour)'
	@echo 'make test-recover  twins, old, torn and lost disks, what an operator decides (a quarter of an hour)'
	@echo 'make test-failpoints  the power cut after every step of the service (a quarter of an hour)'
	@echo 'make chaos       break a cluster 40 times while clients write (ROUNDS=, SEED=, NODES=)'
	@echo 'make test-model  the joining rules under very many histories (minutes)'
	@echo 'make bench       times, sizes, what the service itself takes (minutes; RUNS=)'
	@echo 'make build       the two programs, for a release'
	@echo 'make dist        the same in dist/, for glibc $(GLIBC) and newer: what images of the old distributions take'
	@echo 'make install     programs, manual pages and completions, below PREFIX (/usr/local)'

.PHONY: demo
demo: setup build
	@sh tests/demo.sh $(PROGRAM)

.PHONY: build
build: setup-cargo
	cargo build --release --locked --bins

# For the glibc of the oldest target, CentOS 8: linked by zig's linker, which knows what that had. Both tools are
# pinned and live below target/. Every build is checked.
GLIBC = 2.28
ZIG_VERSION = 0.17.1
ZIGBUILD_VERSION = 0.24.0
ZIG = $(TARGET_DIR)/zig-$(ZIG_VERSION)-$(ZIGBUILD_VERSION)
ZIG_MADE = $(TARGET_DIR)/x86_64-unknown-linux-gnu/release
.PHONY: dist
dist: setup-cargo $(ZIG)/made
	PATH="$(abspath $(ZIG))/bin:$$PATH" cargo zigbuild --release --locked --bins --target x86_64-unknown-linux-gnu.$(GLIBC)
	sh tests/check-glibc.sh $(GLIBC) $(ZIG_MADE)/hanode $(ZIG_MADE)/hanode-firstboot
	install -D -t dist $(ZIG_MADE)/hanode $(ZIG_MADE)/hanode-firstboot

$(ZIG)/made:
	@python3 -c 'import ensurepip' 2>/dev/null || { echo 'making the tool chain takes python3-venv: apt-get install python3-venv' >&2; exit 1; }
	rm -rf $(ZIG)
	python3 -m venv $(ZIG)
	$(ZIG)/bin/pip install --quiet --disable-pip-version-check ziglang==$(ZIG_VERSION) cargo-zigbuild==$(ZIGBUILD_VERSION)
	touch $@

# `hanode` finds the image's program in ../lib/hanode. BUILT=dist after `make dist`: images of the old targets too.
PREFIX = /usr/local
BUILT = $(TARGET_DIR)/release
SHARE = $(DESTDIR)$(PREFIX)/share
.PHONY: install
install: build
	install -D -m 755 $(BUILT)/hanode $(DESTDIR)$(PREFIX)/bin/hanode
	install -D -m 755 $(BUILT)/hanode-firstboot $(DESTDIR)$(PREFIX)/lib/hanode/hanode-firstboot
	made=$$(mktemp -d) && $(PROGRAM) docs --out $$made && install -d $(SHARE)/man && \
	cp -R $$made/man1 $(SHARE)/man/ && rm -r $$made/man1 && cp -R $$made/. $(SHARE)/ && rm -r $$made

# One run of the test runner: units, golden trees, validators, images, firmware, lab, cluster.
.PHONY: test
test: setup
	cargo test --locked

.PHONY: test-vm
test-vm: setup
	cargo test --locked --test lab --test machine --test cloud --test clouds --test releases --test packer -- --ignored --test-threads=1

# Images of the old targets from fixtures of their archives, run as clusters; half an hour, as root.
.PHONY: test-targets
test-targets: setup
	cargo test --locked --test cluster --test el -- --ignored --nocapture --test-threads=1

.PHONY: check
check: setup-cargo
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

.PHONY: setup
setup: setup-cargo setup-root setup-tools setup-fetchers setup-qemu setup-packer

# cargo itself says which version is too old; without it nothing does.
.PHONY: setup-cargo
setup-cargo:
	@command -v cargo >/dev/null || { echo 'cargo is missing: install a current Rust, see https://rustup.rs' >&2; exit 1; }
	@wanted=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml); found=$$(cargo --version | cut -d' ' -f2); \
	printf '%s\n%s\n' "$$wanted" "$$found" | sort -VC || \
	{ echo "cargo $$found is too old: hanode needs Rust $$wanted or newer; run: rustup update" >&2; exit 1; }

.PHONY: setup-root
setup-root:
	@[ "$$(id -u)" = 0 ] || { echo 'images and labs take root: run this as root' >&2; exit 1; }

.PHONY: setup-tools
setup-tools:
	@missing=; for p in $(TOOLS); do $(call installed,$$p) || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then apt-get update -q && \
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; fi

# What fetches the programs of the old targets; npm and Python may well be there without a package.
.PHONY: setup-fetchers
setup-fetchers:
	@missing=; command -v npm >/dev/null || missing="$$missing npm"; \
	python3 -m pip --version >/dev/null 2>&1 || missing="$$missing python3-pip"; \
	python3 -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ]; then apt-get update -q && \
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; fi

# On a machine with packages of its backports suite, plain QEMU conflicts with what is installed: then QEMU comes
# from there too. The suite's source is written as the machine's own ones are, for this one call.
.PHONY: setup-qemu
setup-qemu:
	@missing=; for p in $(QEMU); do $(call installed,$$p) || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	apt-get update -q; \
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(QEMU) || \
	sh tests/install-from-backports.sh $(QEMU)

.PHONY: setup-packer
setup-packer:
	@$(call installed,packer) || sh tests/install-packer.sh

# Histories of the model by the hundred thousand, optimised: some minutes.
.PHONY: test-model
test-model: setup-cargo
	PROPTEST_CASES=$(or $(CASES),200000) cargo test --locked --profile model --no-default-features --test model

# A long run from nothing to nothing: `make chaos ROUNDS=40 SEED=1 NODES=3`. Five nodes are struck twice at once.
.PHONY: chaos
chaos: setup build
	@sh tests/chaos.sh $(PROGRAM) $(or $(NODES),3) $(or $(ROUNDS),40) $(or $(SEED),1) $(or $(SCALE),1)

# Faults of single servers and of the network under write load; a quarter of an hour, as root.
.PHONY: test-faults
test-faults: setup
	cargo test --locked --test faults --test faults_lag -- --ignored --nocapture --test-threads=1

# A second machine of the same name, old, torn, discarded and lost disks, a first start that is cut, the operator's word;
# a quarter of an hour, as root.
.PHONY: test-recover
test-recover: setup
	cargo test --locked --test recover --test damage --test genesis -- --ignored --nocapture

# What README quotes: `make bench RUNS=5`, as root, on a machine that does nothing else.
.PHONY: bench
bench: setup build
	sh tests/bench.sh $(PROGRAM) $(or $(RUNS),3)

# Cuts the power after every step of the service; a quarter of an hour, as root.
.PHONY: test-failpoints
test-failpoints: setup
	cargo test --locked --features failpoints --test failpoints -- --ignored --nocapture
