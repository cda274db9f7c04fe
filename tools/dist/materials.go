package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/generate/bin"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/licensedetect/local"
	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// materials writes what a program is made of, as CycloneDX has it: the modules that are linked into
// it, with their checksums and licenses, and the standard library.
func (r release) materials(ctx context.Context, p program, binary, to string) error {
	detector := local.NewDetector(zerolog.Nop())
	generator, err := bin.NewGenerator(binary, bin.WithLogger(zerolog.Nop()), bin.WithIncludeStdlib(true), bin.WithVersionOverride(r.version), bin.WithLicenseDetector(detector))
	if err != nil {
		return fmt.Errorf("materials: %w", err)
	}
	bom, err := generator.Generate()
	if err != nil {
		return fmt.Errorf("materials: %w", err)
	}
	// The bridge's go.mod replaces the root's module with a directory. The generator cannot download
	// that module, nor those that it asks for in the same call, so it finds no licenses for them.
	components := *bom.Components
	for i := range components {
		switch c := &components[i]; {
		case c.Name == replaced:
			c.Name, c.Version = "preauth", r.version
		case c.Name != "std" && c.Evidence == nil:
			directory, err := output(ctx, filepath.Join(r.root, p.module), "env", "GOFLAGS=", "GOWORK=off", "go", "list", "-m", "-f", "{{.Dir}}", c.Name)
			if err != nil {
				return fmt.Errorf("materials: %w", err)
			}
			licenses, err := detector.Detect(c.Name, c.Version, strings.TrimSpace(directory))
			if err != nil {
				return fmt.Errorf("materials: %w", err)
			}
			c.Evidence = &cdx.Evidence{Licenses: choices(licenses)}
		}
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
	named := bytes.ReplaceAll(encoded.Bytes(), []byte("pkg:golang/"+replaced+"@(devel)"), []byte("pkg:golang/preauth@"+r.version))
	return os.WriteFile(to, named, 0o644) //nolint:gosec // everybody may read a release
}

// replaced is how the bridge's go.mod names the root's module.
const replaced = "../"

// choices returns licenses as a component has them.
func choices(licenses []cdx.License) *cdx.Licenses {
	choices := make(cdx.Licenses, len(licenses))
	for i := range licenses {
		choices[i].License = &licenses[i]
	}
	return &choices
}
