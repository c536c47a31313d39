package fs

import (
	"path"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/cardfs/cardfs/reader/core"
)

// Access overrides Options.GID and Options.Mode for some of the slots.
type Access struct {
	ByID string // a pattern of path.Match for the slots' names in by-id
	GID  int    // group of their files; -1: Options.GID
	Mode uint32 // as Options.Mode; 0: the same as Options.Mode
}

// SetAccess replaces Options.Access. Files that are open stay open.
func (s *Server) SetAccess(access []Access) {
	s.mount.access.Store(&access)
	s.top.forgetModes()
}

// modeOf returns the group of a slot's files and the mode of those that may be written. The
// first Access that matches decides.
func (m *mount) modeOf(s *core.Slot) (gid, mode uint32) {
	gid, mode = m.gid, m.mode
	access := m.access.Load()
	if access == nil || len(*access) == 0 {
		return gid, mode
	}
	name := s.ByID()
	for _, a := range *access {
		if fits, _ := path.Match(a.ByID, name); fits {
			return m.apply(a)
		}
	}
	return gid, mode
}

func (m *mount) apply(a Access) (gid, mode uint32) {
	gid, mode = m.gid, m.mode
	if a.GID >= 0 {
		gid = uint32(a.GID)
	}
	if a.Mode != 0 {
		mode = a.Mode & 0o666
	}
	return gid, mode
}

// dirMode lets whoever may read the files in a directory enter it.
func dirMode(mode uint32) uint32 {
	return mode&0o444 | mode&0o444>>2 | 0o700
}

// topMode is the mode of the directories above the slots'. Whoever may use a single slot must
// be able to enter them. These directories belong to the mount's group, so a member of a
// slot's group enters as "other".
func (m *mount) topMode() uint32 {
	top := dirMode(m.mode)
	if access := m.access.Load(); access != nil {
		for _, a := range *access {
			gid, mode := m.apply(a)
			dir := dirMode(mode)
			if gid != m.gid {
				dir = dir&0o705 | dir&0o050>>3
			}
			top |= dir
		}
	}
	return top
}

// forgetModes makes the kernel ask again for the modes of all nodes that it knows.
func (r *root) forgetModes() {
	m := r.mount
	m.dirsMu.Lock()
	dirs := make([]*fs.Inode, 0, len(m.dirs))
	for _, dir := range m.dirs {
		dirs = append(dirs, dir)
	}
	m.dirsMu.Unlock()
	if byID := r.GetChild("by-id"); byID != nil {
		dirs = append(dirs, byID)
	}
	for _, dir := range append(dirs, r.EmbeddedInode()) {
		for _, child := range dir.Children() {
			forgetMode(child)
		}
		forgetMode(dir)
	}
}

// forgetMode makes the kernel ask again for the attributes of a file. It keeps the file's bytes.
func forgetMode(file *fs.Inode) { file.NotifyContent(-1, 0) }
