package docs_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"preauth/internal/loopback"
)

// The page's commands lead, pasted in order, from a token in Redis to a visitor on WeChat's page.
func TestAfternoon(t *testing.T) {
	output := afternoon(t, blocks(t, "docs/adopt.md", "sh"))
	for _, want := range []string{
		`OK\n`,
		`"pre_auth_code":"preauthcode@@@[^"]+","issued_at":"[^"]+","expires_at":"[^"]+","revision":\d+`,
		`"claim_id":"visitor-1","reference":"order 7".*"links":\{"pc":"https://mp\.weixin\.qq\.com/`,
		`(?m)^https://mp\.weixin\.qq\.com/cgi-bin/componentloginpage\?.*pre_auth_code=`,
		`"claim_id":"visitor-3","reference":"order 9"`,
		`(?m)^204$`,
	} {
		if !regexp.MustCompile(want).MatchString(output) {
			t.Errorf("it does not print %s:\n%s", want, output)
		}
	}
}

// afternoon runs blocks of the page, and others, beside a Redis. It returns what they print.
func afternoon(t *testing.T, all []block) string {
	t.Helper()
	server, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	var addresses [3]string
	for i := range addresses {
		if addresses[i], _, err = loopback.Address(""); err != nil {
			t.Fatal(err)
		}
	}
	redis, nats, gateway := addresses[0], addresses[1], addresses[2]
	directory := t.TempDir()
	_, port, err := net.SplitHostPort(redis)
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("%s --bind 127.0.0.1 --port %s --dir %s --save '' >%s/redis.log &\n", server, port, directory, directory)
	for _, block := range all {
		if strings.HasPrefix(block.text, "kill ") {
			continue // the trap below does
		}
		if _, err := exec.LookPath("php"); err != nil {
			block.text = strings.Replace(block.text, "php bin/adopt/link.php\n", "", 1)
		}
		script += block.text
	}
	script = strings.NewReplacer(
		"127.0.0.1:6379", redis, "127.0.0.1:4222", nats, "127.0.0.1:8080", gateway,
		"127.0.0.1:8181", "127.0.0.1:0", "127.0.0.1:8182", "127.0.0.1:0",
		"bin/adopt", filepath.Join(directory, "adopt"),
	).Replace(script)
	script = strings.ReplaceAll(script, " &\n", " &\nstarted=\"${started-} $!\"\n")
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		logs, _ := filepath.Glob(filepath.Join(directory, "adopt", "*.log"))
		for _, name := range logs {
			text, _ := os.ReadFile(name)
			t.Logf("%s:\n%s", filepath.Base(name), text)
		}
	})
	return runShell(t, root, "NO_INSTALL=1", "trap 'kill $started; wait' EXIT\n"+script)
}
