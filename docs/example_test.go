package docs_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// "make example" shows each step of the chain in order, as the page about it does, without a secret,
// and leaves nothing.
func TestExample(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("NO_INSTALL", "1")
	output := runShell(t, root, "TMPDIR="+temporary, "make --no-print-directory example 2>&1")
	steps := regexp.MustCompile(`(?s)chain: .*` + strings.Join([]string{
		`tokenservice: waiting for pushes on http://127\.0\.0\.1:\d+`, `tokenservice: a ticket came`, `tokenservice: token announced, valid until \S+`,
		`visitor: claimed preauthcode@@@\S{2}…\S{4}, \S+ left`,
		`tokenservice: wx8888888888888888 authorized: announced`,
		`visitor: preauth announces: wx8888888888888888 authorized for order 7`,
		`visitor: resolved the code: order 7, authorized by wx8888888888888888 at \S+`,
	}, `\n.*`) + `\n$`)
	if !steps.MatchString(output) {
		t.Errorf("it prints\n%s", output)
	}
	if page := blocks(t, "docs/examples/README.md", "text"); !steps.MatchString(page[0].text) {
		t.Error("the page shows other steps")
	}
	if secret := regexp.MustCompile(`made-up|ticket@@@|preauthcode@@@\w{8}|61_\w`).FindString(output); secret != "" {
		t.Errorf("it prints the secret %s", secret)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
}

// The page and the script have the settings that preauth-dev prints.
func TestExampleSettings(t *testing.T) {
	page, script, dev := read(t, "docs/examples/README.md"), read(t, "docs/examples/chain.sh"), read(t, "cmd/preauth-dev/main.go")
	settings := regexp.MustCompile(`WECHAT_(?:APPID|APPSECRET|PUSH_TOKEN|ENCODING_AES_KEY)=(\S+)`).FindAllStringSubmatch(page, -1)
	if len(settings) != 4 {
		t.Errorf("the page has %d settings, want 4", len(settings))
	}
	for _, setting := range settings {
		if !strings.Contains(script, setting[0]) || !strings.Contains(dev, `"`+setting[1]+`"`) {
			t.Errorf("%s is not the script's or not that of preauth-dev", setting[0])
		}
	}
}
