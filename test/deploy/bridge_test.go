package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// systemd has nothing to object to the unit of the bridge, and finds it well guarded. Its environment
// sets what the command reads, those settings too that are commented out.
func TestUnitOfTheBridge(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	directory := t.TempDir()
	bridge := filepath.Join(directory, "preauth-bridge")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bridge, ".")
	build.Dir = filepath.Join(root, "bridge")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(filepath.Join(root, "deploy/systemd/preauth-bridge@.service"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(content, []byte("\nExecStart=preauth-bridge %i $ARGS\nEnvironmentFile=/etc/preauth/bridge-%i.env\n")) {
		t.Fatalf("it is\n%s", content)
	}
	ports := map[string]bool{}
	for _, command := range []string{"tokens", "codes", "wxcomponent"} {
		unit := filepath.Join(directory, "preauth-bridge@"+command+".service")
		text := bytes.Replace(content, []byte("ExecStart=preauth-bridge "), []byte("ExecStart="+bridge+" "), 1)
		if err := os.WriteFile(unit, text, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, arguments := range [][]string{
			{"verify", "--man=no"},
			{"security", "--offline=true", "--no-pager", "--threshold=15"}, // an exposure of 1.5 of 10
		} {
			out, err := exec.CommandContext(t.Context(), analyze, append(arguments, unit)...).CombinedOutput()
			if err != nil || arguments[0] == "verify" && bytes.Contains(out, []byte("preauth")) {
				t.Errorf("systemd-analyze %s: %v\n%s", arguments[0], err, out)
			}
		}

		help, err := exec.CommandContext(t.Context(), bridge, command, "--help").Output()
		if err != nil {
			t.Fatal(err)
		}
		environment, err := os.ReadFile(filepath.Join(root, "deploy/systemd/bridge-"+command+".env"))
		if err != nil {
			t.Fatal(err)
		}
		var settings []string
		for _, found := range regexp.MustCompile(`(?m)^#?(?:\tEnvironment=)?([A-Z][A-Z_]+)=(.*)$`).FindAllSubmatch(environment, -1) {
			name := string(found[1])
			settings = append(settings, name)
			if name != "ARGS" && !regexp.MustCompile(`\$`+name+`\b`).Match(help) {
				t.Errorf("preauth-bridge %s does not read %s", command, name)
			}
			if name == "PREAUTH_ADMIN_LISTEN" {
				ports[string(found[2])] = true
			}
		}
		if list := strings.Join(settings, " "); !strings.HasPrefix(strings.TrimPrefix(list, "ARGS "), "NATS_URL NATS_CA NATS_INBOX_PREFIX NATS_NKEY ") || len(settings) < 7 {
			t.Errorf("only %s are set for %s", list, command)
		}
	}
	if len(ports) != 3 {
		t.Errorf("the bridges listen on %v", ports)
	}
}
