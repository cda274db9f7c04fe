package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"preauth"
)

// schemaCommand is about the database schema.
type schemaCommand struct {
	Print schemaPrint `cmd:"" help:"Print the schema, for a database that somebody else manages."`
	Apply schemaApply `cmd:"" help:"Create what the database lacks of the schema. Safe to repeat."`
}

type schemaPrint struct{}

// Run prints the schema.
func (schemaPrint) Run(to streams) error {
	_, err := io.WriteString(to.out, preauth.Schema)
	return err
}

type schemaApply struct {
	mysqlSettings `group:"mysql"`
}

// Run applies the schema.
func (c schemaApply) Run(ctx context.Context, to streams) error {
	if err := c.applySchema(ctx); err != nil {
		return err
	}
	fmt.Fprintln(to.out, "The schema is applied.")
	return nil
}

// applySchema creates what the database, which has to be there, lacks of the schema.
func (s mysqlSettings) applySchema(ctx context.Context) (err error) {
	db, err := s.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.ApplySchema(ctx)
}
