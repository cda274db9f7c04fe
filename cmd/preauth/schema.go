package main

import (
	"context"
	"encoding/json"
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
	Print  schemaPrint  `cmd:"" help:"Print the schema, for a database that you manage yourself."`
	Status schemaStatus `cmd:"" help:"Show the version of the database's schema, and what it lacks."`
	Apply  schemaApply  `cmd:"" help:"Create what the database lacks of the schema, and change tables of an older release. Safe to repeat."`
	Adopt  schemaAdopt  `cmd:"" help:"Give the database to the service with the named streams. Stop the service that it belonged to before."`
}

type schemaPrint struct{}

// Run prints the schema.
func (schemaPrint) Run(to app.Stdio) error {
	_, err := io.WriteString(to.Out, preauth.Schema)
	return err
}

type schemaStatus struct {
	MySQL app.MySQL `embed:"" group:"mysql"`

	JSON bool `name:"json" help:"Print one JSON object, with the statements that are missing."`
}

// Run prints how far the schema is. It returns an error if the service could not work with it.
func (c schemaStatus) Run(ctx context.Context, to app.Stdio) (err error) {
	db, err := c.MySQL.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	schema, err := db.Schema(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return errors.Join(json.NewEncoder(to.Out).Encode(schema), schema.Check())
	}
	fmt.Fprintf(to.Out, "The database has version %d of the schema, and this program is made for version %d.\n", schema.Version, schema.Wanted)
	if len(schema.Missing) > 0 {
		fmt.Fprintln(to.Out, "What is missing:")
		for _, m := range schema.Missing {
			fmt.Fprintf(to.Out, "  %d  %s\n", m.Version, m.Name)
		}
	}
	return schema.Check()
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
