package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"preauth"
	"preauth/internal/app"
)

// quotaCommand shows what WeChat says is left of the day's calls.
type quotaCommand struct {
	components
	client
}

// Run prints what is left for each component.
func (c quotaCommand) Run(ctx context.Context, to app.Stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	return c.do(ctx, func(s preauth.Subjects) string { return s.Status }, func(ctx context.Context, s *session) error {
		replicas, err := s.Replicas(ctx)
		if err != nil {
			return err
		}
		known := map[string]*preauth.Quota{}
		// A replica knows what WeChat told it. Each request goes to any of them.
		unknown := func(appid string) bool { return known[appid] == nil }
		for asks, begin := 0, time.Now(); asks == 0 || asks < asksOfReplica*len(replicas) && time.Since(begin) < c.Timeout/2; asks++ {
			if err := c.learn(ctx, s, known); err != nil {
				return err
			}
			if !slices.ContainsFunc(slices.Collect(maps.Keys(known)), unknown) {
				break
			}
		}
		if c.JSON {
			return printQuotasJSON(to.Out, known)
		}
		printQuotas(to.Out, known, len(replicas), time.Now())
		return nil
	})
}

// asksOfReplica is how often is asked for each replica while something is unknown. That one of ten
// replicas was never reached then has a probability of less than a hundredth.
const asksOfReplica = 5

// learn takes in what the replica that answers knows. Calls only use the quota up, so of two answers
// the smaller one is newer.
func (c quotaCommand) learn(ctx context.Context, s *session, known map[string]*preauth.Quota) error {
	var components []preauth.Status
	if c.Component != "" {
		status, err := s.Status(ctx, c.Component)
		if err != nil {
			return err
		}
		components = []preauth.Status{status}
	} else {
		all, err := s.statuses(ctx, preauth.StatusRequest{})
		if err != nil {
			return err
		}
		components = all.Components
	}
	for _, status := range components {
		before := known[status.AppID]
		if before == nil || status.Quota != nil && status.Quota.Remaining < before.Remaining {
			known[status.AppID] = status.Quota
		}
	}
	return nil
}

// wechatZone is where WeChat's day begins at midnight.
var wechatZone = time.FixedZone("UTC+8", 8*60*60)

func printQuotas(out io.Writer, known map[string]*preauth.Quota, replicas int, now time.Time) {
	if len(known) == 0 {
		fmt.Fprintln(out, "There is no component yet.")
		return
	}
	t := table{titles: []string{"COMPONENT", "LIMIT", "REMAINING", "LEFT"}}
	silent := 0
	for _, appid := range slices.Sorted(maps.Keys(known)) {
		row := []string{appid, "-", "-", "WeChat has not said"}
		if q := known[appid]; q == nil {
			silent++
		} else {
			row = []string{appid, strconv.Itoa(q.Limit), strconv.Itoa(q.Remaining), fmt.Sprintf("%d %%", 100*q.Remaining/max(1, q.Limit))}
		}
		t.rows = append(t.rows, row)
	}
	t.print(out, screenOf(out))
	year, month, day := now.In(wechatZone).Date()
	fmt.Fprintf(out, "\nWeChat begins to count anew at midnight UTC+8, in %s.\n", in(time.Date(year, month, day+1, 0, 0, 0, 0, wechatZone), now))
	if silent > 0 {
		fmt.Fprintln(out, "A replica asks WeChat with a component's first calls of the day, and tells only")
		fmt.Fprintf(out, "what it was told itself. %s.\n", map[bool]string{true: "One replica runs", false: fmt.Sprintf("%d replicas run", replicas)}[replicas == 1])
	}
}

// printQuotasJSON prints an object for each component.
func printQuotasJSON(out io.Writer, known map[string]*preauth.Quota) error {
	type quota struct {
		Limit     int `json:"limit"`
		Remaining int `json:"remaining"`
	}
	encoder := json.NewEncoder(out)
	for _, appid := range slices.Sorted(maps.Keys(known)) {
		line := struct {
			AppID string `json:"component_appid"`
			Quota *quota `json:"quota,omitempty"`
		}{appid, (*quota)(known[appid])}
		if err := encoder.Encode(line); err != nil {
			return err
		}
	}
	return nil
}
