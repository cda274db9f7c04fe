package main

// program is what a release has archives, packages and an image of.
type program struct {
	name       string
	module     string // the directory of its module
	pkg        string // the package to build, there
	dockerfile string // says how its image runs
	manual     bool   // whether it prints a man page
	files      []file // that come with it

	units                string // of systemd, which end with the package
	summary, description string
}

var service = program{
	name: "preauth", module: ".", pkg: "./cmd/preauth", dockerfile: "Dockerfile", manual: true,
	files: []file{
		{name: "preauth.service", install: "/usr/lib/systemd/system/preauth.service", source: "deploy/systemd/preauth.service", mode: 0o644},
		{name: "preauth.env", install: "/etc/preauth/preauth.env", source: "deploy/systemd/preauth.env", mode: 0o644, config: true},
		{name: "preauth-gateway.service", install: "/usr/lib/systemd/system/preauth-gateway.service", source: "deploy/systemd/preauth-gateway.service", mode: 0o644},
		{name: "preauth-gateway.env", install: "/etc/preauth/preauth-gateway.env", source: "deploy/systemd/preauth-gateway.env", mode: 0o644, config: true},
		{name: "completion/preauth.bash", install: "/usr/share/bash-completion/completions/preauth", source: "cmd/preauth/completion/preauth.bash", mode: 0o644},
		{name: "completion/preauth.zsh", install: "/usr/share/zsh/site-functions/_preauth", source: "cmd/preauth/completion/preauth.zsh", mode: 0o644},
		{name: "completion/preauth.fish", install: "/usr/share/fish/vendor_completions.d/preauth.fish", source: "cmd/preauth/completion/preauth.fish", mode: 0o644},
	},
	units:   "preauth.service preauth-gateway.service",
	summary: "pre_auth_codes for WeChat third-party platforms",
	description: "Takes component_access_tokens from NATS, asks WeChat for pre_auth_codes,\n" +
		"stores them in MySQL, announces them, and answers look-ups and claims.",
}

var bridge = program{
	name: "preauth-bridge", module: "bridge", pkg: ".", dockerfile: "bridge/Dockerfile",
	files: []file{
		{name: "preauth-bridge@.service", install: "/usr/lib/systemd/system/preauth-bridge@.service", source: "deploy/systemd/preauth-bridge@.service", mode: 0o644},
		{name: "bridge-tokens.env", install: "/etc/preauth/bridge-tokens.env", source: "deploy/systemd/bridge-tokens.env", mode: 0o600, config: true},
		{name: "bridge-codes.env", install: "/etc/preauth/bridge-codes.env", source: "deploy/systemd/bridge-codes.env", mode: 0o600, config: true},
		{name: "bridge-wxcomponent.env", install: "/etc/preauth/bridge-wxcomponent.env", source: "deploy/systemd/bridge-wxcomponent.env", mode: 0o600, config: true},
	},
	units:   "preauth-bridge@tokens.service preauth-bridge@codes.service preauth-bridge@wxcomponent.service",
	summary: "The bridge between preauth and programs that do not speak NATS",
	description: "Announces component_access_tokens that are in Redis or in wxcloudrun-wxcomponent,\n" +
		"and writes the current pre_auth_codes to Redis.",
}
