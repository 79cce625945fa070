# The one entry to building and testing: what CI runs is `make test` too.

CARGO ?= cargo
TOOLS := target/tools

.DEFAULT_GOAL := help
.PHONY: help run test check fmt bench fuzz tools clean-tools

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Run moorline on this machine: echo backend, self-signed certificate, console page
	$(CARGO) run --release -- dev

test: tools ## Everything: format, lints, docs, all tests; then what had to be skipped
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	@rm -f $(TOOLS)/skipped
	@status=0; $(CARGO) test --locked || status=$$?; \
	sh tests/tools/summary.sh $(TOOLS) || status=1; exit $$status

check: ## The fast part of `test`: format, lints, unit tests
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) test --lib

fmt: ## Format the code
	$(CARGO) fmt

bench: tools ## Measure memory, CPU and latency beside a bare relay; prints a table
	$(CARGO) bench --bench bench

fuzz: ## Give every door rubbish for TIME seconds each (600), or only to TARGETS="head frames"
	TIME="$(TIME)" sh tests/fuzz/run.sh $(TARGETS)

tools: ## Fetch what the tests drive: nats-server, Python and Node packages; as root Chromium, Pushpin
	@sh tests/tools/setup.sh $(TOOLS)

clean-tools: ## Forget the fetched tools, so that the next `make tools` starts anew
	rm -rf $(TOOLS)
