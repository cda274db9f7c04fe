package database_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"preauth/internal/database"
)

func TestOpenRefusesADSNThatCannotWork(t *testing.T) {
	const password = "hunter2hunter2"
	tests := map[string]struct{ dsn, says string }{
		"empty":                  {"", "database"},
		"not a DSN":              {password, "user:password@tcp"},
		"a URL":                  {"mysql://user:" + password + "@host:3306/db", "user:password@tcp"},
		"no database":            {"user:" + password + "@tcp(host:3306)/", "database"},
		"an unclosed address":    {"user:" + password + "@tcp(host:3306/db", "user:password@tcp"},
		"an unescaped name":      {"user:x@tcp(host)/db/" + password + "%zz", "user:password@tcp"},
		"an impossible time-out": {"user:x@tcp(host)/db?timeout=" + password, "user:password@tcp"},
		"an unknown TLS set-up":  {"user:" + password + "@tcp(host)/db?tls=" + password, "user:password@tcp"},
		"a negative time-out":    {"user:" + password + "@tcp(host)/db?readTimeout=-1s", "readTimeout"},
		"a slash in a value":     {"user:x@tcp(host)/db?loc=Asia/" + password, "%2F"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := database.Open(test.dsn, 1)
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), password) {
				t.Errorf("err = %v, want it to say %q and nothing of the DSN", err, test.says)
			}
		})
	}
	if _, err := database.Open("user:x@tcp(host)/db", 0); err == nil {
		t.Error("no connection at all is allowed")
	}
}

// A DSN says how to reach the server. What else it could say would end a promise, or hide a reason.
func TestOpenRefusesParameters(t *testing.T) {
	const value = "hunter2hunter2"
	for name, says := range map[string]string{
		"autocommit": "variable of the session", "completion_type": "variable of the session", "sql_mode": "variable of the session",
		"SQL_MODE": "variable of the session", "Sql_Mode": "variable of the session", "character_set_client": "variable of the session",
		"time_zone": "variable of the session", "transaction_isolation": "variable of the session", "tx_isolation": "variable of the session",
		"unique_checks": "variable of the session", "innodb_lock_wait_timeout": "variable of the session", "foo": "variable of the session",
		"columnsWithAlias": "columns", "timeTruncate": "digits", "multiStatements": "one statement", "interpolateParams": "itself",
		"rejectReadOnly": "words", "clientFoundRows": "counts", "collation": "itself", "parseTime": "true", "loc": "UTC", "charset": "utf8mb4",
		"allowAllFiles": "files", "allowOldPasswords": "needs", "checkConnLiveness": "idle", "maxAllowedPacket": "asks", "serverPubKey": "key",
		"strict": "no longer", "TLS": "spelled tls", "ReadTimeout": "spelled readTimeout",
	} {
		for _, dsn := range []string{"user:x@tcp(host)/db?" + name + "=" + value, "user:x@tcp(host)/db?tls=true&" + name + "=" + value + "&timeout=1s"} {
			_, err := database.Connector(dsn)
			if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), value) {
				t.Errorf("%s: err = %v, want it to say %q", name, err, says)
			}
		}
	}
	for _, list := range []string{
		"interpolateParams=false", "multiStatements=false", "columnsWithAlias=true", "timeTruncate=1s", "rejectReadOnly=true", "autocommit=0",
		"tls", "=1", "a-b=1", "tls=true&=", "parseTime=false", "charset=gbk", "charset=utf8mb4,utf8", "loc=Local",
	} {
		if _, err := database.Connector("user:x@tcp(host)/db?" + list); err == nil {
			t.Errorf("%s is taken", list)
		}
	}
	for _, list := range []string{
		"", "tls=skip-verify", "tls=preferred&allowFallbackToPlaintext=true", "timeout=1s&readTimeout=2s&writeTimeout=3s", "compress=true",
		"connectionAttributes=program:preauth", "allowCleartextPasswords=true&allowNativePasswords=false", "parseTime=true&loc=UTC&charset=utf8mb4",
	} {
		if _, err := database.Connector("user:x@tcp(host)/db?" + list); err != nil {
			t.Errorf("%s: %v", list, err)
		}
	}
}

// No error repeats the password, wherever it ends up when a DSN is parsed.
func FuzzConnector(f *testing.F) {
	for _, around := range [][2]string{
		{"", ""},
		{"user:", "@tcp(host:3306)/db?tls=preferred&timeout=1s"},
		{"user:", "/@tcp(host/db"},
		{"user:", "@host(x)/db?loc=%"},
		{"/", "?strict=1"},
		{"/db?tls=", ""},
		{"/db?serverPubKey=", ""},
		{"@tcp(h)/db?maxAllowedPacket=-1&collation=", "&charset=gbk"},
		{"user:", "@unix(/tmp/mysql.sock)/db"},
		{"user:", "@tcp(host:3306)/db?multiStatements=true"},
		{"user:", "@tcp(host:99999999)/db\x00"},
		{"user:", "@tcp([::1]:3306)/db?params=%00%ff&\xff=\xff"},
		{"mysql://user:", "@host/db"},
		{"user:", "@tcp(host)/db?timeout=-9223372036854775808ns&readTimeout=1e400s&writeTimeout=NaN"},
		{"user:", "@tcp(host)/db?connectionAttributes=a:b,c&maxAllowedPacket=9223372036854775808"},
		{strings.Repeat("(", 10_000), strings.Repeat("@tcp(", 10_000)},
		{"u:", "@tcp(h)/" + strings.Repeat("d", 100_000) + "?a=" + strings.Repeat("&a=", 10_000)},
		{"user:p@ss/w:ord?", "@tcp(h)/db?parseTime=\r\n"},
		{"", "?/"},
		{"", "/?/"},
	} {
		f.Add(around[0], around[1])
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		const password = "hunter2!hunter2" // which cannot be the name of a parameter
		dsn := before + password + after
		connector, err := database.Connector(dsn)
		if (connector == nil) == (err == nil) {
			t.Fatalf("%v, %v", connector, err)
		}
		r, openErr := database.Open(dsn, 1)
		if (openErr == nil) != (err == nil) {
			t.Errorf("Connector gives %v, Open %v", err, openErr)
		}
		if err == nil {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			return
		}
		for _, err := range []error{err, openErr} {
			text := err.Error()
			if strings.Contains(text, password) || len(text) > 300 || strings.ContainsAny(text, "\r\n\x00") || !strings.HasPrefix(text, "database: the MySQL DSN: ") {
				t.Errorf("the error is %q", text)
			}
			if errors.Unwrap(errors.Unwrap(err)) != nil {
				t.Errorf("%q wraps the driver's own words", text)
			}
		}
	})
}

// A server that took no TLS configuration over a connection, or has a certificate that nobody
// signed, is refused.
func TestTLSIsNotDropped(t *testing.T) {
	for _, dsn := range []string{server.DSN("test"), server.DSN("test") + "?tls=true"} {
		db, err := database.Open(dsn, 1, database.TLS(&tls.Config{RootCAs: x509.NewCertPool()}))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		_, err = db.Durability(t.Context())
		if err == nil || !strings.Contains(err.Error(), "TLS") && !strings.Contains(err.Error(), "x509") {
			t.Errorf("err = %v", err)
		}
	}
	for name, option := range map[string]string{"tls": "tls=skip-verify", "allowFallbackToPlaintext": "tls=true&allowFallbackToPlaintext=true"} {
		if _, err := database.Open(server.DSN("test")+"?"+option, 1, database.TLS(&tls.Config{})); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: err = %v", option, err)
		}
	}
}
