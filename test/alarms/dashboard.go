package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// panel is a panel of a dashboard, or the heading of a row of them.
type panel struct {
	kind, title string
	place       dashboard.GridPos
	field       dashboard.FieldConfig
	queries     []query
}

// query is what a panel shows. The dashboard's variables have their values in expr.
type query struct{ expr, legend string }

const (
	rowPanel   = "row"
	statPanel  = "stat"
	statePanel = "state-timeline"
	timePanel  = "timeseries"
)

// readDashboard reads a dashboard of Grafana strictly: a member that Grafana does not know is an
// error. Only panels that [draw] knows may be in it.
func readDashboard(file string) ([]panel, error) {
	runtime := cog.NewRuntime()
	runtime.RegisterDataqueryVariant(prometheus.VariantConfig())
	runtime.RegisterPanelcfgVariant(stat.VariantConfig())
	runtime.RegisterPanelcfgVariant(statetimeline.VariantConfig())
	runtime.RegisterPanelcfgVariant(timeseries.VariantConfig())
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	// The newer schema cannot be imported everywhere yet.
	var read, checked dashboard.Dashboard //nolint:staticcheck // as said
	if err := json.Unmarshal(text, &read); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	// This finds what Grafana does not know and does not read all: it takes an empty list of errors for
	// an error.
	err = checked.UnmarshalJSONStrict(text)
	if errs, ok := errors.AsType[cog.BuildErrors](err); err != nil && (!ok || len(errs) > 0) {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	variables := strings.NewReplacer("$__rate_interval", "1m", "$job", "preauth")
	var panels []panel
	for _, each := range read.Panels {
		if each.RowPanel != nil {
			panels = append(panels, panel{kind: rowPanel, title: *each.RowPanel.Title, place: *each.RowPanel.GridPos})
			continue
		}
		p := each.Panel
		if p.Title == nil || p.Description == nil || p.GridPos == nil || p.FieldConfig == nil {
			return nil, fmt.Errorf("%s: a %s lacks its title, description, place or field configuration", file, p.Type)
		}
		shown := panel{kind: p.Type, title: *p.Title, place: *p.GridPos, field: p.FieldConfig.Defaults}
		for _, target := range p.Targets {
			asked, ok := target.(*prometheus.Dataquery)
			if !ok || asked.LegendFormat == nil {
				return nil, fmt.Errorf("%s: a query of the panel %q is not one of Prometheus with a legend", file, shown.title)
			}
			shown.queries = append(shown.queries, query{variables.Replace(asked.Expr), *asked.LegendFormat})
		}
		switch shown.kind {
		case statPanel, statePanel, timePanel:
		default:
			return nil, fmt.Errorf("%s: the panel %q is a %s, which nothing here draws", file, shown.title, shown.kind)
		}
		panels = append(panels, shown)
	}
	if len(panels) == 0 {
		return nil, errors.New(file + " has no panels")
	}
	return panels, nil
}
