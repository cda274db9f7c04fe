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
	chart := chart{out: to.Out, paint: colorsOf(to.Out)}
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
		_, err = fmt.Fprintf(to.Out, "\n%d ok, %d warnings, %d problems, %d skipped\n",
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
	out   io.Writer
	paint colors

	group   string
	pending doctor.Finding // whose line may still get longer; the zero Finding if there is none
}

// screenWidth is how long the lines of a chart are at most, where words allow it, and hanging is
// the indentation of all but the first of a finding.
const screenWidth, hanging = 80, "           "

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
	color := map[doctor.Result]string{doctor.OK: "32", doctor.Warning: "33", doctor.Problem: "31"}[f.Result]
	fmt.Fprintf(c.out, "  %s  %s\n", c.paint.paint(cmp.Or(color, "39"), fmt.Sprintf("%-7s", f.Result)), wrapped(text))
	if f.Do != "" {
		fmt.Fprintf(c.out, "%s%s\n", hanging, wrapped("do: "+f.Do))
	}
}

// wrapped breaks a text between words, so that it ends before the edge of the screen if it begins
// behind the indentation.
func wrapped(text string) string {
	var lines strings.Builder
	width := 0
	for word := range strings.FieldsSeq(text) {
		switch n := len([]rune(word)); {
		case width == 0:
			width = n
		case len(hanging)+width+1+n > screenWidth:
			lines.WriteString("\n" + hanging)
			width = n
		default:
			lines.WriteByte(' ')
			width += 1 + n
		}
		lines.WriteString(word)
	}
	return lines.String()
}
