# Targets that build images or run clusters need root on Debian; `make check`, `make test-unit` and `make build` do not.

# Debian packages for building, booting and testing images.
TOOLS = build-essential mmdebstrap debian-archive-keyring systemd-container xorriso mtools gdisk fdisk dosfstools \
        e2fsprogs zstd iproute2 openssl ovmf openssh-client postgresql-client redis-tools curl gpg \
        groff-base zsh fish python3-jsonschema python3-prometheus-client python3-psycopg2 python3-redis \
        faketime xz-utils apt-utils dnsmasq-base pgbackrest
# Installed together: if qemu-utils came from backports, all QEMU packages must come from there (see setup-qemu).
QEMU = qemu-system-x86 qemu-utils

# True if a package is installed.
installed = dpkg-query -W -f '$${db:Status-Abbrev}' $(1) 2>/dev/null | grep -q '^ii'

TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
PROGRAM = $(TARGET_DIR)/release/hanode

.PHONY: help
help:
	@echo 'make demo             build an image, run it as a three-node cluster, read and write through it (minutes, root)'
	@echo 'make check            check format and lints'
	@echo 'make setup            install the tools for tests and images from Debian packages (root)'
	@echo 'make test-unit        run the tests that need neither root nor network: cargo test (a minute)'
	@echo 'make test             install the tools, run all tests except the long ones (half an hour, root)'
	@echo 'make test-vm          test in emulated machines: disks, clock, clouds, older releases, Packer (an hour, root)'
	@echo 'make test-targets     build images of the old targets from fixtures and run them as clusters (half an hour, root)'
	@echo 'make test-faults      break single servers and the network under write load (a quarter of an hour, root)'
	@echo 'make test-recover     test duplicate addresses, damaged and lost disks, recovery (a quarter of an hour, root)'
	@echo 'make test-failpoints  cut the power after every step of the agent (a quarter of an hour, root)'
	@echo 'make test-model       check the joining rules with many random histories (minutes)'
	@echo 'make chaos            break a cluster 40 times while clients write (ROUNDS=, SEED=, NODES=; root)'
	@echo 'make bench            measure times, sizes and the cost of the agent (minutes, root; RUNS=)'
	@echo 'make build            build both programs, optimized'
	@echo 'make dist             build both programs for glibc $(GLIBC) and newer, as the old targets need, into dist/'
	@echo 'make install          install programs, manual pages and completions below PREFIX (/usr/local)'

# One profile for both programs compiles fastest. The image's program is larger than the one of `make build`.
.PHONY: demo build-demo
demo: setup build-demo
	@sh tests/demo.sh $(PROGRAM)

# The image's program is built with its own profile, for size. `hanode` finds it in its own directory.
# The two builds share no profile and so no lock: they run at the same time.
.PHONY: build build-hanode build-firstboot
build: setup-cargo
	@$(MAKE) --no-print-directory -j2 build-hanode build-firstboot
	install -m 755 $(TARGET_DIR)/image/hanode-firstboot $(TARGET_DIR)/release/hanode-firstboot

build-demo: setup-cargo
	cargo build --release --locked -p hanode -p hanode-firstboot

build-hanode:
	cargo build --release --locked -p hanode

build-firstboot:
	cargo build --profile image --locked -p hanode-firstboot

# Links against the symbols of an old glibc, that of CentOS 8, with zig's linker. Both tools are pinned and installed
# below target/. Every build is checked.
GLIBC = 2.28
ZIG_VERSION = 0.17.1
ZIGBUILD_VERSION = 0.24.0
ZIG = $(TARGET_DIR)/zig-$(ZIG_VERSION)-$(ZIGBUILD_VERSION)
ZIG_TARGET = x86_64-unknown-linux-gnu
ZIG_BUILT = $(TARGET_DIR)/$(ZIG_TARGET)/release/hanode $(TARGET_DIR)/$(ZIG_TARGET)/image/hanode-firstboot
ZIGBUILD = PATH="$(abspath $(ZIG))/bin:$$PATH" cargo zigbuild --locked --target $(ZIG_TARGET).$(GLIBC)
.PHONY: dist
dist: setup-cargo $(ZIG)/installed
	$(ZIGBUILD) --release -p hanode
	$(ZIGBUILD) --profile image -p hanode-firstboot
	sh tests/check-glibc.sh $(GLIBC) $(ZIG_BUILT)
	install -D -t dist $(ZIG_BUILT)

$(ZIG)/installed:
	@python3 -c 'import ensurepip' 2>/dev/null || { echo 'make dist needs python3-venv: apt-get install python3-venv' >&2; exit 1; }
	rm -rf $(ZIG)
	python3 -m venv $(ZIG)
	$(ZIG)/bin/pip install --quiet --disable-pip-version-check ziglang==$(ZIG_VERSION) cargo-zigbuild==$(ZIGBUILD_VERSION)
	touch $@

# `hanode` finds the image's program in ../lib/hanode. `make dist install BUILT=dist` installs programs that can build
# images of the old targets.
PREFIX = /usr/local
BUILT = $(TARGET_DIR)/release
SHARE = $(DESTDIR)$(PREFIX)/share
.PHONY: install
install: build
	install -D -m 755 $(BUILT)/hanode $(DESTDIR)$(PREFIX)/bin/hanode
	install -D -m 755 $(BUILT)/hanode-firstboot $(DESTDIR)$(PREFIX)/lib/hanode/hanode-firstboot
	out=$$(mktemp -d) && $(PROGRAM) docs --out $$out && install -d $(SHARE)/man && \
	cp -R $$out/man1 $(SHARE)/man/ && rm -r $$out/man1 && cp -R $$out/. $(SHARE)/ && rm -r $$out

# Unit tests and tests/it.
.PHONY: test-unit
test-unit: setup-cargo
	cargo test --locked

# tests/e2e: tests with real servers, images, firmware, labs and clusters.
E2E = cargo test --locked --test e2e
.PHONY: test
test: setup test-unit
	$(E2E)

# Runs the ignored tests of the given modules, one at a time.
LONG = --ignored --nocapture --test-threads=1
.PHONY: test-vm
test-vm: setup
	$(E2E) -- lab_lifecycle:: clock:: emulated_machine:: cloud_init:: cloud_platforms:: debian_12:: packer:: $(LONG)

.PHONY: test-targets
test-targets: setup
	$(E2E) -- cluster_ubuntu:: cluster_centos:: build_centos:: $(LONG)

.PHONY: check
check: setup-cargo
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test e2e -- -D warnings

.PHONY: setup
setup: setup-cargo setup-root setup-tools setup-fetchers setup-qemu setup-packer

# Fails with the required version if cargo is missing or too old.
.PHONY: setup-cargo
setup-cargo:
	@command -v cargo >/dev/null || { echo 'cargo is missing; install a current Rust: https://rustup.rs' >&2; exit 1; }
	@wanted=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml); found=$$(cargo --version | cut -d' ' -f2); \
	printf '%s\n%s\n' "$$wanted" "$$found" | sort -VC || \
	{ echo "cargo $$found is too old: hanode needs Rust $$wanted or newer; run: rustup update" >&2; exit 1; }

.PHONY: setup-root
setup-root:
	@[ "$$(id -u)" = 0 ] || { echo 'building images and running labs need root; run this as root' >&2; exit 1; }

.PHONY: setup-tools
setup-tools:
	@missing=; for p in $(TOOLS); do $(call installed,$$p) || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then apt-get update -q && \
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; fi

# npm and pip, which fetch the programs of the old targets; they may be installed without a package.
.PHONY: setup-fetchers
setup-fetchers:
	@missing=; command -v npm >/dev/null || missing="$$missing npm"; \
	python3 -m pip --version >/dev/null 2>&1 || missing="$$missing python3-pip"; \
	python3 -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ]; then apt-get update -q && \
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; fi

# On a machine with packages from backports, the default suite's QEMU can conflict with them: then QEMU is installed
# from backports too.
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

# CASES= sets the number of random histories.
.PHONY: test-model
test-model: setup-cargo
	PROPTEST_CASES=$(or $(CASES),200000) cargo test --locked --profile model --test it model::

# Builds an image, starts a cluster and injects faults: `make chaos ROUNDS=40 SEED=1 NODES=3`. With five nodes two faults
# at a time.
.PHONY: chaos
chaos: setup build
	@sh tests/chaos.sh $(PROGRAM) $(or $(NODES),3) $(or $(ROUNDS),40) $(or $(SEED),1) $(or $(SCALE),1)

.PHONY: test-faults
test-faults: setup
	$(E2E) -- faults:: faults_lag:: standby_absence:: storage:: $(LONG)

# Duplicate addresses; old, torn, replaced and lost disks; an interrupted bootstrap; `hanode recover`; restores; packages
# upgraded by hand.
.PHONY: test-recover
test-recover: setup
	$(E2E) -- recovery:: data_damage:: interrupted_bootstrap:: restore:: restore_failures:: packages:: $(LONG)

# The numbers of docs/measured.md: `make bench RUNS=5` on an otherwise idle machine.
.PHONY: bench
bench: setup build
	sh tests/bench.sh $(PROGRAM) $(or $(RUNS),3)

.PHONY: test-failpoints
test-failpoints: setup
	$(E2E) -- failpoints:: $(LONG)
