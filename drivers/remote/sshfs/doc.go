// Package sshfs mounts a directory of another machine by sshfs, for readers that are plugged in
// there. sshfs and ssh do all of the work; this package starts them with the options that
// cardfs's files need, watches them, and says in words what is wrong:
//
//	m, err := sshfs.Start(ctx, "ssh://user@host/mnt/cards", sshfs.Options{})
//	// … files below m.Dir(), until m.Done() …
//	m.Close()
//
// # Limits
//
// What follows was read in the sources of sshfs 3.7.3 and libfuse 3.14.0, those of Debian 12.
//
// libfuse gives sshfs ten threads. So Calls calls at most are served at once in a Mount, and
// one that waits counts. Whoever has more to wait for starts another Mount.
//
// All opens of one path use the same SFTP connection, and the server answers its requests one
// after the other: two opens of the same file hold up each other. Other files share connections
// when their opens come at the same time. sshfs takes the one with the fewest requests and
// files, but counts a request only when it is sent, and while a connection is being made, which
// takes a login, none is sent (get_conn, sftp_request_send).
//
// A server that waits in a read does not learn that its client has gone. It ends when the read
// does: for a file such as event, at the next event there.
//
// sshfs's option reconnect is not used. It repeats no request, but it puts a new connection
// below the same mount: the next open would reach a server that knows nothing of the opens,
// and of the locks, before it. Here a connection that ends is the end of its Mount.
//
// # Processes
//
// sshfs, its ssh processes and a shell are a process group. The shell waits for the end of a
// pipe which only this process holds, and then kills the group: so all of it ends with this
// process, even if that is killed. (PR_SET_PDEATHSIG would end sshfs alone, not its ssh
// processes, which are no children of sshfs, and would do so too when the thread ends that
// started it.)
//
// Each Mount has a directory of its own below RuntimeDir, which nobody else may enter. It is
// locked as long as this process lives. Start removes those that are not: a killed process
// left them, with a dead mount perhaps.
package sshfs
