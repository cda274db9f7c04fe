package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"

	"github.com/go-sql-driver/mysql"

	"preauth/internal/database"
	"preauth/repo"
)

// MySQL is how to open the database.
type MySQL struct {
	DSN         string `name:"mysql-dsn" env:"MYSQL_DSN" placeholder:"DSN" help:"Database, as user:password@tcp(host:3306)/preauth. Prefer the variable or the file: flags show in the process list."`
	DSNFile     string `name:"mysql-dsn-file" env:"MYSQL_DSN_FILE" placeholder:"FILE" help:"File that contains the DSN, instead of --mysql-dsn."`
	CA          string `name:"mysql-ca" env:"MYSQL_CA" placeholder:"FILE" help:"Certificate authority of the server, PEM. With it, preauth connects over TLS only, and only to a server with a certificate of this authority."`
	Cert        string `name:"mysql-cert" env:"MYSQL_CERT" placeholder:"FILE" help:"TLS certificate of this client, PEM."`
	Key         string `name:"mysql-key" env:"MYSQL_KEY" placeholder:"FILE" help:"Key of that certificate, PEM."`
	Connections int    `name:"mysql-connections" env:"MYSQL_CONNECTIONS" default:"16" range:"2..10000" help:"Most connections to the database, per replica."`
}

// dsn returns the DSN and the flag that it comes from.
func (s MySQL) dsn() (dsn, flag string, err error) {
	switch {
	case s.DSN == "" && s.DSNFile == "":
		return "", "", UsageErrorf("no database: name one with --mysql-dsn ($MYSQL_DSN) or --mysql-dsn-file ($MYSQL_DSN_FILE)")
	case s.DSN != "" && s.DSNFile != "":
		return "", "", UsageErrorf("--mysql-dsn ($MYSQL_DSN) and --mysql-dsn-file ($MYSQL_DSN_FILE) cannot be used together: keep one of them")
	case s.DSN != "":
		return s.DSN, "--mysql-dsn ($MYSQL_DSN)", nil
	}
	flag = "--mysql-dsn-file ($MYSQL_DSN_FILE)"
	content, err := contentOf(s.DSNFile)
	if err != nil {
		return "", "", UsageErrorf("%s cannot be read: %w; it must name a file that contains a DSN", flag, err)
	}
	return strings.TrimSpace(string(content)), flag, nil
}

// where returns the address and the name of the database, without user and password.
func (s MySQL) where() string {
	dsn, _, err := s.dsn()
	if err != nil {
		return ""
	}
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		return ""
	}
	return config.Addr + "/" + config.DBName
}

// Open returns the database. It does not connect yet.
func (s MySQL) Open() (*repo.Repo, error) {
	dsn, flag, err := s.dsn()
	if err != nil {
		return nil, err
	}
	encryption, err := s.encryption()
	if err != nil {
		return nil, err
	}
	db, err := repo.Open(dsn, s.Connections, encryption...)
	if err != nil {
		return nil, UsageErrorf("%s: %w", flag, err)
	}
	return db, nil
}

// encryption returns the TLS option for the certificate files, or nothing if there are none. The
// client's files are read again for each new connection.
func (s MySQL) encryption() ([]database.Option, error) {
	if (s.Cert == "") != (s.Key == "") {
		return nil, UsageErrorf("--mysql-cert ($MYSQL_CERT) and --mysql-key ($MYSQL_KEY) go together: give both or none")
	}
	if s.CA == "" && s.Cert == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		const flag = "--mysql-ca ($MYSQL_CA)"
		authorities, err := contentOf(s.CA)
		if err != nil {
			return nil, UsageErrorf("%s must name a PEM file with certificates: %w", flag, err)
		}
		if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(authorities) {
			return nil, UsageErrorf("%s names a file that contains no PEM certificate", flag)
		}
	}
	if s.Cert != "" {
		const must = "--mysql-cert ($MYSQL_CERT) and --mysql-key ($MYSQL_KEY) must name PEM files with a certificate and its key"
		for _, file := range []string{s.Cert, s.Key} {
			if _, err := contentOf(file); err != nil {
				return nil, UsageErrorf(must+": %w", err)
			}
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
			if err != nil {
				return nil, errors.New("the client's certificate or its key can no longer be read")
			}
			return &pair, nil
		}
		if _, err := config.GetClientCertificate(nil); err != nil {
			return nil, UsageErrorf(must + ": these files contain something else")
		}
	}
	return []database.Option{database.TLS(config)}, nil
}

// ApplySchema creates what the database lacks of the schema. The database itself must exist.
func (s MySQL) ApplySchema(ctx context.Context) (err error) {
	db, err := s.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.ApplySchema(ctx)
}
