package contract_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// AsyncAPI's own parser has no objections.
func TestDocumentParses(t *testing.T) {
	if _, err := os.Stat("node_modules"); err != nil {
		t.Skip("run npm ci in test/contract to have this tested")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "node", "validate.mjs", filepath.Join(docs, "asyncapi.yaml")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The roles of an operation are those that deploy/nats lets take its other side.
func TestRolesAreThoseOfDeploy(t *testing.T) {
	const rules = "../../deploy/nats/accounts.conf"
	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string]string{} // by the key
	for _, found := range regexp.MustCompile(`\$(NKEY_([A-Z]+))`).FindAllStringSubmatch(string(text), -1) {
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		key, err := pair.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv(found[1], key)
		roles[key] = strings.ToLower(found[2])
	}
	options, err := server.ProcessConfigFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	document := open(t)
	for name, operation := range document.Operations {
		subject := strings.ReplaceAll(document.Channels[operation.Channel.name()].Address, "{appid}", appID)
		var want []string
		for _, user := range options.Nkeys {
			role := roles[user.Nkey]
			if document.Components.SecuritySchemes[role] == nil { // the service's own, and people's who may do everything
				continue
			}
			allowed := user.Permissions.Subscribe.Allow
			switch {
			case strings.HasPrefix(subject, "$KV."):
				subject, allowed = "$JS.API.DIRECT.GET.KV_preauth."+subject, user.Permissions.Publish.Allow
			case strings.HasPrefix(subject, "$JS."), operation.Action == "receive":
				allowed = user.Permissions.Publish.Allow
			}
			if slices.ContainsFunc(allowed, func(pattern string) bool { return server.SubjectsCollide(pattern, subject) }) {
				want = append(want, role)
			}
		}
		var got []string
		for _, scheme := range operation.Security {
			got = append(got, scheme.name())
		}
		slices.Sort(got)
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("%s is for the roles %q, and deploy/nats lets %q", name, got, want)
		}
	}
	for _, user := range options.Nkeys {
		if role := roles[user.Nkey]; document.Components.SecuritySchemes[role] == nil && role != "preauth" && role != "admin" {
			t.Errorf("the document has no role %s", role)
		}
	}
}
