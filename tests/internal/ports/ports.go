// Package ports finds TCP ports for servers that are told their port and cannot be asked for it.
package ports

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// The ports are below those that Linux gives to whoever does not ask for one
// (ip_local_port_range, from 32768): between the look and the server's own bind(2) none of the
// programs that run meanwhile gets one by chance.
const first, beyond = 20_000, 32_000

// Free returns the first of n consecutive ports that nobody uses.
func Free(n int) (int, error) {
	for range 100 {
		port := first + rand.IntN(beyond-first-n)
		if free(port, n) {
			return port, nil
		}
	}
	return 0, errors.New("no free ports")
}

func free(port, n int) bool {
	for i := range n {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port+i))
		if err != nil {
			return false
		}
		defer l.Close()
	}
	return true
}
