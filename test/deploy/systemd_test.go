package deploy

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// unit returns the text of the systemd unit.
func unit(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "deploy/systemd/preauth.service"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// directive returns the values that a unit gives to a directive.
func directive(t *testing.T, name string) (values []string) {
	t.Helper()
	for line := range strings.Lines(unit(t)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			values = append(values, value)
		}
	}
	return values
}

// systemd has nothing to object to the unit, and finds it well guarded.
func TestUnitIsValidAndHardened(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	if start, user := directive(t, "ExecStart"), directive(t, "DynamicUser"); !slices.Equal(start, []string{"preauth serve"}) || !slices.Equal(user, []string{"yes"}) {
		t.Fatalf("it starts %q, with a user of its own: %q", start, user)
	}
	file := filepath.Join(t.TempDir(), "preauth.service")
	text := strings.Replace(unit(t), "ExecStart=preauth ", "ExecStart="+program(t)+" ", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, arguments := range [][]string{
		{"verify", "--man=no"},
		{"security", "--offline=true", "--no-pager", "--threshold=15"}, // an exposure of 1.5 of 10
	} {
		out, err := exec.CommandContext(t.Context(), analyze, append(arguments, file)...).CombinedOutput()
		if err != nil || arguments[0] == "verify" && bytes.Contains(out, []byte("preauth")) {
			t.Errorf("systemd-analyze %s: %v\n%s", arguments[0], err, out)
		}
	}
}

// The unit and its environment set what the service reads, those settings too that are commented out.
func TestUnitSetsWhatTheServiceReads(t *testing.T) {
	environment, err := os.ReadFile(filepath.Join(root, "deploy/systemd/preauth.env"))
	if err != nil {
		t.Fatal(err)
	}
	settings := directive(t, "Environment")
	for lines := bufio.NewScanner(bytes.NewReader(environment)); lines.Scan(); {
		line := strings.TrimPrefix(strings.TrimPrefix(lines.Text(), "#\tEnvironment="), "#")
		if !strings.HasPrefix(line, " ") && strings.Contains(line, "=") && !strings.Contains(line, "LoadCredential") {
			settings = append(settings, line)
		}
	}
	read := variables(t, "serve")
	for _, assignment := range settings {
		name, _, _ := strings.Cut(assignment, "=")
		if !read[name] {
			t.Errorf("preauth serve does not read %s", name)
		}
	}
	if len(settings) < 6 {
		t.Errorf("only %q are set", settings)
	}
	for _, secret := range []string{"MYSQL_DSN=", "NATS_PASSWORD", "NATS_TOKEN"} {
		if bytes.Contains(environment, []byte(secret)) {
			t.Errorf("the environment, which others read, suggests %s", secret)
		}
	}
}

func TestUnitStopsLaterThanTheService(t *testing.T) {
	stop, err := time.ParseDuration(directive(t, "TimeoutStopSec")[0] + "s")
	if err != nil {
		t.Fatal(err)
	}
	if limit := shutdown(t); stop < limit+3*time.Second {
		t.Errorf("the unit kills the service after %v, which finishes within %v", stop, limit)
	}
}
