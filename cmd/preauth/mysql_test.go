package main

import (
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	_ "github.com/go-sql-driver/mysql" // for database/sql

	"preauth/internal/mysqlserver"
)

// The server accepts TLS only, and one of its users must have a certificate.
func TestMySQLOverTLS(t *testing.T) {
	t.Parallel()
	files := newCertificates(t)
	options := mysqlserver.TestOptions()
	options.DSN, options.Engine = "", mysqlserver.MariaDB
	options.Arguments = []string{"--ssl-cert=" + files.serverCert, "--ssl-key=" + files.serverKey, "--ssl-ca=" + files.ca}
	database, err := mysqlserver.Start(t.Context(), options)
	if errors.Is(err, mysqlserver.ErrNotFound) {
		t.Skip("no database server of its own:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := database.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := database.CreateDatabase(t.Context(), "preauth"); err != nil {
		t.Fatal(err)
	}
	root, err := sql.Open("mysql", database.DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	root.SetMaxOpenConns(1) // an open connection is not affected by require_secure_transport
	exec := func(statements ...string) {
		t.Helper()
		for _, statement := range statements {
			if _, err := root.ExecContext(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		}
	}
	exec(
		"CREATE USER plain@'%' IDENTIFIED BY '"+secret+"'", "CREATE USER certified@'%' IDENTIFIED BY '"+secret+"' REQUIRE X509",
		"GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON preauth.* TO plain@'%', certified@'%'",
		"SET GLOBAL require_secure_transport = ON",
	)
	dsn := func(user, host string) string {
		return fmt.Sprintf("--mysql-dsn=%s:%s@tcp(%s)/preauth", user, secret, strings.Replace(database.Addr(), "127.0.0.1", host, 1))
	}
	ca := "--mysql-ca=" + files.ca
	certificate := []string{"--mysql-cert=" + files.clientCert, "--mysql-key=" + files.clientKey}

	_, admin := serve(t, append(certificate, ca, dsn("certified", "127.0.0.1"), "--nats-url="+newNATS(t).URL(), "--schema-apply")...)
	awaitReady(t, admin)

	another := newCertificates(t)
	tests := []struct {
		name string
		args []string
		says string // "": the schema is applied
	}{
		{"with its authority", []string{ca, dsn("plain", "127.0.0.1")}, ""},
		{"with its authority, and TLS in the DSN too", []string{ca, dsn("plain", "127.0.0.1") + "?tls=true"}, ""},
		{"with whatever certificate it has", []string{dsn("plain", "127.0.0.1") + "?tls=skip-verify"}, ""},
		// MariaDB says the first, MySQL the second.
		{"without TLS", []string{dsn("plain", "127.0.0.1")}, "Error 1045 |insecure transport"},
		{"with the system's authorities", []string{dsn("plain", "127.0.0.1") + "?tls=true"}, "certificate signed by unknown authority"},
		{"with another authority", []string{"--mysql-ca=" + another.ca, dsn("plain", "127.0.0.1")}, "certificate signed by unknown authority"},
		{"by another name", []string{ca, dsn("plain", "localhost")}, "certificate is not valid for any names, but wanted to match localhost"},
		{"without the certificate that the user needs", []string{ca, dsn("certified", "127.0.0.1")}, "Error 1045 \\(28000\\): Access denied for user 'certified'@"},
		{"with a certificate of another authority", []string{ca, "--mysql-cert=" + another.clientCert, "--mysql-key=" + another.clientKey, dsn("certified", "127.0.0.1")}, "tls: unknown certificate authority|connection|EOF"},
	}
	apply := func(t *testing.T, says string, args ...string) {
		t.Helper()
		status, out, stderr := do(t, append([]string{"schema", "apply"}, args...)...)
		if says == "" && (status != 0 || out != "The schema is applied.\n") {
			t.Errorf("status %d, %q, %q; want the schema to be applied", status, out, stderr)
		}
		if says != "" && (status != 1 || !regexp.MustCompile(says).MatchString(stderr)) {
			t.Errorf("status %d, %q; want 1 and %q", status, stderr, says)
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { apply(t, test.says, test.args...) })
	}
	t.Run("after its certificate has expired", func(t *testing.T) {
		files.issue(t, "server", x509.ExtKeyUsageServerAuth, expired)
		exec("FLUSH SSL")
		apply(t, "certificate has expired or is not yet valid", ca, dsn("plain", "127.0.0.1"))
	})
}
