// Package fs shows the readers of a core.Manager as files. It has the nodes of the tree and
// the opens of its files; the FUSE server below them is package fused, in internal/fused.
// It knows no wire bytes: it turns opens, reads, writes, ioctls and locks into calls of the
// core, and the core's errors into errno (errno.go).
//
// # Nodes
//
// A node is what a path leads to, and lives in the tree of go-fuse's package fs. There are
// four kinds: root is the top directory, byID the directory of symbolic links, slotDir the
// directory of one slot, and file every file. What makes one file different from another
// is its spec (slot.go): a table with a line for each name. A slotDir and its files stay
// their slot's after the reader left, and say ENODEV from then on; a reader that comes
// later gets new nodes.
//
// # Opens
//
// Each open of a file has a handle, which belongs to nobody else. There are three kinds:
//
//   - a channel, for apdu, control and ctbcs: commands in, answers out;
//   - a textFile, for files of text whose writes are words (power, protocol, ctl);
//   - a follower, for event and trace: lines that come as things happen.
//
// An open that asks something of a reader has an opening, which remembers the process that
// made it: a lock lets a process and its descendants pass (holder).
//
// # The way of a command
//
//	open   file.Open waits for a card (core.Slot.Open) and makes an apduFile, a channel
//	       with a session
//	write  channel.Write parses lines, checks them, takes room for the commands and their
//	       answers, and queues them; fused.Server.Later has them sent once write(2) has
//	       its answer
//	send   channel.Send, in the goroutine that served the WRITE, gives one command after
//	       the other to core.Session.Transmit. It waits for the slot's turn and for the
//	       lock, and makes a reader.Transfer of it for the driver
//	read   channel.Read waits for the first answer and gives it, as hex or as bytes. The
//	       answer stays until it was delivered
//
// An ioctl does all this in one request, and its answer goes straight into the buffer that
// the kernel copies to the caller (ioctl.go).
//
// # Lock order
//
// A lock is taken only while those before it, or none, are held:
//
//  1. a follower's turn, textFile.mu
//  2. channel.mu, which is held while the close of a channel calls the core
//  3. the locks of package core
//  4. room.mu, holder.mu, advisory.mu, openers.mu, mount.dirsMu: leaves
//
// A wake function, by which the core and a channel report a change to poll(2), may be called
// with any of these held, and takes none of them.
package fs
