package main

import (
	"log/slog"
	"net"
	"os"
)

// notify sends a state such as "READY=1" to the service manager that started this program,
// as sd_notify(3) does. Without a service manager it does nothing.
func notify(state string, log *slog.Logger) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		conn.Close()
	}
	if err != nil {
		log.Warn("tell the service manager", "state", state, "error", err)
	}
}
