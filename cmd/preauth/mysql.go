package main

import (
	"os"
	"strings"

	"preauth/repo"
)

// mysqlSettings open the database.
type mysqlSettings struct {
	DSN         string `name:"mysql-dsn" env:"MYSQL_DSN" placeholder:"DSN" help:"Database, as user:password@tcp(host:3306)/preauth. Prefer the variable or the file: a flag shows in the process list."`
	DSNFile     string `name:"mysql-dsn-file" env:"MYSQL_DSN_FILE" placeholder:"FILE" help:"File that holds the DSN, instead."`
	Connections int    `name:"mysql-connections" env:"MYSQL_CONNECTIONS" default:"16" range:"2..10000" help:"Connections to the database at most."`
}

// open returns the database, which need not be there yet.
func (s mysqlSettings) open() (*repo.Repo, error) {
	flag, dsn := "--mysql-dsn ($MYSQL_DSN)", s.DSN
	switch {
	case s.DSN == "" && s.DSNFile == "":
		return nil, refuse("no database: name one with --mysql-dsn ($MYSQL_DSN) or --mysql-dsn-file ($MYSQL_DSN_FILE)")
	case s.DSN != "" && s.DSNFile != "":
		return nil, refuse("--mysql-dsn ($MYSQL_DSN) and --mysql-dsn-file ($MYSQL_DSN_FILE) cannot be used together: keep one of them")
	case s.DSNFile != "":
		flag = "--mysql-dsn-file ($MYSQL_DSN_FILE)"
		if err := readable(s.DSNFile); err != nil {
			return nil, refuse("%s cannot be read: %w; it takes the name of a file with a DSN", flag, err)
		}
		content, err := os.ReadFile(s.DSNFile)
		if err != nil {
			return nil, err
		}
		dsn = strings.TrimSpace(string(content))
	}
	db, err := repo.Open(dsn, s.Connections)
	if err != nil {
		return nil, refuse("%s: %w", flag, err)
	}
	return db, nil
}
