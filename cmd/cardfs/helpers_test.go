package main

import (
	"bufio"
	"strings"
	"syscall"
	"testing"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/clienttest"
)

type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, syscall.EIO }

func reader1(text string) *bufio.Reader { return bufio.NewReader(strings.NewReader(text)) }

// tree is a mount as clienttest.Tree makes it.
func tree(t *testing.T, files map[string]string) *client.Mount {
	t.Helper()
	return &client.Mount{Dir: clienttest.Tree(t, files)}
}
