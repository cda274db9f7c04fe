package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"preauth/internal/loopback"
)

// block is a fenced block of docs/gateway.md, below its nearest heading.
type block struct{ heading, lang, text string }

func pageBlocks(t *testing.T) (all []block) {
	t.Helper()
	page, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile("(?ms)^#+ ([^\n]*)$|^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		if found[1] != "" {
			all = append(all, block{heading: found[1]})
			continue
		}
		all = append(all, block{all[len(all)-1].heading, found[2], found[3]})
	}
	return slices.DeleteFunc(all, func(b block) bool { return b.lang == "" })
}

// The commands of docs/gateway.md work when they are pasted in order, and the answers have the
// members that the page shows.
func TestCommandsOfThePage(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	work := t.TempDir()
	build := exec.Command("go", "-C", "../..", "build", "-o", filepath.Join(work, "preauth"), "./cmd/preauth")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	address, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("127.0.0.1:8080", address, "nats://127.0.0.1:4222", system.nats.URL()).Replace
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sh := func(script string) *exec.Cmd {
		command := exec.CommandContext(ctx, "sh", "-e", "-c", script)
		command.Dir = work
		command.Env = append(os.Environ(), "PATH="+work+":"+os.Getenv("PATH"), "PREAUTH_ADMIN_LISTEN=127.0.0.1:0", "no_proxy=127.0.0.1")
		return command
	}
	var first string
	var script strings.Builder
	var shown []string // the JSON after a command, "" if none is shown
	blocks := pageBlocks(t)
	for i, b := range blocks {
		if b.heading == "Which role" {
			break
		}
		switch {
		case b.lang != "sh":
			continue
		case first == "":
			first = b.text
			continue
		}
		fmt.Fprintf(&script, "echo @@\n%s\n", here(b.text))
		if strings.Contains(b.text, "/tokens") { // the code is there a moment later
			script.WriteString(here(`until curl -fsS -o /dev/null -H "Authorization: Bearer $SHOP" http://127.0.0.1:8080/v1/components/wx0123456789abcdef/code 2>/dev/null; do sleep 0.1; done` + "\n"))
		}
		shown = append(shown, "")
		if next := blocks[i+1]; next.lang == "json" && next.heading == b.heading {
			shown[len(shown)-1] = next.text
		}
	}
	if len(shown) < 7 {
		t.Fatalf("the page shows only %d blocks of commands", len(shown))
	}

	gateway := sh(here(strings.Replace(first, "preauth gateway --", "exec preauth gateway --", 1)))
	var log strings.Builder
	gateway.Stderr = &log
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = gateway.Process.Signal(syscall.SIGTERM)
		if err := gateway.Wait(); err != nil {
			t.Errorf("the gateway ends with %v\n%s", err, log.String())
		}
	}()
	for tick := time.Tick(20 * time.Millisecond); ; {
		resp, err := client.Get("http://" + address + "/openapi.json")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatal("the gateway does not start")
		}
	}
	out, err := sh(script.String()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	outputs := strings.Split(string(out), "@@\n")[1:]
	for i, output := range outputs {
		if strings.Contains(output, "urn:preauth:problem") {
			t.Errorf("command %d: %s", i, output)
		}
		if want, got := names(t, shown[i]), names(t, output); shown[i] != "" && !slices.Equal(got, want) {
			t.Errorf("the page shows the members %v, the gateway answers with %v", want, got)
		}
	}
}

// names returns the members of an object, sorted.
func names(t *testing.T, text string) []string {
	t.Helper()
	if text == "" {
		return nil
	}
	var members map[string]json.RawMessage
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&members); err != nil && strings.HasPrefix(text, "{") {
		t.Fatalf("%v: %s", err, text)
	}
	return slices.Sorted(maps.Keys(members))
}
