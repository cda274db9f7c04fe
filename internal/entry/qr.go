package entry

import (
	"fmt"

	"github.com/yeqown/go-qrcode/v2"
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
	// There is nothing in the way of a screen, so the modules had better be few than redundant.
	code, err := qrcode.NewWith(text, qrcode.WithErrorCorrectionLevel(qrcode.ErrorCorrectionLow), qrcode.WithEncodingMode(qrcode.EncModeByte))
	if err != nil {
		return nil, fmt.Errorf("entry: QR code: %w", err)
	}
	d := &drawing{}
	if err := code.Save(d); err != nil {
		return nil, fmt.Errorf("entry: QR code: %w", err)
	}
	return d, nil
}

// Write draws the modules. It is how the library hands them over.
func (d *drawing) Write(m qrcode.Matrix) error {
	d.Size = m.Width() + 2*quiet
	var path []byte
	for y, row := range m.Bitmap() {
		for x := 0; x < len(row); x++ {
			from := x
			for x < len(row) && row[x] {
				x++
			}
			if x > from {
				path = fmt.Appendf(path, "M%d %dh%dv1h-%dz", from+quiet, y+quiet, x-from, x-from)
			}
		}
	}
	d.Path = string(path)
	return nil
}

// Close does nothing.
func (*drawing) Close() error { return nil }
