package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-sql-driver/mysql"

	"preauth/internal/database"
	"preauth/repo"
)

// enoughPacket lets all statements of the service pass, in bytes.
const enoughPacket = 16 << 20

// examineMySQL looks at the database, its tables and the account's rights on them.
func (e *examination) examineMySQL(ctx context.Context) {
	e.group = "MySQL"
	var server database.Connection
	there := e.check(ctx, "connection", func(ctx context.Context) verdict {
		asked := now(e.Config)
		var err error
		if server, err = e.DB.Connection(ctx); err != nil {
			return problem(err.Error(), mysqlRemedy(err))
		}
		e.noteClock("MySQL", asked, now(e.Config), server.Now, mysqlClock)
		return ok(e.Database + ", " + server.Version)
	})
	if there.result != OK {
		e.skip("needs a connection to MySQL", "TLS", "limits", "rights", "schema", "durability", "owner")
		return
	}
	e.check(ctx, "TLS", func(context.Context) verdict {
		address, _ := e.database()
		switch {
		case server.Cipher != "":
			return ok(server.Cipher)
		case strings.HasPrefix(address, "/") || isLoopback(address): // a socket is a file
			return ok("none, on this machine")
		}
		return warning("none: codes cross the network in the clear", "name the server's authority with --mysql-ca ($MYSQL_CA)")
	})
	e.check(ctx, "limits", func(context.Context) verdict {
		switch {
		case server.MaxPacket < enoughPacket:
			return warning(fmt.Sprintf("max_allowed_packet is %d bytes: outcomes are saved in small batches, and a large failure not at all", server.MaxPacket),
				"set max_allowed_packet to 16 MiB or more in the server's configuration")
		case server.MaxConnections > 0 && server.MaxConnections < e.Connections:
			return warning(fmt.Sprintf("max_connections is %d, and a replica uses up to %d", server.MaxConnections, e.Connections),
				"raise max_connections of the server, or set a smaller --mysql-connections ($MYSQL_CONNECTIONS)")
		}
		return ok("")
	})
	e.check(ctx, "rights", func(ctx context.Context) verdict {
		denied, err := e.DB.Denied(ctx)
		switch {
		case err != nil:
			return problem(err.Error(), mysqlRemedy(err))
		case len(denied) > 0:
			return problem("the account lacks "+list(denied), e.grant(denied)+"; if a table is missing, run `preauth schema apply` before")
		}
		return ok("")
	})
	schema := e.check(ctx, "schema", func(ctx context.Context) verdict {
		if err := e.DB.Check(ctx); err != nil {
			remedy := cmp.Or(database.Remedy(err), schemaRemedy(err), mysqlRemedy(err))
			// The remedy may be a part of the text.
			return problem(strings.Replace(strings.TrimSuffix(err.Error(), ": "+remedy), remedy+": ", "", 1), remedy)
		}
		return ok("")
	})
	e.check(ctx, "durability", func(ctx context.Context) verdict {
		warnings, err := e.DB.Durability(ctx)
		if err != nil {
			return problem(err.Error(), mysqlRemedy(err))
		}
		var held, advice []string
		for _, w := range warnings {
			held = append(held, w.Setting+" is "+w.Value)
			advice = append(advice, w.Setting+": "+w.Advice)
		}
		if len(held) > 0 {
			return warning(list(held), strings.Join(advice, "; "))
		}
		return ok("")
	})
	if schema.result != OK {
		e.skip("needs the schema", "owner")
		return
	}
	e.check(ctx, "owner", func(ctx context.Context) verdict {
		err := e.DB.CheckOwner(ctx, repo.StreamSet{
			Tokens: e.Config.TokenStream, Updates: e.Config.UpdateStream, Failures: e.Config.FailureStream, Account: e.account,
		})
		switch {
		case errors.Is(err, repo.ErrOtherStreams):
			what, _ := cut(err)
			return problem(what, "name a database of its own in --mysql-dsn ($MYSQL_DSN); or, if the other service is gone, run `preauth schema adopt`")
		case err != nil:
			return problem(err.Error(), mysqlRemedy(err))
		}
		return ok("")
	})
}

// database returns the address of the database server and the database's name.
func (e *examination) database() (address, name string) {
	at := strings.LastIndexByte(e.Database, '/')
	return e.Database[:max(at, 0)], e.Database[at+1:]
}

// grant says how to give the account rights such as "DELETE on outbox".
func (e *examination) grant(rights []string) string {
	_, name := e.database()
	statements := make([]string, len(rights))
	for i, right := range rights {
		statements[i] = "GRANT " + strings.Replace(right, " on ", " ON "+name+".", 1)
	}
	return "as an administrator of the database, " + list(statements) + " TO the account of --mysql-dsn ($MYSQL_DSN)"
}

// schemaRemedy says what to change after [repo.Repo.Check], by what it said.
func schemaRemedy(err error) string {
	switch text := err.Error(); {
	case strings.Contains(text, "lacks the unique key"):
		return "add the key as `preauth schema print` shows it"
	case strings.Contains(text, "is missing"), errors.Is(err, repo.ErrNewerSchema):
		_, remedy, _ := strings.Cut(text, ": run ")
		return "run " + remedy
	case database.IsDenied(err):
		return "GRANT it, as docs/operation.md shows under MySQL"
	}
	return ""
}

// mysqlRemedy says what to change after an error of the database.
func mysqlRemedy(err error) string {
	if server, is := errors.AsType[*mysql.MySQLError](err); is {
		switch server.Number {
		case 1044, 1049:
			return "create the database (CREATE DATABASE), or correct its name in --mysql-dsn ($MYSQL_DSN), or grant the account its rights"
		case 1045, 1698:
			return "correct user and password in --mysql-dsn ($MYSQL_DSN), or create the account; MariaDB says so too if it wants TLS (--mysql-ca)"
		case 3159:
			return "name the server's authority with --mysql-ca ($MYSQL_CA): the server wants TLS"
		}
		return cmp.Or(database.Remedy(err), fmt.Sprintf("look at the server's log: it answers with error %d", server.Number))
	}
	switch {
	case errors.Is(err, mysql.ErrNoTLS):
		return "give the server a certificate, or leave out --mysql-ca ($MYSQL_CA)"
	case strings.Contains(err.Error(), "although the service set it"):
		return "let nothing between here and the server, such as a proxy, change what a session sets"
	}
	return networkRemedy(err, reach{"start the server", "--mysql-dsn ($MYSQL_DSN)", "--mysql-ca ($MYSQL_CA)", "--mysql-cert and --mysql-key"})
}
