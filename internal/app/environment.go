package app

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// variables returns the variables that the settings of all commands read.
func variables(model *kong.Application) []string {
	var names []string
	_ = kong.Visit(model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			names = append(names, flag.Envs...)
		}
		return next(nil)
	})
	return names
}

// unsetEmpty unsets variables that are empty. Compose files and manifests pass on what nobody set
// as empty variables.
func unsetEmpty(variables []string) {
	for _, name := range variables {
		if os.Getenv(name) == "" {
			_ = os.Unsetenv(name)
		}
	}
}

// foreign matches the variables beginning with PREAUTH_ that are not meant for preauth: those of
// the tests, and those in which Kubernetes tells every pod the address of a service called preauth
// or preauth-….
var foreign = regexp.MustCompile(`^PREAUTH_(TEST_\w+|(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?))$`)

// checkVariables returns an error for each variable beginning with PREAUTH_ that no setting reads.
// Ignoring it would leave a misspelled setting at its default, which for PREAUTH_WECHAT_URL means
// to call WeChat. A program without variables ignores all of them.
func checkVariables(known, environ []string) error {
	var errs []error
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case !strings.HasPrefix(name, "PREAUTH_"), value == "", len(known) == 0, slices.Contains(known, name), name == clockVariable, foreign.MatchString(name):
		case strings.HasPrefix(name, "PREAUTH_SUBJECT_"): // of earlier versions
			errs = append(errs, UsageErrorf("no setting reads the variable %s: use PREAUTH_SUBJECT_PREFIX, which puts a prefix before all subjects", name))
		default:
			far := func(setting string) int {
				return distance(strings.TrimPrefix(setting, "PREAUTH_"), strings.TrimPrefix(name, "PREAUTH_"))
			}
			nearest := slices.MinFunc(known, func(a, b string) int { return far(a) - far(b) })
			errs = append(errs, UsageErrorf("no setting reads the variable %s: did you mean %s?", name, nearest))
		}
	}
	return errors.Join(errs...)
}

// distance returns how many bytes have to be inserted, removed or replaced to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
