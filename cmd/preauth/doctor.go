package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"preauth/internal/app"
	"preauth/internal/doctor"
)

// doctorCommand finds what is wrong with everything that the service needs.
type doctorCommand struct {
	Service app.Service `embed:""`

	JSON bool `name:"json" help:"Print one JSON object, with a member checks."`
}

// errProblems is why doctor fails.
var errProblems = errors.New("the service would not work, or does not")

// Run makes all checks and prints what they found. It returns an error if there is a problem.
func (c doctorCommand) Run(ctx context.Context, to app.Stdio) (err error) {
	patient, err := c.Service.Patient()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, patient.DB.Close()) }()
	defer patient.WeChat.Close()
	chart := chart{out: to.Out, on: screenOf(to.Out)}
	findings := []doctor.Finding{}
	results := map[doctor.Result]int{}
	doctor.Examine(ctx, patient, func(f doctor.Finding) {
		f.Check, f.Found, f.Do = printable(f.Check), printable(f.Found), printable(f.Do)
		findings = append(findings, f)
		results[f.Result]++
		if !c.JSON {
			chart.add(f)
		}
	})
	chart.flush()
	if c.JSON {
		err = json.NewEncoder(to.Out).Encode(map[string]any{"checks": findings})
	} else {
		_, err = fmt.Fprintf(to.Out, "\nok: %d, warnings: %d, problems: %d, skipped: %d\n",
			results[doctor.OK], results[doctor.Warning], results[doctor.Problem], results[doctor.Skipped])
	}
	if results[doctor.Problem] > 0 {
		err = errors.Join(err, errProblems)
	}
	return err
}

// chart prints findings below the names of their groups. Checks that are skipped for one reason
// share a line.
type chart struct {
	out io.Writer
	on  screen

	group   string
	pending doctor.Finding // whose line may still get longer; the zero Finding if there is none
}

// chartWidth is how long the lines of a chart are at most where there is no terminal, and hanging is
// the indentation of all but the first line of a finding.
const chartWidth, hanging = 80, "           "

func (c *chart) add(f doctor.Finding) {
	if p := c.pending; p.Result == doctor.Skipped && f.Result == doctor.Skipped && p.Group == f.Group && p.Found == f.Found {
		c.pending.Check += ", " + f.Check
		return
	}
	c.flush()
	c.pending = f
}

// flush prints what is pending.
func (c *chart) flush() {
	f := c.pending
	if f.Result == "" {
		return
	}
	c.pending = doctor.Finding{}
	if f.Group != c.group {
		c.group = f.Group
		fmt.Fprintln(c.out, f.Group)
	}
	text := f.Check
	if f.Found != "" {
		text += ": " + f.Found
	}
	color := map[doctor.Result]string{doctor.OK: green, doctor.Warning: yellow, doctor.Problem: red}[f.Result]
	fmt.Fprintf(c.out, "  %s  %s\n", c.on.paint(color, fmt.Sprintf("%-7s", f.Result)), c.wrapped(text))
	if f.Do != "" {
		fmt.Fprintf(c.out, "%s%s\n", hanging, c.wrapped("do: "+f.Do))
	}
}

// wrapped breaks a text, which begins behind the indentation, between words.
func (c *chart) wrapped(text string) string {
	return strings.Join(wrapped(text, cmp.Or(c.on.width, chartWidth)-len(hanging)), "\n"+hanging)
}
