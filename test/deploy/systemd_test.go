package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// unit is a service of systemd.
type unit struct {
	name    string
	command []string
	// least is how many settings the unit and its environment have, those that are commented out too.
	least int
}

var units = []unit{{"preauth", []string{"serve"}, 6}, {"preauth-gateway", []string{"gateway", "serve"}, 8}}

// text returns one of the unit's files.
func (u unit) text(t *testing.T, extension string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "deploy/systemd", u.name+extension))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// directive returns the values that the unit gives to a directive.
func (u unit) directive(t *testing.T, name string) (values []string) {
	t.Helper()
	for line := range strings.Lines(u.text(t, ".service")) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			values = append(values, value)
		}
	}
	return values
}

// systemd has nothing to object to the units, and finds them well guarded.
func TestUnitsAreValidAndHardened(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	for _, u := range units {
		start := "preauth " + strings.Join(u.command, " ")
		if got, user := u.directive(t, "ExecStart"), u.directive(t, "DynamicUser"); !slices.Equal(got, []string{start}) || !slices.Equal(user, []string{"yes"}) {
			t.Fatalf("%s starts %q, with a user of its own: %q", u.name, got, user)
		}
		file := filepath.Join(t.TempDir(), u.name+".service")
		text := strings.Replace(u.text(t, ".service"), "ExecStart=preauth ", "ExecStart="+program(t)+" ", 1)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, arguments := range [][]string{
			{"verify", "--man=no"},
			{"security", "--offline=true", "--no-pager", "--threshold=15"}, // an exposure of 1.5 of 10
		} {
			out, err := exec.CommandContext(t.Context(), analyze, append(arguments, file)...).CombinedOutput()
			if err != nil || arguments[0] == "verify" && bytes.Contains(out, []byte("preauth")) {
				t.Errorf("systemd-analyze %s %s: %v\n%s", arguments[0], u.name, err, out)
			}
		}
	}
}

// The units and their environments set what the commands read, those settings too that are commented
// out.
func TestUnitsSetWhatTheCommandsRead(t *testing.T) {
	for _, u := range units {
		environment := u.text(t, ".env")
		settings := u.directive(t, "Environment")
		for line := range strings.Lines(environment) {
			line = strings.TrimPrefix(strings.TrimPrefix(line, "#\tEnvironment="), "#")
			if !strings.HasPrefix(line, " ") && strings.Contains(line, "=") && !strings.Contains(line, "LoadCredential") {
				settings = append(settings, line)
			}
		}
		read := variables(t, u.command...)
		for _, assignment := range settings {
			name, _, _ := strings.Cut(assignment, "=")
			if !read[name] {
				t.Errorf("preauth %s does not read %s", strings.Join(u.command, " "), name)
			}
		}
		if len(settings) < u.least {
			t.Errorf("%s: only %q are set", u.name, settings)
		}
		for _, secret := range []string{"MYSQL_DSN=", "NATS_PASSWORD", "NATS_TOKEN"} {
			if strings.Contains(environment, secret) {
				t.Errorf("the environment of %s, which others read, suggests %s", u.name, secret)
			}
		}
	}
}

// systemd kills what has not ended some seconds after it should have.
func TestUnitsStopLaterThanTheirCommands(t *testing.T) {
	for _, u := range units {
		stop, err := time.ParseDuration(u.directive(t, "TimeoutStopSec")[0] + "s")
		if err != nil {
			t.Fatal(err)
		}
		limit := duration(t, "shutdown", "serve")
		if u.name == "preauth-gateway" {
			limit = duration(t, "timeout", u.command...) + 20*time.Second // for what arrives and leaves slowly
		}
		if stop < limit+3*time.Second {
			t.Errorf("%s is killed after %v, and ends within %v", u.name, stop, limit)
		}
	}
}
