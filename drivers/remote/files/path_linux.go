package files

import "golang.org/x/sys/unix"

// pathOnly opens a name, not what it names: no device is touched, and no pipe waits.
const pathOnly = unix.O_PATH
