package database

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

// Option changes what a DSN cannot express.
type Option func(*mysql.Config) error

// TLS encrypts all connections with config. If config names no server, the server's certificate
// must be for the DSN's host. The DSN's parameter tls must be true or missing.
func TLS(config *tls.Config) Option {
	return func(cfg *mysql.Config) error {
		switch {
		case cfg.TLSConfig != "" && cfg.TLSConfig != "true":
			return errors.New("its option tls contradicts the certificates: leave it out")
		case cfg.AllowFallbackToPlaintext: // a man in the middle could claim that the server has no TLS
			return errors.New("its option allowFallbackToPlaintext contradicts the certificates: leave it out")
		}
		cfg.TLS = config.Clone() // the driver sets its ServerName
		return nil
	}
}

// Defaults of the DSN's parameters timeout, readTimeout and writeTimeout.
const (
	dialTimeout  = 5 * time.Second
	readTimeout  = 15 * time.Second
	writeTimeout = 10 * time.Second
)

// parameter is what the package makes of one parameter of a DSN.
type parameter struct {
	allowed bool
	// value, if set, is the only value allowed.
	value string
	// why is a reason for people to whom the parameter is refused, or for readers of this table.
	why string
}

// parameters are those that the driver knows. Any other would set a variable of the session.
var parameters = map[string]parameter{
	"tls":                      {allowed: true, why: "the network decides"},
	"allowFallbackToPlaintext": {allowed: true, why: "the same"},
	"timeout":                  {allowed: true, why: "the network decides"},
	"readTimeout":              {allowed: true, why: "the same"},
	"writeTimeout":             {allowed: true, why: "the same"},
	"compress":                 {allowed: true, why: "the network decides, and the contents stay the same"},
	"connectionAttributes":     {allowed: true, why: "the server only shows them"},
	"allowCleartextPasswords":  {allowed: true, why: "the user's authentication decides"},
	"allowNativePasswords":     {allowed: true, why: "the same"},

	"parseTime": {allowed: true, value: "true", why: "the service sets it to true itself"},
	"loc":       {allowed: true, value: "UTC", why: "all times of the service are UTC"},
	"charset":   {allowed: true, value: "utf8mb4", why: "the service sets utf8mb4 itself, and another would end the quoting of arguments"},

	"allowAllFiles":     {why: "it lets the server read files of this machine"},
	"allowOldPasswords": {why: "no server that the service runs on needs it"},
	"checkConnLiveness": {why: "the service relies on the check of idle connections"},
	"clientFoundRows":   {why: "the service counts the rows that a statement matches, and sets it itself"},
	"collation":         {why: "the service sets the collation itself"},
	"columnsWithAlias":  {why: "the service could not find the columns of its queries"},
	"interpolateParams": {why: "the service sets it itself"},
	"maxAllowedPacket":  {why: "the service asks the server for it"},
	"multiStatements":   {why: "each text that the service sends is one statement"},
	"rejectReadOnly":    {why: "it hides the server's words; the service leaves a read-only server by itself"},
	"serverPubKey":      {why: "it needs a key that only a program can register"},
	"strict":            {why: "the driver no longer has it"},
	"timeTruncate":      {why: "times would lose digits that they are compared by"},
}

const otherParameter = "it would set a variable of the session, and the promises rest on those that the service sets"

var parameterName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)

// checkParameters returns an error about a parameter that is not allowed. It holds no value.
func checkParameters(list string) error {
	for each := range strings.SplitSeq(list, "&") {
		name, value, found := strings.Cut(each, "=")
		known, ok := parameters[name]
		switch {
		case each == "":
		case !parameterName.MatchString(name):
			return errors.New("it has a parameter whose name is not made of letters, digits and underscores: leave it out")
		case !found:
			return fmt.Errorf("its parameter %s has no value: write %s=VALUE", name, name)
		case !ok:
			for other := range parameters {
				if strings.EqualFold(name, other) {
					return fmt.Errorf("its parameter %s must be spelled %s", name, other)
				}
			}
			return fmt.Errorf("its parameter %s is refused: %s: leave it out", name, otherParameter)
		case !known.allowed, known.value != "" && known.value != value:
			return fmt.Errorf("its parameter %s is refused: %s: leave it out", name, known.why)
		}
	}
	return nil
}

// parseDSN returns the driver's configuration. Its errors hold nothing of the DSN but names of
// parameters: the driver's own may quote a part of the password.
func parseDSN(dsn string) (cfg *mysql.Config, err error) {
	says := "it must read user:password@tcp(host:3306)/database?option=value"
	if mark := strings.IndexByte(dsn, '?'); mark >= 0 && strings.LastIndexByte(dsn, '/') > mark {
		says += ", and a \"/\" in a value must be written %2F"
	}
	form := errors.New(says)
	defer func() {
		if recover() != nil { // the driver panics on an option that it no longer has
			cfg, err = nil, form
		}
	}()
	slash := strings.LastIndexByte(dsn, '/') + 1
	database, list, _ := strings.Cut(dsn[slash:], "?")
	if _, err := mysql.ParseDSN(dsn[:slash] + database); err != nil {
		return nil, form
	}
	if err := checkParameters(list); err != nil {
		return nil, err
	}
	cfg, err = mysql.ParseDSN(dsn)
	switch {
	case err != nil:
		return nil, form
	case cfg.DBName == "":
		return nil, errors.New("it names no database: " + says)
	case cfg.Timeout < 0 || cfg.ReadTimeout < 0 || cfg.WriteTimeout < 0:
		return nil, errors.New("timeout, readTimeout and writeTimeout must not be negative")
	}
	cfg.ParseTime, cfg.Loc = true, time.UTC
	cfg.InterpolateParams = true // the driver puts the arguments into the statement, which saves a round trip
	cfg.ClientFoundRows = true   // a row that an UPDATE matches counts, even if it does not change
	cfg.MaxAllowedPacket = 0     // the driver asks the server
	cfg.Timeout = cmp.Or(cfg.Timeout, dialTimeout)
	cfg.ReadTimeout = cmp.Or(cfg.ReadTimeout, readTimeout)
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, writeTimeout)
	cfg.Logger = &mysql.NopLogger{} // its messages are returned as errors too
	return cfg, nil
}
