# The two commands are `make run` and `make test`; both set up what is missing.
BUILD ?= build

.PHONY: all run test bench install clean setup-build

all: setup-build
	@ninja -C $(BUILD) --quiet

setup-build:
	@scripts/setup build
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) --buildtype=debugoptimized >/dev/null

run:
	@scripts/setup run
	@$(MAKE) --no-print-directory all
	@scripts/make-run

test:
	@scripts/setup test
	@scripts/test

bench:
	@scripts/setup bench
	@$(MAKE) --no-print-directory all
	@bench/run

install: all
	@meson install -C $(BUILD) --no-rebuild
	@[ -n "$$DESTDIR" ] || [ "$$(id -u)" != 0 ] || ldconfig

clean:
	rm -rf $(BUILD) $(BUILD)-*
