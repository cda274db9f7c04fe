package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/generate/bin"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/licensedetect/local"
	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// materials writes what a program is made of, as CycloneDX has it: the modules that are linked into
// it, with their checksums and licenses, and the standard library.
func (r release) materials(binary, to string) error {
	generator, err := bin.NewGenerator(binary, bin.WithLogger(zerolog.Nop()), bin.WithIncludeStdlib(true), bin.WithVersionOverride(r.version), bin.WithLicenseDetector(local.NewDetector(zerolog.Nop())))
	if err != nil {
		return fmt.Errorf("materials: %w", err)
	}
	bom, err := generator.Generate()
	if err != nil {
		return fmt.Errorf("materials: %w", err)
	}
	sum, err := digest(binary)
	if err != nil {
		return fmt.Errorf("materials: %w", err)
	}
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceOID, sum).URN() // the same for the same program
	bom.Metadata.Timestamp = r.date.Format(time.RFC3339)
	var encoded bytes.Buffer
	if err := cdx.NewBOMEncoder(&encoded, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return fmt.Errorf("materials: %w", err)
	}
	return os.WriteFile(to, encoded.Bytes(), 0o644) //nolint:gosec // everybody may read a release
}
