// Package deploy checks the files of deployments, which no compiler reads: those of Docker Compose,
// of Kubernetes, of systemd, and the Dockerfile.
package deploy

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

const root = "../.."

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
}

func TestComposeServicesHaveNoPrivileges(t *testing.T) {
	// MySQL also writes outside of its volume. It must not run as root instead, like the service.
	readOnly := map[string]bool{"nats": true, "preauth": true, "mysql": false}
	for name, service := range compose(t).Services {
		if !slices.Equal(service.SecurityOpt, []string{"no-new-privileges:true"}) {
			t.Errorf("%s may gain privileges: %q", name, service.SecurityOpt)
		}
		if !slices.Equal(service.CapDrop, []string{"ALL"}) || len(service.CapAdd) > 0 || service.Privileged {
			t.Errorf("%s keeps capabilities", name)
		}
		if want, known := readOnly[name]; !known || service.ReadOnly != want {
			t.Errorf("%s: its file system is read-only: %v", name, service.ReadOnly)
		}
		if user := service.User; !service.ReadOnly && !numbered.MatchString(user) {
			t.Errorf("%s runs as %q, want a number other than root's", name, user)
		}
		for _, volume := range service.Volumes {
			if volume.Type == types.VolumeTypeBind && !volume.ReadOnly {
				t.Errorf("%s may write to %s", name, volume.Source)
			}
		}
	}
}

// numbered matches a numeric user and group other than root's.
var numbered = regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`)

// Images have exact versions. The tests run the same nats-server as the image.
func TestImagesArePinned(t *testing.T) {
	images := map[string]string{}
	for _, service := range compose(t).Services {
		if service.Build == nil {
			name, tag, _ := strings.Cut(service.Image, ":")
			images[name] = tag
		}
	}
	for _, from := range regexp.MustCompile(`(?m)^FROM (?:--\S+ )?([a-z]+):(\S+)`).FindAllStringSubmatch(string(dockerfile(t)), -1) {
		images[from[1]] = from[2]
	}
	for _, name := range []string{"nats", "mysql", "golang"} {
		if !regexp.MustCompile(`^\d+\.\d+\.\d+(-[a-z0-9]+)?$`).MatchString(images[name]) {
			t.Errorf("the image of %s is %q, want an exact version", name, images[name])
		}
	}
	if version, _, _ := strings.Cut(images["nats"], "-"); version != server.VERSION {
		t.Errorf("the image of NATS is %s, the tests run with %s", version, server.VERSION)
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

// docker-compose.yml sets only variables that the service reads.
func TestComposeSettingsAreTheServices(t *testing.T) {
	known := variables(t, "serve")
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
	if options.Port != 4222 || options.HTTPPort != 8222 {
		t.Errorf("clients on %s:%d, monitoring on %s:%d", options.Host, options.Port, options.HTTPHost, options.HTTPPort)
	}
	// The service asks the monitoring endpoint, so it has to listen for other containers.
	monitor := *project.Services["preauth"].Environment["PREAUTH_NATS_MONITOR"]
	if monitor != "http://nats:8222" || options.HTTPHost == "127.0.0.1" {
		t.Errorf("monitoring listens on %q, and the service asks %s", options.HTTPHost, monitor)
	}
}

func dockerfile(t *testing.T) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// instructions returns the instructions of the Dockerfile's last stage, by name.
func instructions(t *testing.T) map[string][]string {
	t.Helper()
	var last map[string][]string
	lines := bufio.NewScanner(bytes.NewReader(bytes.ReplaceAll(dockerfile(t), []byte("\\\n"), nil)))
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
	if user := image["USER"]; len(user) != 1 || !numbered.MatchString(user[0]) {
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

// The build has no files of version control, so the version is an argument.
func TestImageKnowsItsVersion(t *testing.T) {
	var build string
	for line := range strings.Lines(string(bytes.ReplaceAll(dockerfile(t), []byte("\\\n"), nil))) {
		if command, ok := strings.CutPrefix(line, "RUN "); ok && strings.Contains(command, "go build") {
			build = command
		}
	}
	sources := strings.Replace(build, "go build", "go build -buildvcs=false", 1)
	for given, want := range map[string]string{"1.2.3": "1.2.3", "v1.2.3-rc.1+linux": "1.2.3-rc.1+linux", "": "0.0.0-dev", "main": "0.0.0-dev"} {
		out := t.TempDir()
		command := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(sources, "/out/", out+"/"))
		command.Dir, command.Env = root, append(os.Environ(), "VERSION="+given, "COMMIT=abc", "DATE=2026-03-14T09:00:00Z")
		if said, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%s%v\n%s", build, err, said)
		}
		said, err := exec.CommandContext(t.Context(), filepath.Join(out, "preauth"), "version", "--json").Output()
		if err != nil || !strings.HasPrefix(string(said), `{"version":"`+want+`","commit":"abc","date":"2026-03-14T09:00:00Z",`) {
			t.Errorf("given %q it calls itself %q, %v; want %s", given, said, err, want)
		}
	}
}
