# The set-up that a fresh machine with Go needs, and the commands that people and CI use. Without make,
# `go run ./cmd/preauth-dev` and `go test ./...` work as well: they find or build a database server by
# themselves.
#
# Variables:
#   ARGS                 more arguments for `preauth-dev`, `go test`, the fault harness; rows and flags for `make bench`
#   NO_INSTALL=1         never install a package
#   FUZZTIME             how many inputs `make fuzz` gives to each target, such as 30000x
#   PREAUTH_TEST_ENGINE  the tests' database server: mariadb, mysql or tidb
#   PREAUTH_TEST_DSN     a database server to test with instead of a private one

GO ?= go
# A number of inputs: with a time, go test may report the end of the time as a failure.
FUZZTIME ?= 30000x
TOOL = $(GO) tool -modfile=tools/go.mod

.DEFAULT_GOAL := help
.PHONY: help dev test race fuzz chaos bench lint vuln build database prepare

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: database ## Run the service with NATS, a database and a stand-in for WeChat, until Ctrl-C
	$(GO) build -o bin/ ./cmd/preauth-dev
	@# Not "go run", which reports the end by Ctrl-C as a failure.
	@exec bin/preauth-dev $(ARGS)

test: prepare ## Run the tests
	$(GO) test -timeout 30m $(ARGS) ./...

race: prepare ## Run the tests with the race detector
	$(GO) test -race -timeout 30m $(ARGS) ./...

fuzz: prepare ## Give each fuzz target FUZZTIME inputs
	@packages=$$($(GO) list ./...) && for package in $$packages; do \
		targets=$$($(GO) test -list '^Fuzz' $$package) || { echo "$$targets"; exit 1; }; \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -timeout 30m -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $(ARGS) $$package || exit 1; \
		done; \
	done

bench: database ## Measure the service beside the alternatives
	$(GO) -C test/bench run . $(or $(ARGS),all)

chaos: database ## Break everything for five minutes and see whether the promises hold
	$(GO) -C test/chaos run . $(ARGS)

lint: ## Run the linters
	$(TOOL) golangci-lint run ./...

vuln: ## Look for known vulnerabilities in what the service uses
	.ci/run vulnerabilities

build: ## Build the service into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/preauth

# The time limit of `go test` does not allow for a first build of TiDB.
prepare: database
	@$(GO) run ./internal/mysqlserver/prepare

# The package is the server program alone: no service is started and no user is created. Where it
# cannot be had, TiDB is built instead.
PACKAGE = mariadb-server-core
SERVER_DIRS = /usr/sbin:/usr/libexec:/usr/local/sbin:/usr/local/bin:/usr/local/libexec:/usr/local/mysql/bin:/opt/homebrew/bin

database:
	@PATH="$$PATH:$(SERVER_DIRS)"; \
	if command -v mariadbd >/dev/null || command -v mysqld >/dev/null; then exit 0; fi; \
	if [ -n "$$PREAUTH_TEST_DSN" ] || [ "$$PREAUTH_TEST_ENGINE" = tidb ]; then exit 0; fi; \
	if [ -n "$(NO_INSTALL)" ]; then \
		echo "no mariadbd or mysqld here, and NO_INSTALL forbids to install one: TiDB is used, built at its first use"; \
	elif [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "no mariadbd or mysqld here: TiDB is used, built at its first use (Debian's package $(PACKAGE) makes it unnecessary)"; \
	else \
		echo "no mariadbd or mysqld here: installing Debian's package $(PACKAGE) (NO_INSTALL=1 forbids it)"; \
		export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get -qq update && \
		  apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install $(PACKAGE) >/dev/null; } || \
		echo "$(PACKAGE) could not be installed: TiDB is used, built at its first use"; \
	fi
