package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version may be set when linking: -X main.version=v1.2.3.
var version string

func newVersion() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of cardfs and of what it is built from",
		Long: `version prints the version of cardfs, the commit and the go-fuse that it is built from,
and the Go that built it. --json prints an object (cardfs help json).`,
		Example:           `  cardfs version`,
		Args:              args(0, 0, "version takes no argument"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), builtFrom())
		}
		return printVersion(cmd.OutOrStdout())
	}
	return cmd
}

// versionName is the version in one word.
func versionName() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// versionJSON is what `cardfs version --json` prints. Every key is always there.
type versionJSON struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`   // "unknown" where it was not built from a repository
	Modified bool   `json:"modified"` // with changes that were not committed
	GoFUSE   string `json:"go_fuse"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

func builtFrom() versionJSON {
	v := versionJSON{Version: versionName(), Commit: "unknown", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && s.Value != "":
			v.Commit = s.Value
		case s.Key == "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/hanwen/go-fuse/v2" {
			v.GoFUSE = m.Version
		}
	}
	return v
}

func printVersion(w io.Writer) error {
	v := builtFrom()
	modified := ""
	if v.Modified {
		modified = " with uncommitted changes"
	}
	_, err := fmt.Fprintf(w, "cardfs %s\ncommit %s%s\ngo-fuse %s\n%s %s/%s\n",
		v.Version, v.Commit, modified, v.GoFUSE, v.Go, v.OS, v.Arch)
	return err
}
