package main

import (
	"image/color"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// plotFile writes a plot as SVG, if there is a directory for plots.
func (b *bench) plotFile(name string, p *plot.Plot, width, height vg.Length) error {
	if b.plots == "" {
		return nil
	}
	if err := os.MkdirAll(b.plots, 0o750); err != nil {
		return err
	}
	p.BackgroundColor = color.White
	return p.Save(width, height, filepath.Join(b.plots, name+".svg"))
}

// plotCurve draws the medians with the smallest and the largest of the rounds.
func (b *bench) plotCurve(name, title, x, y string, logarithmic bool, c curve) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
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
	color.RGBA{0x86, 0xbc, 0xb6, 255},
}

// plotStack draws a bar for each name, of the parts one after the other.
func (b *bench) plotStack(name, title, unit string, names, parts []string, bars [][]float64) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text = title, unit
	p.Legend.Top = true
	p.NominalY(names...)
	var below *plotter.BarChart
	for i, part := range parts {
		values := make(plotter.Values, len(names))
		for j := range names {
			values[j] = max(0, bars[j][i])
		}
		chart, err := plotter.NewBarChart(values, vg.Centimeter)
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
	p.X.Max *= 1.6 // room for the legend
	return b.plotFile(name, p, 22*vg.Centimeter, 9*vg.Centimeter)
}
