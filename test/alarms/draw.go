package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	stdfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// The picture has a point for each of its pixels. A dashboard is 24 columns wide.
const (
	column, line = 60 * vg.Length(1), 30 * vg.Length(1)
	gap          = 4 * vg.Length(1)
	title, small = 11, 9 // sizes of text
)

var (
	background = color.RGBA{0xf0, 0xf1, 0xf3, 255}
	edge       = color.RGBA{0xd8, 0xda, 0xde, 255}
	ink        = color.RGBA{0x22, 0x25, 0x2b, 255}
	faint      = color.RGBA{0x70, 0x74, 0x7c, 255}

	// named are the colors of thresholds, and classic those of series, as Grafana has them.
	named = map[string]color.Color{
		"green": color.RGBA{0x56, 0xa6, 0x4b, 255}, "orange": color.RGBA{0xff, 0x78, 0x0a, 255}, "red": color.RGBA{0xe0, 0x2f, 0x44, 255},
	}
	classic = []color.Color{
		color.RGBA{0x50, 0x86, 0x42, 255},
		color.RGBA{0xcc, 0xa3, 0x00, 255},
		color.RGBA{0x44, 0x7e, 0xbc, 255},
		color.RGBA{0xc1, 0x5c, 0x17, 255},
		color.RGBA{0x89, 0x0f, 0x02, 255},
		color.RGBA{0x70, 0x5d, 0xa0, 255},
		color.RGBA{0x3f, 0x68, 0x33, 255},
		color.RGBA{0x96, 0x7f, 0x02, 255},
	}
)

// picture draws panels with the data that a monitor has.
type picture struct {
	monitor    *monitor
	begin, end time.Time
	canvas     draw.Canvas
	height     vg.Length
}

// drawDashboard writes the panels, with all that the monitor has, as a PNG file.
func drawDashboard(ctx context.Context, m *monitor, panels []panel, file string) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	rows := uint32(0)
	for _, p := range panels {
		rows = max(rows, p.place.Y+p.place.H)
	}
	canvas := vgimg.NewWith(vgimg.UseWH(24*column+gap, vg.Length(rows)*line+gap), vgimg.UseDPI(72), vgimg.UseBackgroundColor(background))
	d := picture{m, m.begin, m.now, draw.New(canvas), vg.Length(rows)*line + gap}
	for _, p := range panels {
		if err := d.panel(ctx, p); err != nil {
			return fmt.Errorf("draw %q: %w", p.title, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	return errors.Join(encoder.Encode(out, paletted(canvas.Image())), out.Close())
}

// paletted returns a picture with the 256 most frequent of its colors, in a third of the bytes: the
// others are shades at the edges of letters.
func paletted(of image.Image) *image.Paletted {
	count := map[color.Color]int{}
	box := of.Bounds()
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			count[of.At(x, y)]++
		}
	}
	for _, c := range slices.Concat(classic, slices.Collect(maps.Values(named))) {
		count[c] += box.Dx() * box.Dy() // those of data stay, however thin the line
	}
	colors := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return cmp.Compare(count[b], count[a]) })
	fewer := image.NewPaletted(box, colors[:min(len(colors), 256)])
	nearest := map[color.Color]uint8{}
	for _, c := range colors {
		nearest[c] = uint8(fewer.Palette.Index(c))
	}
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			fewer.SetColorIndex(x, y, nearest[of.At(x, y)])
		}
	}
	return fewer
}

// panel draws one of them in its place.
func (d picture) panel(ctx context.Context, p panel) error {
	left, top := vg.Length(p.place.X)*column+gap, d.height-vg.Length(p.place.Y)*line-gap
	right, bottom := left+vg.Length(p.place.W)*column-gap, top-vg.Length(p.place.H)*line+gap
	box := vg.Rectangle{Min: vg.Point{X: left, Y: bottom}, Max: vg.Point{X: right, Y: top}}
	if p.kind == rowPanel {
		d.write(p.title, title+3, ink, vg.Point{X: left + 2, Y: (top + bottom) / 2}, draw.XLeft, true)
		return nil
	}
	series, err := d.query(ctx, p.queries)
	if err != nil {
		return err
	}
	fill := color.Color(color.White)
	if p.kind == statPanel {
		fill = background
		if len(series) > 0 {
			fill = p.color(series[0].last())
		}
	}
	d.canvas.FillPolygon(fill, corners(box))
	outline := corners(box)
	d.canvas.StrokeLines(draw.LineStyle{Color: edge, Width: 1}, append(outline, outline[0]))
	ofTitle := color.Color(ink)
	if p.kind == statPanel && len(series) > 0 {
		ofTitle = color.White
	}
	d.write(p.title, title, ofTitle, vg.Point{X: left + 8, Y: top - 12}, draw.XLeft, true)
	inner := vg.Rectangle{Min: vg.Point{X: left + 8, Y: bottom + 6}, Max: vg.Point{X: right - 10, Y: top - 24}}
	if len(series) == 0 {
		d.write("no data", small+1, faint, vg.Point{X: (left + right) / 2, Y: (inner.Min.Y + inner.Max.Y) / 2}, draw.XCenter, false)
		return nil
	}
	switch p.kind {
	case statPanel:
		d.write(p.format(series[0].last()), 26, color.White, vg.Point{X: (left + right) / 2, Y: (inner.Min.Y + inner.Max.Y) / 2}, draw.XCenter, true)
		return nil
	case statePanel:
		d.states(p, series, inner)
		return nil
	default:
		return d.lines(p, series, inner)
	}
}

func corners(r vg.Rectangle) []vg.Point {
	return []vg.Point{r.Min, {X: r.Max.X, Y: r.Min.Y}, r.Max, {X: r.Min.X, Y: r.Max.Y}}
}

// write writes a text whose middle is at the height of a point.
func (d picture) write(words string, size vg.Length, c color.Color, at vg.Point, align text.XAlignment, bold bool) {
	style := text.Style{Color: c, Font: font.From(plot.DefaultFont, size), XAlign: align, YAlign: draw.YCenter, Handler: plot.DefaultTextHandler}
	if bold {
		style.Font.Weight = stdfont.WeightBold
	}
	d.canvas.FillText(style, at, words)
}

func (d picture) width(words string, size vg.Length) vg.Length {
	return text.Style{Font: font.From(plot.DefaultFont, size), Handler: plot.DefaultTextHandler}.Width(words)
}

// series is one of the lines of a panel.
type series struct {
	name   string
	points []promql.FPoint
}

func (s series) last() float64 { return s.points[len(s.points)-1].F }

// step is the time between two points.
func (d picture) step() time.Duration {
	return max(d.end.Sub(d.begin)/400, time.Second).Truncate(time.Second)
}

// query asks for the data of a panel.
func (d picture) query(ctx context.Context, queries []query) ([]series, error) {
	var all []series
	for _, q := range queries {
		asked, err := d.monitor.engine.NewRangeQuery(ctx, d.monitor.db, nil, q.expr, d.begin, d.end, d.step())
		if err != nil {
			return nil, err
		}
		matrix, err := asked.Exec(ctx).Matrix()
		if err != nil {
			asked.Close()
			return nil, err
		}
		for _, found := range matrix {
			points := slices.DeleteFunc(slices.Clone(found.Floats), func(p promql.FPoint) bool { return math.IsNaN(p.F) })
			if len(points) > 0 {
				all = append(all, series{legend(q.legend, found.Metric), points})
			}
		}
		asked.Close()
	}
	return all, nil
}

var label = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// legend returns the name of a series by its labels.
func legend(format string, of labels.Labels) string {
	return label.ReplaceAllStringFunc(format, func(name string) string { return of.Get(label.FindStringSubmatch(name)[1]) })
}

// color returns the color of the highest threshold that a value has reached.
func (p panel) color(value float64) color.Color {
	reached := named["green"]
	if p.field.Thresholds != nil {
		for _, step := range p.field.Thresholds.Steps {
			if step.Value == nil || value >= *step.Value {
				reached = named[step.Color]
			}
		}
	}
	return reached
}

// format writes a value in the panel's unit.
func (p panel) format(value float64) string {
	short := func(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }
	switch unit := *p.field.Unit; {
	case unit == "percentunit":
		return short(math.Round(value*1000)/10) + " %"
	case unit == "s" && value != 0 && math.Abs(value) < 0.9995:
		return short(value*1000) + " ms"
	case unit == "s" && math.Abs(value) >= 600:
		return short(value/60) + " min"
	case unit == "s":
		return short(value) + " s"
	case unit == "ops", unit == "reqps":
		return short(value) + "/s"
	default:
		return short(value)
	}
}

// Ticks writes the y axis in the panel's unit.
func (p panel) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i, tick := range ticks {
		if tick.Label != "" {
			ticks[i].Label = p.format(tick.Value)
		}
	}
	return slices.DeleteFunc(ticks, plot.Tick.IsMinor)
}

// lines draws the series over time, and their names below.
func (d picture) lines(p panel, all []series, box vg.Rectangle) error {
	chart := plot.New()
	chart.BackgroundColor = color.Transparent
	chart.X.Tick.Marker, chart.Y.Tick.Marker = plot.TimeTicks{Format: "15:04", Time: plot.UTCUnixTime}, p
	for _, axis := range []*plot.Axis{&chart.X, &chart.Y} {
		axis.LineStyle.Color, axis.Tick.LineStyle.Color, axis.Tick.Label.Color = edge, edge, faint
		axis.Tick.Label.Font.Size, axis.Tick.Length = small, 3
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = background, background
	chart.Add(grid)
	for i, s := range all {
		for _, part := range s.parts(d.step()) {
			drawn, err := plotter.NewLine(part)
			if err != nil {
				return err
			}
			drawn.Color, drawn.Width = classic[i%len(classic)], 1.6
			chart.Add(drawn)
		}
	}
	chart.X.Min, chart.X.Max = unix(d.begin), unix(d.end)
	chart.Y.Min = 0
	if p.field.Max != nil {
		chart.Y.Max = *p.field.Max
	}
	if chart.Y.Max <= chart.Y.Min {
		chart.Y.Max = 1
	}
	below := d.names(all, box)
	chart.Draw(draw.Canvas{Canvas: d.canvas.Canvas, Rectangle: vg.Rectangle{Min: vg.Point{X: box.Min.X, Y: box.Min.Y + below}, Max: box.Max}})
	return nil
}

// parts returns the points of a series without the gaps.
func (s series) parts(step time.Duration) []plotter.XYs {
	var parts []plotter.XYs
	last := int64(math.MinInt64 / 2)
	for _, p := range s.points {
		if p.T-last > 2*step.Milliseconds() {
			parts = append(parts, nil)
		}
		last = p.T
		parts[len(parts)-1] = append(parts[len(parts)-1], plotter.XY{X: float64(p.T) / 1000, Y: p.F})
	}
	return parts
}

// names writes the names of the series at the bottom of a box, and returns how high they are.
func (d picture) names(all []series, box vg.Rectangle) vg.Length {
	const height = 13
	type word struct {
		series int
		x      vg.Length
	}
	rows := [][]word{nil}
	x := box.Min.X
	for i, s := range all {
		width := d.width(s.name, small) + 26
		if x+width > box.Max.X && x > box.Min.X {
			rows, x = append(rows, nil), box.Min.X
		}
		rows[len(rows)-1] = append(rows[len(rows)-1], word{i, x})
		x += width
	}
	for i, row := range rows {
		y := box.Min.Y + vg.Length(len(rows)-1-i)*height + 5
		for _, w := range row {
			d.canvas.StrokeLine2(draw.LineStyle{Color: classic[w.series%len(classic)], Width: 3}, w.x, y, w.x+12, y)
			d.write(all[w.series].name, small, ink, vg.Point{X: w.x + 16, Y: y}, draw.XLeft, false)
		}
	}
	return vg.Length(len(rows))*height + 3
}

// states draws a bar for each series, in the color of its value at each time.
func (d picture) states(p panel, all []series, box vg.Rectangle) {
	slices.SortFunc(all, func(a, b series) int { return strings.Compare(a.name, b.name) })
	names := vg.Length(0)
	for _, s := range all {
		names = max(names, d.width(s.name, small)+8)
	}
	axis := vg.Length(14)
	height := min((box.Max.Y-box.Min.Y-axis)/vg.Length(len(all)), 28)
	x := func(t float64) vg.Length {
		part := (t - unix(d.begin)) / (unix(d.end) - unix(d.begin))
		return box.Min.X + names + vg.Length(part)*(box.Max.X-box.Min.X-names)
	}
	for _, tick := range (plot.TimeTicks{Format: "15:04", Time: plot.UTCUnixTime}).Ticks(unix(d.begin), unix(d.end)) {
		if tick.Label != "" {
			d.write(tick.Label, small, faint, vg.Point{X: x(tick.Value), Y: box.Min.Y + 4}, draw.XCenter, false)
		}
	}
	for i, s := range all {
		top := box.Max.Y - vg.Length(i)*height
		d.write(s.name, small, ink, vg.Point{X: box.Min.X, Y: top - height/2}, draw.XLeft, false)
		for j := 0; j < len(s.points); {
			begin, end := j, j // as long as the color stays
			for j < len(s.points) && s.points[j].T-s.points[end].T <= 2*d.step().Milliseconds() && p.color(s.points[j].F) == p.color(s.points[begin].F) {
				end = j
				j++
			}
			bar := vg.Rectangle{
				Min: vg.Point{X: x(float64(s.points[begin].T) / 1000), Y: top - height + 2},
				Max: vg.Point{X: min(x(float64(s.points[end].T)/1000+d.step().Seconds()), box.Max.X), Y: top - 2},
			}
			d.canvas.FillPolygon(p.color(s.points[begin].F), corners(bar))
		}
	}
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
