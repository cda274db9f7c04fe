package main

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"preauth/internal/app"
)

// The man page has each command and each setting, and its formatters have nothing to object.
func TestManual(t *testing.T) {
	t.Parallel()
	status, page, stderr := do(t, "man")
	if status != 0 || stderr != "" {
		t.Fatalf("status %d, %q", status, stderr)
	}
	plain := strings.Join(strings.Fields(strings.NewReplacer(`\-`, "-", `\(aq`, "'", `\(dq`, `"`, `\(ti`, "~").Replace(page)), " ")
	for _, command := range kong.Must(new(cli), kong.Vars{"version": ""}).Model.Leaves(true) {
		if !strings.Contains(plain, `.SS "`+command.Summary()+`" `+command.Help) {
			t.Errorf("the page has nothing of %s", command.Path())
		}
		for _, flag := range command.Flags {
			if strings.Contains(plain, "--"+flag.Name+"=") == flag.Hidden && !flag.IsBool() {
				t.Errorf("--%s is hidden: %v", flag.Name, flag.Hidden)
			}
			if !flag.Hidden && !strings.Contains(plain, strings.Join(strings.Fields(app.Describe(flag.Value)), " ")) && flag.Name != "nats-js-domain" { // serve says more of it
				t.Errorf("the page does not say %q", app.Describe(flag.Value))
			}
		}
	}
	for _, formatter := range [][]string{{"mandoc", "-Tlint", "-Wall"}, {"groff", "-ww", "-man", "-Tutf8", "-z"}} {
		t.Run(formatter[0], func(t *testing.T) {
			program, err := exec.LookPath(formatter[0])
			if err != nil {
				t.Skip(formatter[0] + " is not installed")
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			command := exec.CommandContext(ctx, program, formatter[1:]...)
			command.Stdin = strings.NewReader(page)
			var objections bytes.Buffer
			command.Stdout, command.Stderr = &objections, &objections
			if err := command.Run(); err != nil || objections.Len() > 0 {
				t.Errorf("%v\n%s", err, objections.String())
			}
		})
	}
}
