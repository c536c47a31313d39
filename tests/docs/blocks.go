// Package docs runs every block of commands in the README, the commands' help and the manual
// pages, in a Debian where systemd runs and the packages are installed.
package docs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// block is a run of lines of a text.
type block struct {
	at   string // where it is, for messages
	lang string // of a fenced block of Markdown: sh, console, python, ini, text
	text string
}

// fenced finds the fenced blocks of Markdown.
func fenced(name, text string) (list []block) {
	var b *block
	for i, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "```") && b == nil:
			b = &block{at: fmt.Sprintf("%s:%d", name, i+1), lang: strings.TrimPrefix(line, "```")}
		case strings.HasPrefix(line, "```"):
			list, b = append(list, *b), nil
		case b != nil:
			b.text += line + "\n"
		}
	}
	return list
}

// indented finds the paragraphs all of whose lines begin with indent, and whose first word is
// that of a command.
func indented(name, text, indent string) (list []block) {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		begin := i
		for i < len(lines) && lines[i] != "" {
			i++
		}
		part := lines[begin:i]
		if len(part) == 0 || slices.ContainsFunc(part, func(l string) bool { return !strings.HasPrefix(l, indent) }) {
			continue
		}
		var b strings.Builder
		for _, line := range part {
			b.WriteString(strings.TrimPrefix(line, indent) + "\n")
		}
		if command.MatchString(b.String()) {
			list = append(list, block{at: fmt.Sprintf("%s:%d", name, begin+1), lang: "sh", text: b.String()})
		}
	}
	return list
}

// tables finds the indented parts that are TOML: they begin with a table, and may have blank
// lines in them.
func tables(name, text, indent string) (list []block) {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		if !strings.HasPrefix(lines[i], indent+"[") {
			continue
		}
		b := block{at: fmt.Sprintf("%s:%d", name, i+1), lang: "toml"}
		for ; i < len(lines) && (lines[i] == "" || strings.HasPrefix(lines[i], indent)); i++ {
			b.text += strings.TrimPrefix(lines[i], indent) + "\n"
		}
		list = append(list, b)
	}
	return list
}

// command is how a line begins that is for a shell.
var command = regexp.MustCompile(`^(\{ |([A-Z_]+=\S+ )?(sudo )?(cardfs|cat|echo|exec|flock|mkdir|sshfs|umount|mount|fusermount3|bwrap|python3|node|systemctl|pcscd|opensc-tool|apt|n=\$|\. <)\b)`)
