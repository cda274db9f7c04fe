package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"preauth"
	"preauth/internal/app"
	"preauth/repo"
)

// schemaCommand is about the database schema.
type schemaCommand struct {
	Print schemaPrint `cmd:"" help:"Print the schema, for a database that you manage yourself."`
	Apply schemaApply `cmd:"" help:"Create what the database lacks of the schema. Safe to repeat."`
	Adopt schemaAdopt `cmd:"" help:"Give the database to the service with the named streams. Stop the service that it belonged to before."`
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

type schemaAdopt struct {
	MySQL   app.MySQL       `embed:"" group:"mysql"`
	Streams app.StreamNames `embed:"" group:"streams"`
}

// Run gives the database to the streams.
func (c schemaAdopt) Run(ctx context.Context, to app.Stdio) (err error) {
	db, err := c.MySQL.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	// The service records its NATS account when it starts.
	streams := repo.StreamSet{Tokens: c.Streams.Tokens, Updates: c.Streams.Updates, Failures: c.Streams.Failures}
	before, err := db.Adopt(ctx, streams, time.Now())
	switch {
	case err != nil:
		return err
	case before == repo.StreamSet{}:
		fmt.Fprintf(to.Out, "The database belongs to the streams %s.\n", streams)
	default:
		fmt.Fprintf(to.Out, "The database belonged to the streams %s, and belongs to %s now.\n", before, streams)
	}
	return nil
}
