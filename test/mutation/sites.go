package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// mutant is one change of the code.
type mutant struct {
	id       int
	file     string // relative to the project
	line     int
	function string
	operator string
	// start and end are offsets in the file: what the mutant replaces.
	start, end int
	// source is the text between them, and by what stands there in the mutant, each in one line.
	source, by string
	// nth tells equal changes of one function apart, from 1.
	nth int
}

// key identifies a mutant after lines have moved.
func (m *mutant) key() string {
	key := fmt.Sprintf("%s %s: %s: %s", m.file, m.function, m.operator, m.source)
	if m.nth > 1 {
		key += fmt.Sprintf(" #%d", m.nth)
	}
	return key
}

// edit inserts text around a part of a file, or replaces it if replaces is set. It belongs to a
// mutant.
type edit struct {
	mutant         int
	start, end     int
	prefix, suffix string
	replaces       bool
}

// finder finds the mutants of one file.
type finder struct {
	info    *types.Info
	pkg     *types.Package
	file    *ast.File
	name    string
	source  []byte
	pos     func(token.Pos) token.Position
	next    *int // id
	mutants []*mutant
	edits   []edit
}

func (f *finder) find() {
	ast.PreorderStack(f.file, nil, func(n ast.Node, stack []ast.Node) bool {
		switch n := n.(type) {
		case *ast.GenDecl:
			return n.Tok == token.VAR
		case *ast.ArrayType, *ast.FuncType, *ast.StructType, *ast.InterfaceType:
			return false
		case *ast.CaseClause:
			f.clause(n, stack)
		case *ast.CommClause:
			f.body(n.Body, stack)
		case *ast.RangeStmt:
			f.loop(n, n.Body, stack)
		case *ast.ForStmt:
			if n.Cond != nil {
				f.loop(n, n.Body, stack)
			}
		}
		if statement, ok := n.(ast.Stmt); ok && inList(n, stack) {
			f.statement(statement, stack)
		}
		if e, ok := n.(ast.Expr); ok {
			return f.expression(e, stack)
		}
		return true
	})
}

// add makes a mutant that replaces a part of the file by a text.
func (f *finder) add(operator string, from, to token.Pos, by string, stack []ast.Node) *mutant {
	*f.next++
	position := f.pos(from)
	m := &mutant{
		id: *f.next, file: f.name, line: position.Line, function: functionOf(stack), operator: operator,
		start: position.Offset, end: f.pos(to).Offset, by: by, nth: 1,
	}
	m.source = oneLine(string(f.source[m.start:m.end]))
	for _, other := range f.mutants {
		if other.function == m.function && other.operator == m.operator && other.source == m.source && other.by == m.by {
			m.nth++
		}
	}
	f.mutants = append(f.mutants, m)
	return m
}

func (f *finder) wrap(m *mutant, from, to token.Pos, prefix, suffix string) {
	f.edits = append(f.edits, edit{
		mutant: m.id, start: f.pos(from).Offset, end: f.pos(to).Offset,
		prefix: strings.ReplaceAll(prefix, "ID", strconv.Itoa(m.id)), suffix: strings.ReplaceAll(suffix, "ID", strconv.Itoa(m.id)),
	})
}

// call passes an expression through one of the functions of the schema.
func (f *finder) call(m *mutant, e ast.Expr, function, more string) {
	f.wrap(m, e.Pos(), e.End(), function+"(ID, ", more+")")
}

func (f *finder) text(n ast.Node) string {
	return string(f.source[f.pos(n.Pos()).Offset:f.pos(n.End()).Offset])
}

func (f *finder) statement(s ast.Stmt, stack []ast.Node) {
	unless := func(operator string) {
		m := f.add(operator, s.Pos(), s.End(), "", stack)
		f.wrap(m, s.Pos(), s.End(), "if !mutantOn(ID) { ", " }")
	}
	switch s := s.(type) {
	case *ast.ExprStmt:
		if call, ok := s.X.(*ast.CallExpr); ok && !f.isPanic(call) && !isDebug(call) {
			unless("call deleted")
		}
	case *ast.DeferStmt:
		unless("defer deleted")
	case *ast.GoStmt:
		unless("go deleted")
	case *ast.SendStmt:
		unless("send deleted")
	case *ast.IncDecStmt:
		by := "--"
		if s.Tok == token.DEC {
			by = "++"
		}
		m := f.add("arithmetic", s.Pos(), s.End(), f.text(s.X)+by, stack)
		f.wrap(m, s.Pos(), s.End(), "if mutantOn(ID) { "+oneLine(f.text(s.X))+by+" } else { ", " }")
	case *ast.AssignStmt:
		if s.Tok != token.DEFINE && slices.ContainsFunc(s.Lhs, func(e ast.Expr) bool { return !isBlank(e) }) {
			unless("assignment deleted")
		}
	case *ast.ReturnStmt:
		f.results(s, stack)
	}
}

// results replaces each result of a return statement by its zero value.
func (f *finder) results(s *ast.ReturnStmt, stack []ast.Node) {
	signature := f.signature(stack)
	if signature == nil || signature.Results().Len() != len(s.Results) {
		return
	}
	for i, e := range s.Results {
		want := signature.Results().At(i).Type()
		tv := f.info.Types[e]
		switch {
		case tv.IsNil() || isEmptyLiteral(e) || tv.Value != nil && (tv.Value.Kind() != constant.String || constant.StringVal(tv.Value) == ""):
		case types.IsInterface(want):
			texts := make([]string, len(s.Results))
			for j, other := range s.Results {
				texts[j] = f.text(other)
			}
			texts[i] = "nil"
			by := strings.Join(texts, ", ")
			if strings.Contains(by, "\n") {
				continue // lines must stay where they are
			}
			m := f.add("result is nil", e.Pos(), e.End(), "nil", stack)
			f.wrap(m, s.Pos(), s.End(), "if mutantOn(ID) { return "+by+" }; ", "")
		case types.Identical(tv.Type, want) && !isBool(want):
			m := f.add("result is zero", e.Pos(), e.End(), "(zero value)", stack)
			f.call(m, e, "mutantZero"+f.argument(tv.Type), "")
		}
	}
}

func (f *finder) signature(stack []ast.Node) *types.Signature {
	for _, n := range slices.Backward(stack) {
		switch n := n.(type) {
		case *ast.FuncLit:
			signature, _ := f.info.TypeOf(n).(*types.Signature)
			return signature
		case *ast.FuncDecl:
			return f.info.Defs[n.Name].Type().(*types.Signature) //nolint:forcetypeassert // a function's type
		}
	}
	return nil
}

// clause mutates the conditions of a switch without a tag, and the bodies of others.
func (f *finder) clause(c *ast.CaseClause, stack []ast.Node) {
	if s, ok := stack[len(stack)-2].(*ast.SwitchStmt); ok && s.Tag == nil && c.List != nil {
		return // expression does it
	}
	f.body(c.Body, stack)
}

// body makes a case do nothing, unless it is about to leave by itself.
func (f *finder) body(list []ast.Stmt, stack []ast.Node) {
	if len(list) == 0 {
		return
	}
	last := list[len(list)-1]
	switch last.(type) {
	case *ast.ReturnStmt, *ast.BranchStmt:
		return
	}
	m := f.add("case does nothing", list[0].Pos(), last.End(), "", stack)
	f.wrap(m, list[0].Pos(), last.End(), "if mutantOn(ID) { break }; ", "")
}

func (f *finder) loop(n ast.Node, body *ast.BlockStmt, stack []ast.Node) {
	m := f.add("loop never entered", n.Pos(), body.Lbrace, "for false ", stack)
	f.wrap(m, body.Lbrace+1, body.Rbrace, " if mutantOn(ID) { break }; ", "")
}

// expression returns whether to look into e.
func (f *finder) expression(e ast.Expr, stack []ast.Node) bool {
	tv, ok := f.info.Types[e]
	if !ok || tv.IsType() {
		return !ok
	}
	parent := stack[len(stack)-1]
	if tv.Value != nil {
		f.constant(e, tv, stack)
		return false
	}
	if isBool(tv.Type) && !isOperand(parent) {
		f.condition(e, parent, stack)
	}
	binary, ok := e.(*ast.BinaryExpr)
	if !ok {
		return true
	}
	switch binary.Op {
	case token.LSS, token.LEQ, token.GTR, token.GEQ:
		boundary := map[token.Token]struct{ name, by string }{
			token.LSS: {"mutantLess", "<="}, token.LEQ: {"mutantLessEqual", "<"},
			token.GTR: {"mutantGreater", ">="}, token.GEQ: {"mutantGreaterEqual", ">"},
		}[binary.Op]
		f.operator("boundary", binary, boundary.name, boundary.by, stack)
	case token.ADD, token.SUB, token.MUL, token.QUO, token.REM:
		if basic, ok := tv.Type.Underlying().(*types.Basic); ok && basic.Info()&types.IsNumeric != 0 {
			other := map[token.Token]struct{ name, by string }{
				token.ADD: {"mutantAdd", "-"}, token.SUB: {"mutantSubtract", "+"}, token.MUL: {"mutantMultiply", "/"},
				token.QUO: {"mutantDivide", "*"}, token.REM: {"mutantRemainder", "*"},
			}[binary.Op]
			f.operator("arithmetic", binary, other.name, other.by, stack)
		}
	case token.LAND, token.LOR:
		by := "||"
		if binary.Op == token.LOR {
			by = "&&"
		}
		// By De Morgan's law: a && b is !(!a || !b), and each stays unread where it was.
		m := f.add("and, or", binary.X.Pos(), binary.Y.End(), f.text(binary.X)+" "+by+" "+f.text(binary.Y), stack)
		f.wrap(m, binary.Pos(), binary.End(), "((", ") != mutantOn(ID))")
		f.wrap(m, binary.X.Pos(), binary.X.End(), "((", ") != mutantOn(ID))")
		f.wrap(m, binary.Y.Pos(), binary.Y.End(), "((", ") != mutantOn(ID))")
		for _, operand := range []ast.Expr{binary.X, binary.Y} {
			if inner, ok := ast.Unparen(operand).(*ast.BinaryExpr); ok && (inner.Op == token.LAND || inner.Op == token.LOR) {
				continue
			}
			neutral := strconv.FormatBool(binary.Op == token.LAND)
			m := f.add("operand is "+neutral, operand.Pos(), operand.End(), neutral, stack)
			f.call(m, operand, "mutantBe", ", "+neutral)
		}
	default:
	}
	return true
}

// operator replaces a binary operator through a function of both operands.
func (f *finder) operator(kind string, e *ast.BinaryExpr, function, by string, stack []ast.Node) {
	m := f.add(kind, e.Pos(), e.End(), f.text(e.X)+" "+by+" "+f.text(e.Y), stack)
	f.wrap(m, e.Pos(), e.End(), function+"(ID, ", ")")
	start := f.pos(e.OpPos).Offset
	f.edits = append(f.edits, edit{mutant: m.id, start: start, end: start + len(e.Op.String()), prefix: ",", replaces: true})
}

// condition mutates a whole condition.
func (f *finder) condition(e ast.Expr, parent ast.Node, stack []ast.Node) {
	values := []bool{}
	switch parent := parent.(type) {
	case *ast.IfStmt:
		values = []bool{true, false}
	case *ast.ForStmt: // never entered: loop does it
		return
	case *ast.CaseClause:
		if s, ok := stack[len(stack)-3].(*ast.SwitchStmt); ok && s.Tag == nil {
			values = []bool{true, false}
		}
	case *ast.AssignStmt:
		if slices.Contains(parent.Lhs, e) {
			return
		}
	case *ast.ExprStmt, *ast.DeferStmt, *ast.GoStmt: // what is deferred must stay a call of its own
		return
	}
	for _, value := range values {
		by := strconv.FormatBool(value)
		m := f.add("condition is "+by, e.Pos(), e.End(), by, stack)
		f.call(m, e, "mutantBe", ", "+by)
	}
	if len(values) > 0 {
		return
	}
	_, returned := parent.(*ast.ReturnStmt)
	switch e.(type) {
	case *ast.BinaryExpr, *ast.UnaryExpr, *ast.CallExpr:
		returned = true
	}
	if returned {
		m := f.add("negated", e.Pos(), e.End(), "!("+f.text(e)+")", stack)
		f.call(m, e, "mutantNot", "")
	}
}

var errorType = types.Universe.Lookup("error").Type().Underlying().(*types.Interface) //nolint:forcetypeassert // it is one

// constant mutates a constant, where Go does not demand one.
func (f *finder) constant(e ast.Expr, tv types.TypeAndValue, stack []ast.Node) {
	parent := stack[len(stack)-1]
	switch parent := parent.(type) {
	case *ast.CaseClause:
		return
	case *ast.ReturnStmt:
		if last := f.info.Types[parent.Results[len(parent.Results)-1]]; !last.IsNil() && types.Implements(last.Type, errorType) {
			return // means nothing beside an error
		}
	case *ast.BinaryExpr:
		if parent.Op == token.SHL || parent.Op == token.SHR {
			return
		}
	case *ast.KeyValueExpr:
		if parent.Key == e {
			if literal, ok := stack[len(stack)-2].(ast.Expr); ok {
				if _, ok := f.info.TypeOf(literal).Underlying().(*types.Map); !ok {
					return
				}
			}
		}
	case *ast.CallExpr:
		if name, ok := parent.Fun.(*ast.Ident); ok && name.Name == "newObject" {
			return // a capacity
		}
		if name, ok := parent.Fun.(*ast.Ident); ok && name.Name == "make" {
			if i := slices.Index(parent.Args, e); i == 2 || i == 1 && !isSlice(f.info.TypeOf(parent.Args[0])) {
				return // a capacity
			}
		}
		if selector, ok := parent.Fun.(*ast.SelectorExpr); ok && selector.Sel.Name == "Errorf" {
			return // an example for people
		}
	}
	basic, ok := tv.Type.Underlying().(*types.Basic)
	if !ok {
		return
	}
	typ := f.argument(tv.Type)
	replace := func(operator, by string) {
		m := f.add(operator, e.Pos(), e.End(), by, stack)
		f.call(m, e, "mutantConstant"+typ, ", "+oneLine(by))
	}
	text := oneLine(f.text(e))
	switch {
	case tv.Type.String() == "time.Duration":
		if constant.Sign(tv.Value) != 0 {
			replace("a hundredth", "("+text+")/100")
		}
	case basic.Info()&types.IsNumeric != 0:
		replace("one more", text+"+1")
	case basic.Info()&types.IsBoolean != 0:
		replace("negated", "!"+text)
	case basic.Info()&types.IsString != 0:
		f.statementOfSQL(e, constant.StringVal(tv.Value), typ, stack)
	}
}

// The changes of a statement.
var (
	isSQL      = regexp.MustCompile(`\b(SELECT|UPDATE|DELETE|INSERT|WHERE|AND|ORDER BY)\b`)
	sqlParts   = regexp.MustCompile(` (<=|<|>=|>|AND|OR|DESC|FOR UPDATE)( |$|\n)|IS NOT NULL|IS NULL`)
	sqlChanges = map[string]string{
		"<=": "<", "<": "<=", ">=": ">", ">": ">=", "AND": "OR", "OR": "AND", "DESC": "", "FOR UPDATE": "",
		"IS NULL": "IS NOT NULL", "IS NOT NULL": "IS NULL",
	}
)

func (f *finder) statementOfSQL(e ast.Expr, text, typ string, stack []ast.Node) {
	if !isSQL.MatchString(text) {
		return
	}
	for _, at := range sqlParts.FindAllStringSubmatchIndex(text, -1) {
		from, to := at[0], at[1]
		if at[2] >= 0 {
			from, to = at[2], at[3]
		}
		part := text[from:to]
		m := f.add("SQL: "+part+" → "+sqlChanges[part]+" after "+lastWords(text[:from]), e.Pos(), e.End(), strconv.Quote(text[:from]+sqlChanges[part]+text[to:]), stack)
		f.call(m, e, "mutantConstant"+typ, ", "+m.by)
	}
}

// argument returns a type as the argument of a generic function, "" if it has to be inferred.
func (f *finder) argument(t types.Type) string {
	basic, ok := t.(*types.Basic)
	text := types.TypeString(t, f.qualifier)
	if ok && basic.Info()&types.IsUntyped != 0 || strings.Contains(text, "?") {
		return ""
	}
	return "[" + text + "]"
}

// qualifier names a package as the file does, "?" if it does not import it.
func (f *finder) qualifier(p *types.Package) string {
	if p == f.pkg {
		return ""
	}
	for _, spec := range f.file.Imports {
		if path, _ := strconv.Unquote(spec.Path.Value); path != p.Path() {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return p.Name()
	}
	return "?"
}

func (f *finder) isPanic(call *ast.CallExpr) bool {
	name, ok := call.Fun.(*ast.Ident)
	return ok && name.Name == "panic"
}

// isDebug reports whether a call logs for developers alone.
func isDebug(call *ast.CallExpr) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	return ok && (selector.Sel.Name == "Debug" || selector.Sel.Name == "DebugContext")
}

func isBlank(e ast.Expr) bool {
	name, ok := e.(*ast.Ident)
	return ok && name.Name == "_"
}

func isEmptyLiteral(e ast.Expr) bool {
	literal, ok := e.(*ast.CompositeLit)
	return ok && len(literal.Elts) == 0
}

func isBool(t types.Type) bool {
	basic, ok := t.(*types.Basic)
	return ok && basic.Info()&types.IsBoolean != 0
}

func isSlice(t types.Type) bool {
	_, ok := t.Underlying().(*types.Slice)
	return ok
}

// isOperand reports whether a condition below parent is part of a larger one.
func isOperand(parent ast.Node) bool {
	switch parent := parent.(type) {
	case *ast.ParenExpr:
		return true
	case *ast.UnaryExpr:
		return true
	case *ast.BinaryExpr:
		return parent.Op == token.LAND || parent.Op == token.LOR
	}
	return false
}

// inList reports whether a statement may be replaced by several.
func inList(n ast.Node, stack []ast.Node) bool {
	switch parent := stack[len(stack)-1].(type) {
	case *ast.BlockStmt, *ast.CaseClause:
		return true
	case *ast.CommClause:
		return parent.Comm != n
	}
	return false
}

// functionOf names the function around a place as Type.Method, or the variables that are declared.
func functionOf(stack []ast.Node) string {
	for _, n := range stack {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil {
				return n.Name.Name
			}
			receiver := n.Recv.List[0].Type
			if star, ok := receiver.(*ast.StarExpr); ok {
				receiver = star.X
			}
			if index, ok := receiver.(*ast.IndexExpr); ok {
				receiver = index.X
			}
			return fmt.Sprintf("%s.%s", receiver, n.Name)
		case *ast.ValueSpec:
			return n.Names[0].Name
		}
	}
	return "file"
}

// oneLine returns a text with each white space as one blank.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// lastWords returns the end of a text.
func lastWords(text string) string {
	words := strings.Fields(text)
	return strings.Join(words[max(len(words)-3, 0):], " ")
}
