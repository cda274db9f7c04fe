package deploy

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	disruption "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// manifests are the objects that a kustomization makes.
type manifests struct {
	configs     []core.ConfigMap
	deployments []apps.Deployment
	services    []core.Service
	budgets     []disruption.PodDisruptionBudget
	networks    []networking.NetworkPolicy
	jobs        []batch.Job
	monitors    []monitoring.ServiceMonitor
}

// decode appends the object that a document describes. No field may be unknown.
func decode[T any](t *testing.T, document []byte, to *[]T) {
	t.Helper()
	var object T
	if err := yaml.UnmarshalStrict(document, &object); err != nil {
		t.Fatalf("%v\n%s", err, document)
	}
	*to = append(*to, object)
}

// kustomize builds a kustomization below a directory.
func kustomize(t *testing.T, files filesys.FileSystem, directory string) (m manifests) {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, directory)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range built.Resources() {
		document, err := object.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		switch kind := object.GetKind(); kind {
		case "ConfigMap":
			decode(t, document, &m.configs)
		case "Deployment":
			decode(t, document, &m.deployments)
		case "Service":
			decode(t, document, &m.services)
		case "PodDisruptionBudget":
			decode(t, document, &m.budgets)
		case "NetworkPolicy":
			decode(t, document, &m.networks)
		case "Job":
			decode(t, document, &m.jobs)
		case "ServiceMonitor":
			decode(t, document, &m.monitors)
		default:
			t.Fatalf("%s %s: the test does not know this kind", kind, object.GetName())
		}
	}
	return m
}

// onDisk builds a kustomization of deploy/kubernetes.
func onDisk(t *testing.T, name string) manifests {
	t.Helper()
	return kustomize(t, filesys.MakeFsOnDisk(), filepath.Join(root, "deploy/kubernetes", name))
}

// directories are those below deploy/kubernetes, by the name of what runs there.
var directories = map[string]string{"preauth": "base", "preauth-schema": "schema", "preauth-gateway": "gateway"}

// pods returns the pods of all that runs, by the name of what runs them.
func pods(t *testing.T) map[string]core.PodTemplateSpec {
	t.Helper()
	all := map[string]core.PodTemplateSpec{}
	for _, name := range directories {
		m := onDisk(t, name)
		for _, d := range m.deployments {
			all[d.Name] = d.Spec.Template
		}
		for _, j := range m.jobs {
			all[j.Name] = j.Spec.Template
		}
	}
	if len(all) != len(directories) {
		t.Fatalf("there are the pods of %q", slices.Collect(maps.Keys(all)))
	}
	return all
}

// examples are the kustomizations that docs/install.md shows.
func examples(t *testing.T) (all []string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs/install.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		all = append(all, found[1])
	}
	if len(all) != 2 {
		t.Fatalf("the page has %d examples", len(all))
	}
	return all
}

// custom builds a kustomization that stands beside deploy.
func custom(t *testing.T, kustomization string) manifests {
	t.Helper()
	files := filesys.MakeFsInMemory()
	if err := files.WriteFile("kustomization.yaml", []byte(kustomization)); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(root, "deploy/kubernetes/*/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range found {
		content, err := os.ReadFile(name)
		if err == nil {
			err = files.WriteFile(strings.TrimPrefix(name, root+"/"), content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return kustomize(t, files, ".")
}

// The kustomization that docs/install.md shows sets the image, the namespace and settings of all.
func TestKustomizationOfThePage(t *testing.T) {
	m := custom(t, examples(t)[0])
	deployment := m.deployments[0]
	if image := deployment.Spec.Template.Spec.Containers[0].Image; image != "registry.example.com/preauth:1.2.3" || deployment.Namespace != "preauth" || len(m.monitors) != 1 {
		t.Errorf("the image is %s, the namespace %s, with %d monitors", image, deployment.Namespace, len(m.monitors))
	}
	got := environment(t, m, deployment.Spec.Template)
	if got["NATS_URL"] != "tls://nats.nats.svc:4222" || got["PREAUTH_SPARES"] != "2" || got["NATS_NKEY"] != "/etc/preauth/preauth.nk" {
		t.Errorf("the settings are %v", got)
	}
}

// What docs/install.md adds to the gateway for the entry page is what gateway.env suggests and the
// gateway reads, and the keys are in its Secret.
func TestEntryPageOfThePage(t *testing.T) {
	m := custom(t, "resources: [deploy/kubernetes/gateway]\n"+examples(t)[1])
	pod := m.deployments[0].Spec.Template
	settings, read := environment(t, m, pod), variables(t, "gateway", "serve")
	text, err := os.ReadFile(filepath.Join(root, "deploy/kubernetes/gateway/gateway.env"))
	if err != nil {
		t.Fatal(err)
	}
	suggested := regexp.MustCompile(`(?m)^#(PREAUTH_GATEWAY_ENTRY_\w+)=(\S+)$`).FindAllStringSubmatch(string(text), -1)
	if len(suggested) != 2 {
		t.Errorf("it suggests %q", suggested)
	}
	for _, s := range suggested {
		if settings[s[1]] != s[2] || !read[s[1]] {
			t.Errorf("the page sets %s to %q, the file suggests %q", s[1], settings[s[1]], s[2])
		}
	}
	if file := settings["PREAUTH_GATEWAY_ENTRY_KEYS_FILE"]; filepath.Dir(file) != pod.Spec.Containers[0].VolumeMounts[0].MountPath {
		t.Errorf("the keys are in %s", file)
	}
}

// The pods keep to the strictest of Kubernetes' own standards for pods, and to more.
func TestPodsHaveNoPrivileges(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for name, pod := range pods(t) {
		if result := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec)); !result.Allowed {
			t.Errorf("%s: %s", name, result.ForbiddenDetail())
		}
		if token := pod.Spec.AutomountServiceAccountToken; token == nil || *token {
			t.Errorf("%s gets a token of a service account", name)
		}
		if links := pod.Spec.EnableServiceLinks; links == nil || *links {
			t.Errorf("%s gets the addresses of services as variables", name)
		}
		for _, container := range pod.Spec.Containers {
			if readOnly := container.SecurityContext.ReadOnlyRootFilesystem; readOnly == nil || !*readOnly {
				t.Errorf("%s may write to its root file system", name)
			}
			if container.Resources.Requests.Cpu().IsZero() || container.Resources.Requests.Memory().IsZero() || container.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s has the resources %v", name, container.Resources)
			}
			for _, mount := range container.VolumeMounts {
				if !mount.ReadOnly {
					t.Errorf("%s may write to %s", name, mount.MountPath)
				}
			}
		}
	}
}

// environment returns the variables of a pod's only container.
func environment(t *testing.T, m manifests, pod core.PodTemplateSpec) map[string]string {
	t.Helper()
	container, all := pod.Spec.Containers[0], map[string]string{}
	for _, from := range container.EnvFrom {
		found := false
		for _, config := range m.configs {
			if config.Name == from.ConfigMapRef.Name {
				maps.Copy(all, config.Data)
				found = true
			}
		}
		if !found {
			t.Errorf("there is no ConfigMap %s", from.ConfigMapRef.Name)
		}
	}
	for _, variable := range container.Env {
		all[variable.Name] = variable.Value
	}
	return all
}

// Variables and arguments are those of the program, and files are below the volume of a Secret that
// the manifests do not contain.
func TestPodsSetWhatTheProgramReads(t *testing.T) {
	for name, pod := range pods(t) {
		m, container := onDisk(t, directories[name]), pod.Spec.Containers[0]
		if len(container.Command) > 0 {
			t.Errorf("%s replaces the entry point of the image", name)
		}
		if secret := pod.Spec.Volumes[0].Secret; secret == nil || secret.SecretName != name || *secret.DefaultMode&0o007 != 0 {
			t.Errorf("%s mounts %+v", name, pod.Spec.Volumes[0])
		}
		read, text := variables(t, container.Args...), string(help(t, container.Args...))
		directory := container.VolumeMounts[0].MountPath + "/"
		for variable, value := range environment(t, m, pod) {
			if !read[variable] && variable != "GOMEMLIMIT" { // which is Go's
				t.Errorf("%s: preauth %s does not read %s", name, strings.Join(container.Args, " "), variable)
			}
			if isFile := regexp.MustCompile(`=FILE\s[^$]*\$` + variable + `\b`).MatchString(text); isFile != strings.HasPrefix(value, directory) {
				t.Errorf("%s: %s is %q; it names a file: %v", name, variable, value, isFile)
			}
		}
	}
}

// The service runs with the settings of the manifests, and answers where probes and Prometheus ask.
func TestServiceAnswersItsProbes(t *testing.T) {
	m := onDisk(t, "base")
	pod := m.deployments[0].Spec.Template
	admin := startService(t, environment(t, m, pod), pod.Spec.Containers[0].VolumeMounts[0].MountPath)
	container := pod.Spec.Containers[0]
	port := container.Ports[0]
	if port.Name != "admin" || !strings.HasSuffix(environment(t, m, pod)["PREAUTH_ADMIN_LISTEN"], ":8180") || port.ContainerPort != 8180 {
		t.Errorf("the service listens on %s, the port is %+v", environment(t, m, pod)["PREAUTH_ADMIN_LISTEN"], port)
	}
	with := onDisk(t, "servicemonitor").monitors[0]
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	// NATS and MySQL are away: the service lives and is not ready.
	for path, want := range map[string]int{
		container.LivenessProbe.HTTPGet.Path:  http.StatusOK,
		container.ReadinessProbe.HTTPGet.Path: http.StatusServiceUnavailable,
		with.Spec.Endpoints[0].Path:           http.StatusOK,
	} {
		response, err := client.Get("http://" + admin + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s answers with %d, want %d", path, response.StatusCode, want)
		}
	}
	for _, used := range []string{container.LivenessProbe.HTTPGet.Port.String(), container.ReadinessProbe.HTTPGet.Port.String(), m.services[0].Spec.Ports[0].TargetPort.String(), with.Spec.Endpoints[0].Port, m.networks[0].Spec.Ingress[0].Ports[0].Port.String()} {
		if used != port.Name {
			t.Errorf("the port %q is used, the container has %q", used, port.Name)
		}
	}
}

// The gateway's ports and probes are where it listens.
func TestGatewayIsAskedWhereItListens(t *testing.T) {
	m := onDisk(t, "gateway")
	pod := m.deployments[0].Spec.Template
	container, settings := pod.Spec.Containers[0], environment(t, m, pod)
	for name, variable := range map[string]string{"http": "PREAUTH_GATEWAY_LISTEN", "admin": "PREAUTH_ADMIN_LISTEN"} {
		if !slices.ContainsFunc(container.Ports, func(p core.ContainerPort) bool {
			return p.Name == name && settings[variable] == fmt.Sprintf(":%d", p.ContainerPort)
		}) {
			t.Errorf("no port %s is that of %s", name, variable)
		}
	}
	service := onDisk(t, "base").deployments[0].Spec.Template.Spec.Containers[0] // whose probes are tried
	if !reflect.DeepEqual(container.LivenessProbe, service.LivenessProbe) || !reflect.DeepEqual(container.ReadinessProbe, service.ReadinessProbe) {
		t.Error("the gateway has other probes than the service")
	}
	if port := m.services[0].Spec.Ports[0].TargetPort.String(); port != "http" {
		t.Errorf("programs reach the port %s", port)
	}
}

// An update, the drain of a node and the end of a pod leave a replica at work.
func TestReplicasAreReplacedWithoutAGap(t *testing.T) {
	for directory, limit := range map[string]time.Duration{
		"base": duration(t, "shutdown", "serve"), "gateway": duration(t, "timeout", "gateway", "serve") + 20*time.Second,
	} {
		t.Run(directory, func(t *testing.T) { expectNoGap(t, onDisk(t, directory), limit) })
	}
}

// expectNoGap takes how long a replica needs to end.
func expectNoGap(t *testing.T, m manifests, limit time.Duration) {
	t.Helper()
	deployment := m.deployments[0]
	if *deployment.Spec.Replicas < 2 {
		t.Errorf("there are %d replicas", *deployment.Spec.Replicas)
	}
	update := deployment.Spec.Strategy.RollingUpdate
	if update.MaxUnavailable.IntValue() != 0 || update.MaxSurge.IntValue() < 1 {
		t.Errorf("an update takes away %v and adds %v", update.MaxUnavailable, update.MaxSurge)
	}
	if budget := m.budgets[0].Spec; budget.MaxUnavailable.IntValue() != 1 || *budget.UnhealthyPodEvictionPolicy != disruption.AlwaysAllow {
		t.Errorf("the budget is %+v", budget)
	}
	grace := time.Duration(*deployment.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second
	if grace < limit+3*time.Second {
		t.Errorf("a pod is killed after %v, it ends within %v", grace, limit)
	}
	spread := map[string]bool{}
	for _, constraint := range deployment.Spec.Template.Spec.TopologySpreadConstraints {
		spread[constraint.TopologyKey] = true
	}
	if !spread[core.LabelHostname] || !spread[core.LabelTopologyZone] {
		t.Errorf("replicas are spread over %v", spread)
	}
}

// Everything that selects the pods of the service, or of the gateway, selects them and no others.
func TestSelectorsFit(t *testing.T) {
	all := pods(t)
	for name, m := range map[string]manifests{"preauth": onDisk(t, "base"), "preauth-gateway": onDisk(t, "gateway")} {
		t.Run(name, func(t *testing.T) { expectOwnSelectors(t, m, name, all) })
	}
	expectSelects(t, "the schema's network", &onDisk(t, "schema").networks[0].Spec.PodSelector, all["preauth-schema"].Labels, true)
	monitor := onDisk(t, "servicemonitor").monitors[0].Spec.Selector
	for _, directory := range []string{"base", "gateway"} {
		service := onDisk(t, directory).services[0]
		expectSelects(t, "service monitor", &monitor, service.Labels, true)
		if !slices.ContainsFunc(service.Spec.Ports, func(p core.ServicePort) bool { return p.Name == "admin" && p.TargetPort.String() == "admin" }) {
			t.Errorf("Prometheus finds no metrics at %s", service.Name)
		}
	}
}

func expectOwnSelectors(t *testing.T, m manifests, own string, all map[string]core.PodTemplateSpec) {
	t.Helper()
	selectors := map[string]*meta.LabelSelector{
		"deployment": m.deployments[0].Spec.Selector,
		"service":    {MatchLabels: m.services[0].Spec.Selector},
		"budget":     m.budgets[0].Spec.Selector,
		"network":    &m.networks[0].Spec.PodSelector,
	}
	for i, constraint := range m.deployments[0].Spec.Template.Spec.TopologySpreadConstraints {
		selectors["spread "+string(rune('0'+i))] = constraint.LabelSelector
	}
	for name, selector := range selectors {
		for pod := range directories {
			expectSelects(t, name, selector, all[pod].Labels, pod == own)
		}
	}
}

func expectSelects(t *testing.T, name string, selector *meta.LabelSelector, on map[string]string, want bool) {
	t.Helper()
	parsed, err := meta.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	if got := parsed.Matches(labels.Set(on)); got != want {
		t.Errorf("%s selects the pod with %v: %v, want %v", name, on, got, want)
	}
}

// Only Prometheus reaches the pods, and they reach only DNS, NATS, MySQL, and port 443 of addresses
// that are not private.
func TestNetworkIsClosed(t *testing.T) {
	service, schema, gateway := onDisk(t, "base").networks[0].Spec, onDisk(t, "schema").networks[0].Spec, onDisk(t, "gateway").networks[0].Spec
	for _, spec := range []networking.NetworkPolicySpec{service, schema, gateway} {
		if !slices.Equal(spec.PolicyTypes, []networking.PolicyType{networking.PolicyTypeIngress, networking.PolicyTypeEgress}) {
			t.Errorf("the policy is about %v", spec.PolicyTypes)
		}
	}
	if len(service.Ingress) != 1 || len(service.Ingress[0].From) != 1 || service.Ingress[0].From[0].PodSelector == nil || service.Ingress[0].From[0].NamespaceSelector == nil || len(schema.Ingress) != 0 {
		t.Errorf("reached by %+v and %+v", service.Ingress, schema.Ingress)
	}
	reach := func(spec networking.NetworkPolicySpec) (ports []int) {
		for _, rule := range spec.Egress {
			for _, port := range rule.Ports {
				ports = append(ports, port.Port.IntValue())
				for _, peer := range rule.To {
					if port.Port.IntValue() == 443 && !slices.ContainsFunc(peer.IPBlock.Except, func(network string) bool {
						return network == "169.254.0.0/16" || network == "fe80::/10"
					}) {
						t.Errorf("port 443 of %s may be a machine's metadata", peer.IPBlock.CIDR)
					}
				}
			}
		}
		return ports
	}
	if got := reach(service); !slices.Equal(got, []int{53, 53, 4222, 8222, 3306, 443}) {
		t.Errorf("the service reaches the ports %v", got)
	}
	if got := reach(schema); !slices.Equal(got, []int{53, 53, 3306}) {
		t.Errorf("the schema's job reaches the ports %v", got)
	}
	if got := reach(gateway); !slices.Equal(got, []int{53, 53, 4222}) {
		t.Errorf("the gateway reaches the ports %v", got)
	}
	for _, rule := range gateway.Ingress {
		if everybody := rule.From[0].PodSelector == nil; everybody != (rule.Ports[0].Port.String() == "http") {
			t.Errorf("everybody reaches the gateway's port %s: %v", rule.Ports[0].Port, everybody)
		}
	}
}
