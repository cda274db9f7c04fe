package deploy

import (
	"bufio"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"
)

// built is the directory of the program, which all tests share.
var built string

func TestMain(m *testing.M) {
	status, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func runTests(m *testing.M) (status int, err error) {
	if built, err = os.MkdirTemp("", "preauth-deploy"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(built)) }()
	if status = m.Run(); status == 0 {
		err = goleak.Find()
	}
	return status, err
}

var build = sync.OnceValues(func() (string, error) {
	command := exec.Command("go", "build", "-o", built, "./cmd/preauth")
	command.Dir = root
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return filepath.Join(built, "preauth"), nil
})

// program returns the file of the program.
func program(t *testing.T) string {
	t.Helper()
	file, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// help returns the help of a command.
func help(t *testing.T, command ...string) []byte {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), program(t), append(command, "--help")...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// variables returns the variables that a command reads.
func variables(t *testing.T, command ...string) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	for _, name := range regexp.MustCompile(`\$([A-Z][A-Z_]+)`).FindAllSubmatch(help(t, command...), -1) {
		known[string(name[1])] = true
	}
	return known
}

// duration returns the default of a setting of a command.
func duration(t *testing.T, flag string, command ...string) time.Duration {
	t.Helper()
	found := regexp.MustCompile(`--` + flag + `=(\S+)`).FindSubmatch(help(t, command...))
	if found == nil {
		t.Fatalf("the help does not say --%s", flag)
	}
	limit, err := time.ParseDuration(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return limit
}

// startService runs "preauth serve" until the test ends, with variables whose files are below a
// directory and made here. There is neither NATS nor MySQL. It returns the admin address, any on
// loopback.
func startService(t *testing.T, environment map[string]string, directory string) (admin string) {
	t.Helper()
	own := t.TempDir()
	env := []string{"PATH=" + os.Getenv("PATH")}
	for name, value := range environment {
		switch file, isFile := strings.CutPrefix(value, directory+"/"); {
		case isFile:
			value = filepath.Join(own, file)
			if err := os.WriteFile(value, content(t, name), 0o600); err != nil {
				t.Fatal(err)
			}
		case name == "NATS_URL":
			value = "tls://127.0.0.1:1"
		case name == "PREAUTH_ADMIN_LISTEN":
			value = "127.0.0.1:0"
		}
		env = append(env, name+"="+value)
	}
	command := exec.Command(program(t), "serve")
	command.Env = env
	log, err := command.StderrPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(log)
	var started struct{ Msg, Admin string }
	said := ""
	for started.Msg != "starting" && lines.Scan() {
		said += lines.Text() + "\n"
		_ = json.Unmarshal(lines.Bytes(), &started)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, log)
	}()
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		<-drained
		if err := command.Wait(); err != nil {
			t.Errorf("the service: %v", err)
		}
	})
	if started.Admin == "" {
		t.Fatalf("the service does not start: %s", said)
	}
	return started.Admin
}

// content returns what the file that a variable names may contain.
func content(t *testing.T, variable string) []byte {
	t.Helper()
	switch variable {
	case "MYSQL_DSN_FILE":
		return []byte("preauth:password@tcp(127.0.0.1:1)/preauth")
	case "NATS_NKEY":
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		seed, err := pair.Seed()
		if err != nil {
			t.Fatal(err)
		}
		return seed
	case "NATS_CA", "MYSQL_CA":
		server := httptest.NewUnstartedServer(nil)
		server.StartTLS()
		defer server.Close()
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	}
	t.Fatalf("the test knows no file for %s", variable)
	return nil
}
