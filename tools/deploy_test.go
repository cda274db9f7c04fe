// Package tools pins the programs that work on this project (see go.mod) and checks the files that no
// compiler reads.
package tools

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/nats-io/nats-server/v2/server"
)

const root = ".."

// compose loads docker-compose.yml as "docker compose" would, with the given environment.
func compose(t *testing.T, env ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions(
		[]string{filepath.Join(root, "docker-compose.yml")}, cli.WithEnv(env), cli.WithInterpolation(true), cli.WithConsistency(true),
	)
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestComposeIsReachableFromThisMachineOnly(t *testing.T) {
	published := 0
	for name, service := range compose(t).Services {
		for _, port := range service.Ports {
			published++
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes port %s on %q", name, port.Published, port.HostIP)
			}
		}
		if service.NetworkMode == "host" || service.Privileged {
			t.Errorf("%s shares too much with the host", name)
		}
	}
	if published != 2 {
		t.Errorf("%d ports are published, want those of NATS and of the admin address", published)
	}
}

func TestComposeServicesComeBackAndTellTheirHealth(t *testing.T) {
	project := compose(t)
	for name, service := range project.Services {
		if service.Restart != "unless-stopped" {
			t.Errorf("%s: restart is %q", name, service.Restart)
		}
		if !slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s may gain privileges", name)
		}
		if service.HealthCheck == nil && service.Build == nil {
			t.Errorf("%s has no health check", name)
		}
	}
	preauth := project.Services["preauth"]
	for _, on := range []string{"nats", "mysql"} {
		if preauth.DependsOn[on].Condition != types.ServiceConditionHealthy {
			t.Errorf("preauth does not wait for %s to be healthy", on)
		}
	}
	if !preauth.ReadOnly || !slices.Equal(preauth.CapDrop, []string{"ALL"}) {
		t.Error("preauth may write, or keeps capabilities")
	}
}

func TestComposeTakesThePasswordFromTheEnvironment(t *testing.T) {
	for password, env := range map[string][]string{"preauth-dev": nil, "from outside": {"MYSQL_PASSWORD=from outside"}} {
		services := compose(t, env...).Services
		if got := *services["mysql"].Environment["MYSQL_PASSWORD"]; got != password {
			t.Errorf("MySQL's password is %q, want %q", got, password)
		}
		if got := *services["preauth"].Environment["MYSQL_DSN"]; got != "preauth:"+password+"@tcp(mysql:3306)/preauth" {
			t.Errorf("the DSN is %q", got)
		}
	}
}

// Each variable that docker-compose.yml sets for the service is one that the service reads.
func TestComposeSettingsAreTheServices(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "preauth")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "nodev", "-o", binary, "./cmd/preauth")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	help, err := exec.CommandContext(t.Context(), binary, "serve", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, name := range regexp.MustCompile(`\$([A-Z][A-Z_]+)`).FindAllSubmatch(help, -1) {
		known[string(name[1])] = true
	}
	for name := range compose(t).Services["preauth"].Environment {
		if !known[name] {
			t.Errorf("preauth serve does not read %s", name)
		}
	}
}

func TestNATSIsConfiguredToLoseNothing(t *testing.T) {
	project := compose(t)
	config, store := "", ""
	for _, volume := range project.Services["nats"].Volumes {
		switch volume.Type {
		case types.VolumeTypeBind:
			config = volume.Source
			if !slices.Contains(project.Services["nats"].Command, volume.Target) {
				t.Errorf("the server is not told to read %s", volume.Target)
			}
		case types.VolumeTypeVolume:
			store = volume.Target
		}
	}
	options, err := server.ProcessConfigFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if !options.JetStream || !options.SyncAlways {
		t.Error("JetStream is off, or acknowledges before it has synced")
	}
	if options.StoreDir != store {
		t.Errorf("the streams are in %s, the volume is at %s", options.StoreDir, store)
	}
	if options.Port != 4222 || options.HTTPPort != 8222 || options.HTTPHost != "127.0.0.1" {
		t.Errorf("clients on %s:%d, monitoring on %s:%d", options.Host, options.Port, options.HTTPHost, options.HTTPPort)
	}
}

// instructions returns the instructions of the Dockerfile's last stage, by name.
func instructions(t *testing.T) map[string][]string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	var last map[string][]string
	lines := bufio.NewScanner(bytes.NewReader(bytes.ReplaceAll(content, []byte("\\\n"), nil)))
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), " ")
		if name == "FROM" {
			last = map[string][]string{}
		}
		if name != "" && name[0] != '#' {
			last[name] = append(last[name], rest)
		}
	}
	return last
}

func TestImageHoldsTheServiceAloneAndRunsAsNobody(t *testing.T) {
	image := instructions(t)
	if !slices.Equal(image["FROM"], []string{"scratch"}) {
		t.Errorf("the image is built on %q", image["FROM"])
	}
	if user := image["USER"]; len(user) != 1 || !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(user[0]) {
		t.Errorf("the user is %q, want a number other than root's", user)
	}
	var entry, check []string
	_, checks, _ := strings.Cut(strings.Join(image["HEALTHCHECK"], ""), "CMD ")
	for text, into := range map[string]*[]string{strings.Join(image["ENTRYPOINT"], ""): &entry, checks: &check} {
		if err := json.Unmarshal([]byte(text), into); err != nil {
			t.Errorf("%q is not in exec form, and the image has no shell: %v", text, err)
		}
	}
	if !slices.Equal(check, append(entry, "check")) {
		t.Errorf("the health check runs %q, the program is %q", check, entry)
	}
}
