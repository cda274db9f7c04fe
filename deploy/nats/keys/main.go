// Command keys makes the keys and credentials with which the roles of accounts.conf log in to NATS:
//
//	go -C deploy/nats/keys run . [-rules ../accounts.conf] [DIR]
//
// DIR must not exist yet; without it, the command creates deploy/nats/keys.d. It writes these files
// for each role:
//
//	ROLE.nk      the seed of its nkey, for a server with nkeys.conf
//	ROLE.creds   a JWT with its rights and a seed, for a server with operator.conf
//
// and these for the servers:
//
//	nkeys.env      the public keys, which nkeys.conf reads from the environment
//	accounts.conf  the JWTs of the operator and the accounts, which operator.conf includes
//
// It also writes the seeds that sign: sign-operator.nk, and sign-ACCOUNT.nk for each account. You
// need them to add users or to change rights. Anybody who has one can make credentials: keep them
// away from servers and clients. Only their owner can read the files.
//
// It is a module of its own, because the service needs neither JWTs nor the parser of nats-server.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nkeys"
)

func main() {
	rules := flag.String("rules", "../accounts.conf", "accounts and permissions, as nats-server reads them")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "Usage: go -C deploy/nats/keys run . [-rules FILE] [DIR]\n\nCreates DIR, or else deploy/nats/keys.d, with the keys of all roles.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 1 {
		fmt.Fprintln(os.Stderr, "keys: name one directory to create")
		flag.Usage()
		os.Exit(2)
	}
	if err := write(*rules, cmp.Or(flag.Arg(0), "../keys.d")); err != nil {
		fmt.Fprintln(os.Stderr, "keys:", err)
		os.Exit(1)
	}
}

// ruleset is the content of accounts.conf, which uses only a part of the syntax that nats-server
// knows.
type ruleset struct {
	Accounts      map[string]account `json:"accounts"`
	SystemAccount string             `json:"system_account"`
}

type account struct {
	JetStream string        `json:"jetstream"`
	Users     []user        `json:"users"`
	Exports   []export      `json:"exports"`
	Imports   []importation `json:"imports"`
}

type user struct {
	NKey        string      `json:"nkey"`
	Permissions permissions `json:"permissions"`
}

type permissions struct {
	Publish   jwt.StringList `json:"publish"`
	Subscribe jwt.StringList `json:"subscribe"`
}

// export is the export of a service or of a stream. An importation is the import of one.
type export struct {
	Service      jwt.Subject `json:"service"`
	Stream       jwt.Subject `json:"stream"`
	ResponseType string      `json:"response_type"`
	Accounts     []string    `json:"accounts"`
}

type importation struct {
	Service origin `json:"service"`
	Stream  origin `json:"stream"`
}

type origin struct {
	Account string      `json:"account"`
	Subject jwt.Subject `json:"subject"`
}

// variable matches the public key of a role in accounts.conf.
var variable = regexp.MustCompile(`\$NKEY_([A-Z]+)`)

// write creates the directory and its files.
func write(rules, dir string) error {
	text, err := os.ReadFile(rules)
	if err != nil {
		return err
	}
	files := map[string][]byte{} // by name
	keys := map[string]key{}     // of the roles, by public key
	var env strings.Builder
	for _, name := range variable.FindAllStringSubmatch(string(text), -1) {
		role, err := newKey(strings.ToLower(name[1]), nkeys.CreateUser)
		if err != nil {
			return err
		}
		keys[role.public], files[role.name+".nk"] = role, role.seed
		fmt.Fprintf(&env, "NKEY_%s=%s\n", name[1], role.public)
		if err := os.Setenv("NKEY_"+name[1], role.public); err != nil { // for conf
			return err
		}
	}
	files["nkeys.env"] = []byte(env.String())
	parsed, err := conf.ParseFile(rules)
	if err != nil {
		return err
	}
	var r ruleset
	if text, err = json.Marshal(parsed); err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", rules, err)
	}
	if err := r.sign(keys, files); err != nil {
		return fmt.Errorf("%s: %w", rules, err)
	}
	switch err := os.Mkdir(dir, 0o700); {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s exists: name another directory, or remove it if no server and no client needs its keys", dir)
	case err != nil:
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// key is a key pair with a name.
type key struct {
	nkeys.KeyPair
	name, public string
	seed         []byte
}

func newKey(name string, create func() (nkeys.KeyPair, error)) (k key, err error) {
	k.name = name
	if k.KeyPair, err = create(); err != nil {
		return key{}, err
	}
	k.public, err = k.PublicKey()
	if err != nil {
		return key{}, err
	}
	k.seed, err = k.Seed()
	return k, err
}

// sign adds the files for operator.conf: JWTs and credentials.
func (r ruleset) sign(users map[string]key, files map[string][]byte) error {
	operator, err := newKey("operator", nkeys.CreateOperator)
	if err != nil {
		return err
	}
	accounts := map[string]key{}
	for name := range r.Accounts {
		if accounts[name], err = newKey(name, nkeys.CreateAccount); err != nil {
			return err
		}
		files["sign-"+name+".nk"] = accounts[name].seed
	}
	files["sign-operator.nk"] = operator.seed
	claims := jwt.NewOperatorClaims(operator.public)
	claims.Name, claims.SystemAccount = "preauth", accounts[r.SystemAccount].public
	signed, err := encode(claims, operator)
	if err != nil {
		return err
	}
	var server strings.Builder
	fmt.Fprintf(&server, "operator: %s\nresolver: MEMORY\nresolver_preload {\n", signed)
	for _, name := range slices.Sorted(maps.Keys(r.Accounts)) {
		accountClaims, err := r.claims(name, accounts)
		if err != nil {
			return err
		}
		if signed, err = encode(accountClaims, operator); err != nil {
			return err
		}
		fmt.Fprintf(&server, "  %s: %s\n", accountClaims.Subject, signed)
		for _, u := range r.Accounts[name].Users {
			role := users[u.NKey]
			claims := jwt.NewUserClaims(role.public)
			claims.Name = role.name
			claims.Pub.Allow, claims.Sub.Allow = u.Permissions.Publish, u.Permissions.Subscribe
			if signed, err = encode(claims, accounts[name]); err != nil {
				return err
			}
			if files[role.name+".creds"], err = jwt.FormatUserConfig(signed, role.seed); err != nil {
				return err
			}
		}
	}
	server.WriteString("}\n")
	files["accounts.conf"] = []byte(server.String())
	return nil
}

// claims returns the claims of an account, which the operator signs.
func (r ruleset) claims(name string, keys map[string]key) (*jwt.AccountClaims, error) {
	claims := jwt.NewAccountClaims(keys[name].public)
	claims.Name = name
	if r.Accounts[name].JetStream == "enabled" {
		claims.Limits.JetStreamLimits = jwt.JetStreamLimits{
			MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
		}
	}
	for _, e := range r.Accounts[name].Exports {
		exported := &jwt.Export{Subject: cmp.Or(e.Service, e.Stream), Type: jwt.Stream, TokenReq: true}
		if e.Service != "" {
			exported.Type, exported.ResponseType = jwt.Service, jwt.ResponseTypeSingleton
		}
		if e.ResponseType == "stream" {
			exported.ResponseType = jwt.ResponseTypeStream
		}
		claims.Exports.Add(exported)
	}
	for _, i := range r.Accounts[name].Imports {
		from, kind := i.Service, jwt.Service
		if from.Account == "" {
			from, kind = i.Stream, jwt.Stream
		}
		exporter := r.Accounts[from.Account]
		if !slices.ContainsFunc(exporter.Exports, func(e export) bool {
			return cmp.Or(e.Service, e.Stream) == from.Subject && slices.Contains(e.Accounts, name)
		}) {
			return nil, fmt.Errorf("%s imports %s, which %s does not export to it", name, from.Subject, from.Account)
		}
		activation := jwt.NewActivationClaims(keys[name].public)
		activation.ImportSubject, activation.ImportType = from.Subject, kind
		token, err := encode(activation, keys[from.Account])
		if err != nil {
			return nil, err
		}
		claims.Imports.Add(&jwt.Import{Subject: from.Subject, Account: keys[from.Account].public, Type: kind, Token: token})
	}
	return claims, nil
}

// encode validates the claims and returns the signed JWT.
func encode(claims jwt.Claims, by nkeys.KeyPair) (string, error) {
	var results jwt.ValidationResults
	claims.Validate(&results)
	if err := errors.Join(results.Errors()...); err != nil {
		return "", err
	}
	return claims.Encode(by)
}
