package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// schema is a package with all its mutants in it.
type schema struct {
	pkg     *packages.Package
	mutants []*mutant
	// files are the changed files and the one with the switch, by their absolute paths.
	files   map[string][]byte
	sources map[string][]byte // as they are, by their paths relative to the project
	dropped int               // mutants that would not compile
}

// switchFile is in each schema. A mutant's number in MUTANT activates it; MUTANT_HITS names a file
// that gets the number of each mutant that is reached, once.
const switchFile = `
import (
	"cmp"
	"os"
	"strconv"
	"sync/atomic"
)

type mutantSwitch struct {
	active int
	hits   *os.File
	seen   []atomic.Bool
}

var mutants = func() *mutantSwitch {
	s := new(mutantSwitch)
	s.active, _ = strconv.Atoi(os.Getenv("MUTANT"))
	if name := os.Getenv("MUTANT_HITS"); name != "" {
		var err error
		if s.hits, err = os.OpenFile(name, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
			panic(err)
		}
		s.seen = make([]atomic.Bool, mutantsEnd)
	}
	return s
}()

func mutantOn(id int) bool {
	s := mutants
	if s.hits != nil && !s.seen[id].Load() && !s.seen[id].Swap(true) {
		_, _ = s.hits.WriteString(strconv.Itoa(id) + "\n")
	}
	return id == s.active
}

type mutantNumber interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~float32 | ~float64
}

type mutantInteger interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

func mutantPick[T any](id int, value, by T) T {
	if mutantOn(id) {
		return by
	}
	return value
}

func mutantConstant[T any](id int, value, by T) T { return mutantPick(id, value, by) }
func mutantBe(id int, value, by bool) bool        { return mutantPick(id, value, by) }
func mutantNot(id int, value bool) bool           { return mutantPick(id, value, !value) }
func mutantZero[T any](id int, value T) T         { return mutantPick(id, value, *new(T)) }

func mutantLess[T cmp.Ordered](id int, a, b T) bool         { return mutantPick(id, a < b, a <= b) }
func mutantLessEqual[T cmp.Ordered](id int, a, b T) bool    { return mutantPick(id, a <= b, a < b) }
func mutantGreater[T cmp.Ordered](id int, a, b T) bool      { return mutantPick(id, a > b, a >= b) }
func mutantGreaterEqual[T cmp.Ordered](id int, a, b T) bool { return mutantPick(id, a >= b, a > b) }

func mutantAdd[T mutantNumber](id int, a, b T) T      { return mutantPick(id, a+b, a-b) }
func mutantSubtract[T mutantNumber](id int, a, b T) T { return mutantPick(id, a-b, a+b) }
func mutantRemainder[T mutantInteger](id int, a, b T) T {
	return mutantPick(id, a%b, a*b)
}

func mutantMultiply[T mutantNumber](id int, a, b T) T {
	if mutantOn(id) {
		return a / b
	}
	return a * b
}

func mutantDivide[T mutantNumber](id int, a, b T) T {
	if mutantOn(id) {
		return a * b
	}
	return a / b
}
`

func load(ctx context.Context, root, pattern string, overlay map[string][]byte) (*packages.Package, error) {
	loaded, err := packages.Load(&packages.Config{
		Context: ctx, Dir: root, Overlay: overlay,
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports |
			packages.NeedTypes | packages.NeedSyntax | packages.NeedTypesInfo,
	}, pattern)
	if err != nil {
		return nil, err
	}
	if len(loaded) != 1 || len(loaded[0].CompiledGoFiles) == 0 {
		return nil, fmt.Errorf("%s is not one package", pattern)
	}
	return loaded[0], nil
}

// newSchema finds the mutants of a package and leaves out those that do not compile.
func newSchema(ctx context.Context, root, pattern string) (*schema, error) {
	pkg, err := load(ctx, root, pattern, nil)
	if err != nil {
		return nil, err
	}
	if len(pkg.Errors) > 0 {
		return nil, pkg.Errors[0]
	}
	s := &schema{pkg: pkg, files: map[string][]byte{}, sources: map[string][]byte{}}
	next := 0
	edits := map[string][]edit{}
	for i, name := range pkg.CompiledGoFiles {
		source, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if ast.IsGenerated(pkg.Syntax[i]) {
			continue
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return nil, err
		}
		s.sources[relative] = source
		f := &finder{
			info: pkg.TypesInfo, pkg: pkg.Types, file: pkg.Syntax[i], name: filepath.ToSlash(relative), source: source, next: &next,
			pos: func(p token.Pos) token.Position { return pkg.Fset.Position(p) },
		}
		f.find()
		s.mutants = append(s.mutants, f.mutants...)
		edits[name] = f.edits
		s.files[name] = source
	}
	s.files[filepath.Join(filepath.Dir(pkg.CompiledGoFiles[0]), "mutant_switch.go")] = fmt.Appendf(nil,
		"package %s\n%s\nconst mutantsEnd = %d\n", pkg.Name, switchFile, next+1)
	if err := s.settle(ctx, root, pattern, edits); err != nil {
		return nil, err
	}
	return s, nil
}

// settle writes the edits into the files, until the compiler has nothing against them. A line that
// it refuses loses its mutants.
func (s *schema) settle(ctx context.Context, root, pattern string, edits map[string][]edit) error {
	all := len(s.mutants)
	for {
		for name, list := range edits {
			source, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			s.files[name] = write(source, list)
		}
		pkg, err := load(ctx, root, pattern, s.files)
		if err != nil {
			return err
		}
		if len(pkg.Errors) == 0 {
			s.dropped = all - len(s.mutants)
			return nil
		}
		before := len(s.mutants)
		var gone []int
		for _, e := range pkg.Errors {
			s.mutants = slices.DeleteFunc(s.mutants, func(m *mutant) bool {
				place := fmt.Sprintf("%s:%d:", filepath.Join(root, m.file), m.line)
				if !strings.HasPrefix(e.Pos+":", place) {
					return false
				}
				gone = append(gone, m.id)
				return true
			})
		}
		if len(s.mutants) == before {
			return fmt.Errorf("the mutants do not compile: %w", pkg.Errors[0])
		}
		for name := range edits {
			edits[name] = slices.DeleteFunc(edits[name], func(e edit) bool { return slices.Contains(gone, e.mutant) })
		}
	}
}

// write applies edits. Each is within another one or apart from it. It adds no lines.
func write(source []byte, edits []edit) []byte {
	type insertion struct {
		at     int
		closes bool
		other  int // where the edit has its other end
		order  int
		text   string
		skip   int
	}
	var all []insertion
	for i, e := range edits {
		if e.replaces {
			all = append(all, insertion{at: e.start, other: e.end, order: i, text: e.prefix, skip: e.end - e.start})
			continue
		}
		all = append(all,
			insertion{at: e.start, other: e.end, order: i, text: e.prefix},
			insertion{at: e.end, closes: true, other: e.start, order: i, text: e.suffix})
	}
	slices.SortFunc(all, func(a, b insertion) int {
		switch {
		case a.at != b.at:
			return cmp.Compare(a.at, b.at)
		case a.closes != b.closes:
			if a.closes {
				return -1
			}
			return 1
		case a.other != b.other: // the outer edit begins first and ends last
			return cmp.Compare(b.other, a.other)
		case a.closes:
			return cmp.Compare(b.order, a.order)
		}
		return cmp.Compare(a.order, b.order)
	})
	var out []byte
	from := 0
	for _, i := range all {
		out = append(append(out, source[from:i.at]...), i.text...)
		from = i.at + i.skip
	}
	return append(out, source[from:]...)
}

// overlay writes the files into dir and returns the file that "go build -overlay" takes.
func (s *schema) overlay(dir string) (string, error) {
	replace := map[string]string{}
	for i, name := range slices.Sorted(maps.Keys(s.files)) {
		replace[name] = filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(replace[name], s.files[name], 0o600); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, text, 0o600)
}

// diff shows a mutant as the line before and after.
func (s *schema) diff(m *mutant) (before, after string) {
	source := s.sources[filepath.FromSlash(m.file)]
	from, to := m.start, m.end
	for from > 0 && source[from-1] != '\n' {
		from--
	}
	for to < len(source) && source[to] != '\n' {
		to++
	}
	return short(string(source[from:to])), short(string(source[from:m.start]) + m.by + string(source[m.end:to]))
}

// short returns a text in one line of bearable length.
func short(text string) string {
	line := []rune(oneLine(text))
	if len(line) > 240 {
		line = append(line[:240], '…')
	}
	return string(line)
}
