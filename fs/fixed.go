package fs

import "github.com/hanwen/go-fuse/v2/fuse"

// fixed is a tree that programs cannot change: it changes only as readers come and go. It
// refuses every request that would change a directory, for all directories alike.
type fixed struct{ fuse.RawFileSystem }

// Fsync: after one ENOSYS the kernel reports success without asking.
func (t fixed) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status    { return fuse.ENOSYS }
func (t fixed) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.ENOSYS }

// SetAttr accepts what `>` and touch(1) ask for, and changes nothing. It refuses a mode or an
// owner: those are set by the mount.
func (t fixed) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		return fuse.EPERM
	}
	return t.GetAttr(cancel, &fuse.GetAttrIn{InHeader: in.InHeader}, out)
}

// As in procfs and sysfs, where unlink(2), rename(2) and the like say EPERM.

func (t fixed) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return fuse.EPERM
}

func (t fixed) Tmpfile(<-chan struct{}, *fuse.CreateIn, *fuse.CreateOut) fuse.Status {
	return fuse.EPERM
}

func (t fixed) Mknod(<-chan struct{}, *fuse.MknodIn, string, *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

func (t fixed) Mkdir(<-chan struct{}, *fuse.MkdirIn, string, *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

func (t fixed) Symlink(<-chan struct{}, *fuse.InHeader, string, string, *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

func (t fixed) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

func (t fixed) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return fuse.EPERM }
func (t fixed) Rmdir(<-chan struct{}, *fuse.InHeader, string) fuse.Status  { return fuse.EPERM }

func (t fixed) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status {
	return fuse.EPERM
}
