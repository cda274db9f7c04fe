package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"

	"preauth/repo"
)

// mysqlSettings open the database.
type mysqlSettings struct {
	DSN         string `name:"mysql-dsn" env:"MYSQL_DSN" placeholder:"DSN" help:"Database, as user:password@tcp(host:3306)/preauth. Prefer the variable or the file: a flag shows in the process list."`
	DSNFile     string `name:"mysql-dsn-file" env:"MYSQL_DSN_FILE" placeholder:"FILE" help:"File that holds the DSN, instead."`
	CA          string `name:"mysql-ca" env:"MYSQL_CA" placeholder:"FILE" help:"Certificate authority of the server, PEM: connects with TLS only, and to no other server."`
	Cert        string `name:"mysql-cert" env:"MYSQL_CERT" placeholder:"FILE" help:"Certificate of this client for TLS, PEM."`
	Key         string `name:"mysql-key" env:"MYSQL_KEY" placeholder:"FILE" help:"Key of that certificate, PEM."`
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
		content, err := contentOf(s.DSNFile)
		if err != nil {
			return nil, refuse("%s cannot be read: %w; it takes the name of a file with a DSN", flag, err)
		}
		dsn = strings.TrimSpace(string(content))
	}
	encryption, err := s.encryption()
	if err != nil {
		return nil, err
	}
	db, err := repo.Open(dsn, s.Connections, encryption...)
	if err != nil {
		return nil, refuse("%s: %w", flag, err)
	}
	return db, nil
}

// encryption returns how the files with certificates are used, and nothing where there are none. The client's
// are read again for each new connection.
func (s mysqlSettings) encryption() ([]repo.Option, error) {
	if (s.Cert == "") != (s.Key == "") {
		return nil, refuse("--mysql-cert ($MYSQL_CERT) and --mysql-key ($MYSQL_KEY) go together: give both or none")
	}
	if s.CA == "" && s.Cert == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		const must = "--mysql-ca ($MYSQL_CA) must name a PEM file with certificates: %w"
		authorities, err := contentOf(s.CA)
		if err != nil {
			return nil, refuse(must, err)
		}
		if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(authorities) {
			return nil, refuse(must, errOther)
		}
	}
	if s.Cert != "" {
		const must = "--mysql-cert ($MYSQL_CERT) and --mysql-key ($MYSQL_KEY) must name PEM files with a certificate and its key: %w"
		for _, file := range []string{s.Cert, s.Key} {
			if _, err := contentOf(file); err != nil {
				return nil, refuse(must, err)
			}
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
			if err != nil {
				return nil, errors.New("the client's certificate or its key cannot be read any more")
			}
			return &pair, nil
		}
		if _, err := config.GetClientCertificate(nil); err != nil {
			return nil, refuse(must, errOther)
		}
	}
	return []repo.Option{repo.TLS(config)}, nil
}

// errOther is wrong with a file that can be read.
var errOther = errors.New("this is another one")
