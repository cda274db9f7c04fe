package consumer_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A file uses only declarations of files that are further down the table in docs/architecture.md.
func TestFilesUseOneAnotherOneWay(t *testing.T) {
	order := filesOfTheArchitecture(t)
	fset := token.NewFileSet()
	var parsed []*ast.File
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if !slices.Contains(order, name) {
			t.Errorf("%s is not in the table", name)
		}
		file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, file)
	}
	if len(parsed) != len(order) {
		t.Errorf("the table has %d files, the package %d", len(order), len(parsed))
	}

	// Only uses within the package matter, so imports are not resolved and the errors about them are
	// ignored.
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
	unknown := types.Config{Error: func(error) {}, Importer: noImports{}, FakeImportC: true}
	pkg, _ := unknown.Check("preauth/consumer", fset, parsed, info)
	fileOf := func(pos token.Pos) string { return fset.Position(pos).Filename }
	place := func(name string) int { return slices.Index(order, name) }
	uses := 0
	for ident, object := range info.Uses {
		if object.Pkg() != pkg || !object.Pos().IsValid() {
			continue
		}
		from, to := fileOf(ident.Pos()), fileOf(object.Pos())
		if from != to {
			uses++
		}
		if place(to) < place(from) {
			t.Errorf("%s uses %s of %s, which is further up the table", fset.Position(ident.Pos()), object.Name(), to)
		}
	}
	if uses < 300 {
		t.Errorf("found only %d uses", uses)
	}
}

type noImports struct{}

func (noImports) Import(string) (*types.Package, error) { return nil, errors.New("not imported") }

// filesOfTheArchitecture returns the files of the table from top to bottom.
func filesOfTheArchitecture(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "\n### The files of consumer\n")
	if !ok {
		t.Fatal("docs/architecture.md has no section about the files of consumer")
	}
	section, _, _ = strings.Cut(section, "\n#")
	var files []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+\\.go)` \\|").FindAllStringSubmatch(section, -1) {
		files = append(files, row[1])
	}
	return files
}
