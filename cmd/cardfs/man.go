//go:build man

package main

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/cardfs/cardfs/drivers/ccid"
)

//go:embed install/man
var pages embed.FS

// The manual pages, made of the commands' own help, and of the pages in Markdown in
// install/man for what no command says:
//
//	go run -tags man ./cmd/cardfs man DIR
func init() {
	extra = append(extra, func() *cobra.Command {
		return &cobra.Command{
			Use:    "man DIR",
			Short:  "Write the manual pages",
			Hidden: true,
			Args:   args(1, 1, "man wants a directory"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return writePages(cmd.Root(), args[0])
			},
		}
	})
}

func writePages(root *cobra.Command, dir string) error {
	date := time.Now()
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := time.ParseDuration(epoch + "s")
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
		date = time.Unix(int64(seconds/time.Second), 0).UTC()
	}
	header := &doc.GenManHeader{Section: "1", Date: &date, Source: "cardfs", Manual: "Smart-card readers as files"}
	root.DisableAutoGenTag = true
	for _, c := range root.Commands() {
		c.Long = keepLines(c.Long)
	}
	if err := doc.GenManTree(root, header, dir); err != nil {
		return err
	}
	// The topics, which GenManTree leaves out.
	if err := writeTopics(root, dir, date, "cardfs 5", "cardfs - the files of a mounted cardfs", "files", "events", "json", "exit-codes"); err != nil {
		return err
	}
	if err := writeTopics(root, dir, date, "cardfs-recipes 7", "cardfs-recipes - languages, containers, other machines", "recipes"); err != nil {
		return err
	}
	const written = "install/man"
	list, err := pages.ReadDir(written)
	if err != nil {
		return err
	}
	for _, e := range list {
		text, err := pages.ReadFile(path.Join(written, e.Name()))
		if err != nil {
			return err
		}
		text = bytes.Replace(text, []byte("@QUIRKS@"), quirkSettings(), 1)
		text = bytes.Replace(text, []byte(`""`), []byte(`"`+date.Format("Jan 2006")+`"`), 1)
		if err := os.WriteFile(filepath.Join(dir, strings.TrimSuffix(e.Name(), ".md")), md2man.Render(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// quirkSettings lists what [[quirk]] may have, as Markdown.
func quirkSettings() (out []byte) {
	for _, s := range ccid.Settings() {
		out = fmt.Appendf(out, "%s = *%s*\n: %s\n\n", s[0], s[1], s[2])
	}
	return bytes.TrimSpace(out)
}

// writeTopics writes a page of these topics. page is its name and section.
func writeTopics(root *cobra.Command, dir string, date time.Time, page, name string, topics ...string) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s \"%s\" cardfs \"Smart-card readers as files\"\n==\n\n# NAME\n\n%s\n", page, date.Format("Jan 2006"), name)
	for _, topic := range topics {
		c, _, err := root.Find([]string{topic})
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "\n# %s\n\n%s\n", strings.ToUpper(c.Short), indented(c.Long))
	}
	text.WriteString("\n# SEE ALSO\n\n**cardfs(1)**, **cardfs(5)**, **cardfs-recipes(7)**, **flock(2)**, **libifdcardfs(8)**, **libpcsclite-cardfs(8)**\n")
	return os.WriteFile(filepath.Join(dir, strings.ReplaceAll(page, " ", ".")), md2man.Render(text.Bytes()), 0o644)
}

// keepLines makes the indented lines of a help text, as tables are, blocks of Markdown that
// keep their lines.
func keepLines(text string) string { return strings.ReplaceAll(text, "\n  ", "\n    ") }

// indented makes text that is laid out by hand a block of Markdown that keeps its lines.
func indented(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}
