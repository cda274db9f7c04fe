package entry

import (
	"fmt"
	"image/color"

	"github.com/boombuler/barcode/qr"
)

// drawing is a QR code as the page draws it.
type drawing struct {
	// Size is the length of a side in modules, with the quiet zone.
	Size int
	// Path draws the dark modules, as SVG has it.
	Path string
}

// quiet is the width of the light zone that a QR code needs around it, in modules.
const quiet = 4

// drawQR draws a QR code of a text.
func drawQR(text string) (*drawing, error) {
	// Nothing hides a part of a screen, so the lowest error correction and the fewest modules will do.
	code, err := qr.Encode(text, qr.L, qr.Unicode)
	if err != nil {
		return nil, fmt.Errorf("entry: QR code: %w", err)
	}
	size := code.Bounds().Dx()
	dark := func(x, y int) bool { return x < size && code.At(x, y) == color.Black }
	var path []byte
	for y := range size {
		for x := 0; x < size; x++ {
			from := x
			for dark(x, y) {
				x++
			}
			if x > from {
				path = fmt.Appendf(path, "M%d %dh%dv1h-%dz", from+quiet, y+quiet, x-from, x-from)
			}
		}
	}
	return &drawing{Size: size + 2*quiet, Path: string(path)}, nil
}
