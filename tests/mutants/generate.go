package main

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// generate returns edits of the packages' files in random order, one of each kind in turn:
// otherwise literals would crowd out the rare kinds.
func (r *runner) generate(ctx context.Context, packages []string, seed uint64, only, apart string) ([]mutant, error) {
	match, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	not, err := regexp.Compile(apart)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-f", `{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}`}, packages...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	kinds, order := map[string][]mutant{}, []string{}
	for name := range strings.Lines(string(out)) {
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		file, err := filepath.Rel(r.top, name)
		if err != nil {
			return nil, err
		}
		if !match.MatchString(filepath.Base(file)) || apart != "" && not.MatchString(file) {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		err = edits(file, text, func(kind string, m mutant) {
			if kinds[kind] == nil {
				order = append(order, kind)
			}
			kinds[kind] = append(kinds[kind], m)
		})
		if err != nil {
			return nil, err
		}
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for _, kind := range order {
		list := kinds[kind]
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	var all []mutant
	for more := true; more; {
		more = false
		for _, kind := range order {
			if list := kinds[kind]; len(list) > 0 {
				all, kinds[kind], more = append(all, list[0]), list[1:], true
			}
		}
	}
	return all, nil
}

var other = map[token.Token]string{
	token.LSS: "<=", token.LEQ: "<", token.GTR: ">=", token.GEQ: ">",
	token.LAND: "||", token.LOR: "&&", token.ADD: "-", token.SUB: "+",
	token.AND: "|", token.OR: "&", token.SHL: ">>", token.SHR: "<<",
}

// edits calls found with each edit of a Go file.
func edits(file string, text []byte, found func(kind string, m mutant)) error {
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, file, text, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	add := func(kind string, from, to token.Pos, new string) {
		a, b := set.Position(from).Offset, set.Position(to).Offset
		// Whole lines, as in a list.
		begin, end := 1+bytes.LastIndexByte(text[:a], '\n'), b+bytes.IndexByte(text[b:], '\n')
		found(kind, mutant{
			file: file, line: set.Position(from).Line, generated: true,
			note: fmt.Sprintf("%s: `%s` -> `%s`", kind, oneLine(string(text[a:b])), oneLine(new)),
			old:  strings.TrimSpace(string(text[begin:end])),
			new:  strings.TrimSpace(string(text[begin:a]) + new + string(text[b:end])),
		})
	}
	source := func(n ast.Node) string {
		return string(text[set.Position(n.Pos()).Offset:set.Position(n.End()).Offset])
	}
	negate := func(cond ast.Expr) {
		if cond != nil {
			add("condition negated", cond.Pos(), cond.End(), "!("+source(cond)+")")
		}
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.IfStmt:
			negate(n.Cond)
		case *ast.ForStmt:
			negate(n.Cond)
		case *ast.BinaryExpr:
			if new := other[n.Op]; new != "" {
				kind := "operator swapped"
				switch n.Op {
				case token.LSS, token.LEQ, token.GTR, token.GEQ:
					kind = "limit moved by one"
				case token.LAND, token.LOR:
					kind = "&& and || swapped"
				}
				add(kind, n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), new)
			}
		case *ast.BasicLit:
			if v, err := strconv.ParseInt(n.Value, 0, 64); n.Kind == token.INT && err == nil {
				add("literal off by one", n.Pos(), n.End(), strconv.FormatInt(v+1, 10))
			}
		case *ast.Ident:
			if new := map[string]string{"true": "false", "false": "true"}[n.Name]; new != "" {
				add("true and false swapped", n.Pos(), n.End(), new)
			}
		case *ast.ExprStmt:
			if call, ok := n.X.(*ast.CallExpr); ok && !logs(call) {
				add("call dropped", n.Pos(), n.End(), "")
			}
		case *ast.DeferStmt:
			add("defer dropped", n.Pos(), n.End(), "")
		case *ast.IncDecStmt:
			add("assignment dropped", n.Pos(), n.End(), "")
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				add("assignment dropped", n.Pos(), n.End(), "")
			}
		case *ast.BranchStmt:
			if n.Tok == token.CONTINUE && n.Label == nil {
				add("continue made break", n.Pos(), n.End(), "break")
			}
		case *ast.CaseClause:
			if len(n.List) > 1 {
				add("case dropped", n.List[0].Pos(), n.List[1].Pos(), "")
			}
		case *ast.ReturnStmt:
			if i := len(n.Results) - 1; i >= 0 && isError(n.Results[i]) {
				add("error dropped", n.Results[i].Pos(), n.Results[i].End(), "nil")
			}
		}
		return true
	})
	return nil
}

// logs reports whether a call only writes to a log.
func logs(call *ast.CallExpr) bool {
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	switch f.Sel.Name {
	case "Debug", "Info", "Warn", "Error", "Log":
		return true
	}
	return false
}

// isError guesses from an expression's name whether it is an error.
func isError(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return strings.HasPrefix(strings.ToLower(e.Name), "err")
	case *ast.SelectorExpr:
		return strings.HasPrefix(e.Sel.Name, "Err")
	case *ast.CallExpr:
		return isError(e.Fun)
	}
	return false
}
