package main

import (
	"context"
	"fmt"
	"io"

	"preauth"
	"preauth/internal/app"
)

// schemaCommand is about the database schema.
type schemaCommand struct {
	Print schemaPrint `cmd:"" help:"Print the schema, for a database that you manage yourself."`
	Apply schemaApply `cmd:"" help:"Create what the database lacks of the schema. Safe to repeat."`
}

type schemaPrint struct{}

// Run prints the schema.
func (schemaPrint) Run(to app.Stdio) error {
	_, err := io.WriteString(to.Out, preauth.Schema)
	return err
}

type schemaApply struct {
	MySQL app.MySQL `embed:"" group:"mysql"`
}

// Run applies the schema.
func (c schemaApply) Run(ctx context.Context, to app.Stdio) error {
	if err := c.MySQL.ApplySchema(ctx); err != nil {
		return err
	}
	fmt.Fprintln(to.Out, "The schema is applied.")
	return nil
}
