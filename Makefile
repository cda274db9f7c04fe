# The commands that people and CI use, and the set-up that they need on a fresh machine with Go. On
# a machine that has a database server, `go run ./cmd/preauth-dev` and `go test ./...` do the same
# without make.
#
# Variables:
#   ARGS                 more arguments for `preauth-dev`, `go test`, the fault harness; rows and flags for `make bench`, packages and flags for `make mutation`
#   NO_INSTALL=1         never install a package
#   FUZZTIME             how many inputs `make fuzz` gives to each target, such as 30000x
#   PREAUTH_TEST_ENGINE  the tests' database server: mariadb, mysql or tidb
#   PREAUTH_TEST_DSN     a database server to test with instead of a private one
#   VERSION              the semantic version of what `make dist` makes

GO ?= go
# This is a number of inputs because `go test` may report the end of a time as a failure.
FUZZTIME ?= 30000x
TOOL = $(GO) tool -modfile=tools/go.mod

.DEFAULT_GOAL := help
.PHONY: help dev example test race browser pictures gateway bridge upgrade fuzz mutation chaos powercut alarms bench lint vuln build dist database chromium redis

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: database ## Run the service with NATS, a database and a stand-in for WeChat, until Ctrl-C
	$(GO) build -o bin/ ./cmd/preauth-dev
	@# "go run" would report Ctrl-C as a failure.
	@exec bin/preauth-dev $(ARGS)

example: database ## Show the whole chain once, from WeChat's ticket to an authorized account
	$(GO) build -o bin/ ./cmd/preauth-dev ./docs/examples/...
	@docs/examples/chain.sh

test: database ## Run the tests
	$(GO) test -timeout 30m $(ARGS) ./...

race: database ## Run the tests with the race detector
	$(GO) test -race -timeout 30m $(ARGS) ./...

browser: database chromium ## Use the status page in a real Chromium
	$(GO) -C test/browser test -count=1 -timeout 30m $(ARGS) .

gateway: database ## Hold the gateway's answers against its description
	$(GO) -C test/gateway test -count=1 -timeout 30m $(ARGS) .

pictures: database chromium ## Make the pictures of the status page in docs/pictures
	$(GO) -C test/browser run . -out $(CURDIR)/docs/pictures

bridge: database redis ## Test the bridge to Redis and wxcomponent, with real servers and the race detector
	$(GO) -C bridge test -race -count=1 -timeout 30m $(ARGS) ./...

fuzz: database ## Give each fuzz target FUZZTIME inputs
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

powercut: database ## Cut the power of the servers 500 times (needs root and FUSE)
	$(GO) -C test/chaos run . -cuts 500 $(ARGS)

upgrade: database ## Upgrade a running service from the release before, put it back, and see that nothing is lost
	$(GO) -C test/chaos test -count=1 -timeout 30m -v -run TestRollingUpgrade . $(ARGS)

mutation: database ## Break the code in some thousand small ways and see whether the tests notice
	$(GO) -C test/mutation run . $(or $(ARGS),./wechat . ./repo ./consumer)

alarms: ## Test the alerts: their rules, and what fires when a running system is harmed
	.ci/run alarms

lint: ## Run the linters
	$(TOOL) golangci-lint run ./...

vuln: ## Look for known vulnerabilities in what the service uses
	.ci/run vulnerabilities

build: ## Build the service into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/preauth

dist: ## Make archives, packages, an image, their checksums and bills of materials in dist/
	$(GO) -C tools/dist run . -root $(CURDIR) -out $(CURDIR)/dist -version "$(VERSION)"

# Debian's package is the server program alone. Installing it starts no service and creates no user.
PACKAGE = mariadb-server-core
SERVER_DIRS = /usr/sbin:/usr/libexec:/usr/local/sbin:/usr/local/bin:/usr/local/libexec:/usr/local/mysql/bin:/opt/homebrew/bin
# apt-get waits for dpkg's lock by itself, but not for the lock of `apt-get update`.
APT_UPDATE = tries=24; \
	until said=$$(LC_ALL=C apt-get -qq update 2>&1); do \
		case "$$said" in *"Could not get lock"*) tries=$$((tries - 1)) ;; *) tries=0 ;; esac; \
		[ $$tries -gt 0 ] || { echo "$$said"; break; }; \
		sleep 5; \
	done
APT_INSTALL = apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 install

# The tests and the sandbox use MariaDB or MySQL if there is one. Otherwise this installs MariaDB,
# and where that is impossible, TiDB. TiDB is built here, because `go test` has a time limit. If you
# ask for MySQL, a private one is unpacked.
database:
	@[ -z "$$PREAUTH_TEST_DSN" ] || exit 0; \
	PATH="$$PATH:$(SERVER_DIRS)"; \
	if [ "$$PREAUTH_TEST_ENGINE" = mysql ]; then exec test/mysql/install; fi; \
	if [ "$$PREAUTH_TEST_ENGINE" != tidb ]; then \
		if command -v mariadbd >/dev/null || command -v mysqld >/dev/null; then exit 0; fi; \
		if [ -n "$(NO_INSTALL)" ]; then \
			echo "There is no MariaDB or MySQL server here, and NO_INSTALL forbids installing one."; \
		elif [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
			echo "There is no MariaDB or MySQL server here. (Debian and Ubuntu have the package $(PACKAGE).)"; \
		else \
			echo "There is no MariaDB or MySQL server here. Installing the package $(PACKAGE); NO_INSTALL=1 forbids it."; \
			echo "This waits up to 2 minutes if another apt-get is running."; \
			export DEBIAN_FRONTEND=noninteractive; \
			$(APT_UPDATE); \
			if $(APT_INSTALL) $(PACKAGE) >/dev/null; then exit 0; fi; \
			echo "$(PACKAGE) could not be installed."; \
		fi; \
	fi; \
	echo "Building TiDB. The first build takes about 5 minutes on two cores; later ones take seconds."; \
	$(GO) -C test/devdb install .

# Chromium, with letters for Chinese.
CHROMIUM = chromium fonts-wqy-microhei
chromium:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then exit 0; fi; \
	if [ -n "$(NO_INSTALL)" ] || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "There is no Chromium here: install the package chromium."; \
		exit 1; \
	fi; \
	echo "There is no Chromium here. Installing the packages $(CHROMIUM); NO_INSTALL=1 forbids it."; \
	export DEBIAN_FRONTEND=noninteractive; \
	$(APT_UPDATE); \
	$(APT_INSTALL) $(CHROMIUM) >/dev/null

# The tests start servers of their own, and leave alone one that the package starts.
redis:
	@if command -v redis-server >/dev/null; then exit 0; fi; \
	if [ -n "$(NO_INSTALL)" ] || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "There is no redis-server here: install the package redis-server."; \
		exit 1; \
	fi; \
	echo "There is no redis-server here. Installing the package redis-server; NO_INSTALL=1 forbids it."; \
	export DEBIAN_FRONTEND=noninteractive; \
	$(APT_UPDATE); \
	$(APT_INSTALL) redis-server >/dev/null
