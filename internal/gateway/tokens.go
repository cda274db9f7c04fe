package gateway

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"preauth"
)

// all stands for every operation or every component in a tokens file.
const all = "*"

// hashPrefix begins the second field of a line. It names how the token is hashed: a token has too
// many random bits to be guessed, so one round of SHA-256 is enough.
const hashPrefix = "sha256:"

// Tokens say who may do what. A file has them, with a line for each token:
//
//	shop  sha256:9f86…  claim,lookup,resolve  wx0123456789abcdef,wxacme*
//
// The fields are a name, the hash, operations and patterns of components, as of [path.Match]. Empty
// lines and lines that begin with # do not count.
type Tokens struct{ grants []grant }

// grant is what the bearer of a token may do.
type grant struct {
	name       string
	hash       [sha256.Size]byte
	operations []string
	components []string
}

// may reports whether an operation is allowed.
func (g *grant) may(operation string) bool {
	return slices.Contains(g.operations, all) || slices.Contains(g.operations, operation)
}

// mayFor reports whether a component is allowed.
func (g *grant) mayFor(appid string) bool {
	return slices.ContainsFunc(g.components, func(pattern string) bool {
		matches, err := path.Match(pattern, appid)
		return err == nil && matches
	})
}

// mayForAll reports whether all components are allowed.
func (g *grant) mayForAll() bool { return slices.Contains(g.components, all) }

// find returns what the bearer of a token may do, and nil if it is no token of the file. The time it
// takes tells nothing of the tokens.
func (t Tokens) find(token string) *grant {
	var found *grant
	hash := sha256.Sum256([]byte(token))
	for i := range t.grants {
		if subtle.ConstantTimeCompare(hash[:], t.grants[i].hash[:]) == 1 {
			found = &t.grants[i]
		}
	}
	return found
}

// ParseTokens parses a tokens file. The error names the line and says what to change. It repeats
// nothing of the file but names of tokens and operations: somebody may have put a token there.
func ParseTokens(file []byte) (Tokens, error) {
	var (
		tokens Tokens
		errs   []error
		number int
	)
	for line := range strings.Lines(string(file)) {
		number++
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		g, err := parseGrant(fields)
		if err == nil {
			err = tokens.checkNew(g)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", number, err))
			continue
		}
		tokens.grants = append(tokens.grants, g)
	}
	if len(errs) == 0 && len(tokens.grants) == 0 {
		return Tokens{}, errors.New("the file has no token: preauth gateway token makes one")
	}
	return tokens, errors.Join(errs...)
}

// isName matches the names of tokens, which are in the log.
var isName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`).MatchString

// isPattern matches patterns of components. They have no brackets, although path.Match knows some.
var isPattern = regexp.MustCompile(`^[A-Za-z0-9_*?-]{1,64}$`).MatchString

func parseGrant(fields []string) (grant, error) {
	if len(fields) != 4 {
		return grant{}, fmt.Errorf("a line must have a name, a hash, operations and components, separated by spaces; this one has %d fields", len(fields))
	}
	g := grant{name: fields[0], operations: strings.Split(fields[2], ","), components: strings.Split(fields[3], ",")}
	digits, ok := strings.CutPrefix(fields[1], hashPrefix)
	hash, err := hex.DecodeString(digits)
	if !ok || err != nil || copy(g.hash[:], hash) != sha256.Size || len(hash) != sha256.Size {
		return grant{}, fmt.Errorf("the hash must be %s and 64 hexadecimal digits, as preauth gateway token prints it", hashPrefix)
	}
	return g, g.check()
}

// check returns an error unless name, operations and components may be so.
func (g *grant) check() error {
	if !isName(g.name) {
		return errors.New("the name must be 1 to 64 letters, digits, '.', '_' and '-', and begin with a letter or a digit")
	}
	for _, operation := range g.operations {
		if operation != all && !slices.Contains(Operations(), operation) {
			return fmt.Errorf("operations must be some of %s, separated by commas, or %s", strings.Join(Operations(), ","), all)
		}
	}
	for _, pattern := range g.components {
		if !isPattern(pattern) {
			return errors.New("components must be appids separated by commas, in which * stands for any characters and ? for one")
		}
	}
	return nil
}

// checkNew returns an error if the file has such a token already.
func (t Tokens) checkNew(g grant) error {
	for _, other := range t.grants {
		switch {
		case other.name == g.name:
			return fmt.Errorf("the name %s is that of a line above: choose another", g.name)
		case other.hash == g.hash:
			return fmt.Errorf("the token %s has the hash of %s: make a token for each", g.name, other.name)
		}
	}
	return nil
}

// NewToken makes a token and its line in a tokens file. Without operations it may claim, look up and
// resolve, and without components it may do so for all. Only the bearer has the token: the line has
// its hash.
func NewToken(name string, operations, components []string) (token preauth.Secret, line string, err error) {
	if len(operations) == 0 {
		operations = []string{opClaim, opLookup, opResolve}
	}
	if len(components) == 0 {
		components = []string{all}
	}
	g := grant{name: name, operations: operations, components: components}
	if err := g.check(); err != nil {
		return preauth.Secret{}, "", err
	}
	text := "preauth_" + rand.Text() // the beginning lets scanners for secrets find it
	hash := sha256.Sum256([]byte(text))
	line = fmt.Sprintf("%s %s%x %s %s", name, hashPrefix, hash, strings.Join(operations, ","), strings.Join(components, ","))
	return preauth.NewSecret(text), line, nil
}

// Operations returns the names of the operations, as a tokens file has them. They are those of
// preauth's commands.
func Operations() []string {
	var names []string
	for _, op := range operations {
		names = append(names, op.name)
	}
	slices.SortFunc(names, cmp.Compare)
	return slices.Compact(names)
}
