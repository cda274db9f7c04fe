package main

import (
	"bytes"
	"image/color"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// newPlot returns an empty plot.
func newPlot(title, x, y string) *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = 3 * vg.Millimeter
	return p
}

// plotFile writes a plot as SVG, if there is a directory for plots.
func (b *bench) plotFile(name string, p *plot.Plot, width, height vg.Length) error {
	if b.plots == "" {
		return nil
	}
	image, err := p.WriterTo(width, height, "svg")
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if _, err := image.WriteTo(&text); err != nil {
		return err
	}
	// Where the font is missing, one of the same widths.
	drawn := bytes.ReplaceAll(text.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif"))
	if err := os.MkdirAll(b.plots, 0o750); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.plots, name+".svg"), drawn, 0o600)
}

// plotCurve draws the medians with the smallest and the largest of the rounds.
func (b *bench) plotCurve(name, title, x, y string, logarithmic bool, c curve) error {
	p := newPlot(title, x, y)
	p.Y.Min = 0
	if logarithmic {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	points := make(plotter.XYs, len(c.x))
	spread := make(plotter.YErrors, len(c.x))
	for i := range c.x {
		m := median(c.rounds[i])
		points[i] = plotter.XY{X: c.x[i], Y: m}
		spread[i].Low, spread[i].High = m-slices.Min(c.rounds[i]), slices.Max(c.rounds[i])-m
	}
	line, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	bars, err := plotter.NewYErrorBars(struct {
		plotter.XYer
		plotter.YErrorer
	}{points, spread})
	if err != nil {
		return err
	}
	p.Add(plotter.NewGrid(), line, dots, bars)
	if logarithmic {
		p.X.Max *= 1.2 // room for its label
	}
	return b.plotFile(name, p, 16*vg.Centimeter, 9*vg.Centimeter)
}

// palette tells the parts of a bar apart.
var palette = []color.Color{
	color.RGBA{0x4e, 0x79, 0xa7, 255},
	color.RGBA{0xf2, 0x8e, 0x2b, 255},
	color.RGBA{0xe1, 0x57, 0x59, 255},
	color.RGBA{0x76, 0xb7, 0xb2, 255},
	color.RGBA{0x59, 0xa1, 0x4f, 255},
	color.RGBA{0xed, 0xc9, 0x48, 255},
	color.RGBA{0xb0, 0x7a, 0xa1, 255},
	color.RGBA{0xff, 0x9d, 0xa7, 255},
	color.RGBA{0x9c, 0x75, 0x5f, 255},
	color.RGBA{0xba, 0xb0, 0xac, 255},
	color.RGBA{0x2f, 0x4b, 0x7c, 255},
}

// plotStack draws a bar for each name, of the parts one after the other.
func (b *bench) plotStack(name, title, unit string, names, parts []string, bars [][]float64) error {
	p := newPlot(title, unit, "")
	const width = 24 * vg.Centimeter
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs = true, true, width*6/10
	p.NominalY(names...)
	var below *plotter.BarChart
	for i, part := range parts {
		values := make(plotter.Values, len(names))
		for j := range names {
			values[j] = max(0, bars[j][i])
		}
		chart, err := plotter.NewBarChart(values, 18*vg.Millimeter)
		if err != nil {
			return err
		}
		chart.Horizontal, chart.Color = true, palette[i%len(palette)]
		chart.LineStyle.Width = 0
		if below != nil {
			chart.StackOn(below)
		}
		p.Add(chart)
		p.Legend.Add(part, chart)
		below = chart
	}
	p.X.Max *= 1.75 // room for the legend
	p.Y.Min, p.Y.Max = -0.6, float64(len(names))-0.4
	return b.plotFile(name, p, width, 8*vg.Centimeter)
}
