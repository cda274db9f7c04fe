package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

const (
	runbookFile   = "../../docs/runbooks.md"
	dashboardFile = "../../deploy/grafana/preauth.json"
)

// alerts returns the alerts of the rules.
func alerts(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile(ruleFile, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Fatal(err)
	}
	var all []rulefmt.Rule
	for _, group := range groups.Groups {
		all = append(all, group.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("there are no alerts")
	}
	return all
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Each alert says how bad it is, what is wrong, and where its runbook is. Each section of the
// runbooks is that of an alert.
func TestAlertsHaveRunbooks(t *testing.T) {
	sections := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^## (Preauth\w+)$`).FindAllStringSubmatch(read(t, runbookFile), -1) {
		sections[heading[1]] = true
	}
	for _, alert := range alerts(t) {
		if severity := alert.Labels["severity"]; severity != "critical" && severity != "warning" {
			t.Errorf("%s has the severity %q", alert.Alert, severity)
		}
		if alert.Annotations["summary"] == "" || alert.Annotations["description"] == "" {
			t.Errorf("%s does not say what is wrong", alert.Alert)
		}
		if url, want := alert.Annotations["runbook_url"], "docs/runbooks.md#"+strings.ToLower(alert.Alert); url != want {
			t.Errorf("the runbook of %s is %q, want %q", alert.Alert, url, want)
		}
		if !sections[alert.Alert] {
			t.Errorf("the runbooks have no section for %s", alert.Alert)
		}
		delete(sections, alert.Alert)
	}
	for section := range sections {
		t.Errorf("the runbooks have a section for %s, which is no alert", section)
	}
}

// promtool's tests of the rules name each alert.
func TestAlertsHaveUnitTests(t *testing.T) {
	tests := read(t, filepath.Join(filepath.Dir(ruleFile), "rules_test.yml"))
	for _, alert := range alerts(t) {
		if !strings.Contains(tests, "alertname: "+alert.Alert+"\n") {
			t.Errorf("rules_test.yml does not test %s", alert.Alert)
		}
	}
}

// What the rules, the dashboard and the runbooks ask for is in /metrics of a fresh service or a fresh
// gateway, with each label that they ask for. The queries of the dashboard can be parsed.
func TestMetricsExist(t *testing.T) {
	t.Parallel()
	w := newWorld(t, mysql, setup{gateway: true})
	m := w.monitor()
	exist := func(selector string) bool {
		found, err := m.engine.NewInstantQuery(w.ctx, m.db, nil, selector, m.now)
		w.must(err)
		defer found.Close()
		vector, err := found.Exec(w.ctx).Vector()
		w.must(err)
		return len(vector) > 0
	}
	w.must(m.watch(w.ctx, func(time.Duration, []string) bool { return false }))

	check := func(who, expr string) {
		parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
		if err != nil {
			t.Errorf("%s: %v", who, err)
			return
		}
		parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
			if s, ok := node.(*parser.VectorSelector); ok && s.Name != "ALERTS" {
				if selector := (&parser.VectorSelector{Name: s.Name, LabelMatchers: s.LabelMatchers}).String(); !exist(selector) {
					t.Errorf("%s: a fresh service has no %s", who, selector)
				}
			}
			return nil
		})
	}
	for _, alert := range alerts(t) {
		check("the alert "+alert.Alert, alert.Expr)
	}
	panels, err := readDashboard(dashboardFile)
	w.must(err)
	for _, p := range panels {
		for _, q := range p.queries {
			check("the panel "+p.title, q.expr)
		}
	}
	for _, name := range regexp.MustCompile(`\bpreauth_[a-z_]+`).FindAllString(read(t, runbookFile), -1) {
		check("the runbooks", name)
	}
}
