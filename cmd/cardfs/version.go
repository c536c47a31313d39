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
	return &cobra.Command{
		Use:               "version",
		Short:             "Print the version of cardfs and of what it is built from",
		Example:           `  cardfs version`,
		Args:              args(0, 0, "version takes no argument"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printVersion(cmd.OutOrStdout())
		},
	}
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

func printVersion(w io.Writer) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	commit, modified, fuse := "", "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = " with uncommitted changes"
		}
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/hanwen/go-fuse/v2" {
			fuse = m.Version
		}
	}
	if commit == "" {
		commit = "unknown"
	}
	_, err := fmt.Fprintf(w, "cardfs %s\ncommit %s%s\ngo-fuse %s\n%s %s/%s\n",
		versionName(), commit, modified, fuse, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
